"Kills at random moments: what had finished is whole, and what goes on ends where undisturbed work ends, to the byte. `kills.py` does it."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')

def killed(*args):
    "The harness in a process of its own: it must not fork beside the threads of this one"
    harness = str(Path(__file__).with_name('kills.py'))
    out = subprocess.run([sys.executable, '-W', 'ignore', harness, *map(str, args)], capture_output=True, text=True)
    assert out.returncode==0, out.stderr[-3000:]
    print(args[0], out.stdout.strip())
    return json.loads(out.stdout.splitlines()[-1])

SLOW = pytest.mark.slow # a run's kills are in test_runs too
JOBS = [('data', 3), ('workbook', 3), pytest.param('run', 3, marks=SLOW), pytest.param('cache', 3, marks=SLOW)]

@pytest.mark.parametrize('job, kills', JOBS)
def test_some_kills(job, kills):
    said = killed(job, kills)
    assert said['kills'] >= kills and said['lost']==0

@pytest.mark.slow
@pytest.mark.parametrize('job', ['run', 'data', 'workbook', 'cache'])
def test_a_hundred_kills_and_one_at_each_step(job):
    said = killed(job, 100, 1, 'steps')
    assert said['kills'] >= 100 and said['at_steps'] > 5 and said['lost']==0 and len(said['phases']) > 2
