"For the makers of the course: what they run in a checkout. The package does not need it, and the wheel does not hold it."
