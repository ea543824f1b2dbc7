# transfer_course. `make` alone lists what there is.
# Everything runs from .venv; nothing asks you to activate it. PYTHON=… names the Python to make it from, TORCH=cpu|cuda says which torch.
SHELL  := /bin/sh
PYTHON ?=
TORCH  ?=
FLAGS  ?=
NB     ?=
CHAPTER ?= flowers
BIN    := .venv/bin
STAMP  := .venv/.set-up
SYNC   := $(BIN)/python tools/sync.py
RUFF   := $(BIN)/ruff check --quiet transfer_course tools tests docs setup.py
# One notebook a core, eight at most, is tested at a time: their threads share the machine.
SHARE   = OMP_NUM_THREADS=$$($(BIN)/python -c 'import os; n = os.cpu_count() or 1; print(max(1, n//min(n, 8)))')
# $(call timed,name,command): run a command and say how long it took
timed   = t0=$$(date +%s); { $(2); }; rc=$$?; echo "$(1): $$(($$(date +%s) - t0)) s"; exit $$rc

.PHONY: help course test lab bench runs gpu check export render readme docs newest setup clean

help:
	@echo 'make course   set up, then train on 300 flowers: a pretrained network beside a random one (CHAPTER=pets for another chapter)'
	@echo 'make test     set up, then check everything: in sync, style, notebooks, tests (FLAGS="slow real" adds flagged cells)'
	@echo 'make lab      set up, then open copies of the notebooks, to work in, in JupyterLab (workbook/)'
	@echo 'make runs     work through the runs of the course that are missing; stop and go on as you like (hours)'
	@echo 'make bench    measure against plain fastai on this machine, with nothing else running (an hour)'
	@echo 'make gpu      on a machine with a GPU: the cells that want one, and the runs that two cores take too long for; stop and go on as you like'
	@echo 'make export   modules, README.md and BOARD.md from the notebooks, and clean notebooks, after an edit'
	@echo 'make render   run the pages and save them with their figures (NB="nbs/course.ipynb" for one, FLAGS="real" adds flagged cells)'
	@echo 'make check    are modules, notebooks, README.md and BOARD.md in sync? Is the style right?'
	@echo 'make readme   README.md from nbs/index.ipynb, BOARD.md from the results'
	@echo 'make docs     the site, into _docs/html: all notebooks with their saved figures, and a page of all names'
	@echo 'make newest   build the wheel and try it with nothing but its requirements, each at its newest'
	@echo 'make setup    .venv alone; TORCH=cpu leaves NVIDIA libraries out of it, TORCH=cuda takes them'
	@echo 'make clean    remove what builds and tests leave behind (your runs and .venv stay)'

course: $(STAMP)
	@$(BIN)/transfer_course run $(CHAPTER) --scale sample --seeds 1

test: $(STAMP)
	@$(call timed,sync,$(SYNC))
	@$(call timed,ruff,$(RUFF))
	@flags='$(FLAGS)'; \
	if nvidia-smi -L >/dev/null 2>&1 && $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then flags="$$flags cuda"; fi; \
	echo "nbdev_test --timing --flags '$$flags'"; \
	$(call timed,notebooks,$(SHARE) $(BIN)/nbdev_test --timing --flags "$$flags")
	@$(call timed,tests,$(BIN)/python -m pytest -q --durations 10 $(if $(findstring slow,$(FLAGS)),--slow) tests)

lab: $(STAMP)
	@$(BIN)/transfer_course workbook workbook; cd workbook && ../$(BIN)/jupyter lab

bench: $(STAMP)
	@$(BIN)/python tools/bench.py

gpu: $(STAMP)
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "There is no GPU here that torch can use.")'
	$(SHARE) $(BIN)/nbdev_test --timing --flags "$(FLAGS) cuda"
	$(BIN)/transfer_course run captcha --scale full --arch tf_efficientnet_lite0 --seeds 3 --resume --commit
	$(BIN)/transfer_course run dogs_vs_cats --scale quick --arch inception_v3 --epochs 100 --seeds 3 --resume --commit
	$(BIN)/transfer_course run pets --scale quick --epochs 30 --seeds 3 --resume --commit
	$(BIN)/transfer_course run pets --scale quick --arch inception_v3 --size 200 --epochs 30 --seeds 3 --resume --commit
	$(BIN)/transfer_course run flowers --scale quick --arch resnet18 --seeds 3 --resume --commit

runs: $(STAMP)
	@$(BIN)/transfer_course runs --missing

check: $(STAMP)
	@$(SYNC)
	@$(RUFF)

export: $(STAMP)
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(SYNC) readme

render: $(STAMP)
	@$(SYNC) render $(NB) --flags '$(FLAGS)'

readme: $(STAMP)
	@$(SYNC) readme

# Sphinx has an environment of its own; what it renders, the course's own makes.
docs: $(STAMP) .venv-docs/.set-up
	@rm -rf _docs
	@$(BIN)/python -W ignore tools/site.py _docs/pages
	@.venv-docs/bin/sphinx-build -W --keep-going -q -b html -c docs -d _docs/doctrees _docs/pages _docs/html
	@.venv-docs/bin/python docs/check_site.py _docs/html
	@echo 'Open _docs/html/index.html'

.venv-docs/.set-up: docs/requirements.txt | $(STAMP)
	@echo 'Setting up .venv-docs: Sphinx, MyST-NB and a theme, about 60 MB.'
	@rm -rf .venv-docs; uv=$$(command -v uv || command -v $(BIN)/uv || true); \
	if [ -n "$$uv" ]; then "$$uv" venv --quiet --python $(BIN)/python .venv-docs && "$$uv" pip install --quiet --python .venv-docs/bin/python -r docs/requirements.txt; \
	else $(BIN)/python -m venv .venv-docs && .venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt; fi && \
	touch $@

# Far from the checkout, so that the installed package is what is tried: the helpers with their requirements alone, then the notebooks with the extra too.
newest: $(STAMP)
	@rm -rf build .venv-newest; mkdir build
	@$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . >build/log 2>&1 || { cat build/log; exit 1; }
	@uv=$$(command -v uv || command -v $(BIN)/uv || true); \
	if [ -n "$$uv" ]; then "$$uv" venv --quiet --python $(BIN)/python .venv-newest; install="$$uv pip install --quiet --python .venv-newest/bin/python $(if $(filter cpu,$(TORCH)),--torch-backend cpu)"; \
	else $(BIN)/python -m venv .venv-newest; install='.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check'; fi; \
	for extra in '' '[course]'; do \
	  $$install "$$(ls build/wheel/*.whl)$$extra" pytest && (cd build/wheel && ../../.venv-newest/bin/python -m pytest -q --noconftest -p no:cacheprovider ../../tests/newest.py) || exit 1; \
	done

setup: $(STAMP)
	@:

# How .venv is made. What pip and uv say goes into a log, which is shown if they fail.
define SET_UP
case '$(TORCH)' in ''|cpu|cuda) ;; *) echo 'TORCH is cpu, cuda or nothing, not "$(TORCH)".'; exit 1;; esac
for p in '$(PYTHON)' python3.11 python3.12 python3.13 python3 python; do
  if [ -n "$$p" ] && "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi
done
uv=$$(command -v uv || true)
if [ -z "$$python$$uv" ]; then
  echo 'Python 3.11 or later is needed and was not found: install it, or name one with make PYTHON=/path/to/python3.'; exit 1
fi
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then
  if [ -n "$$uv" ]; then "$$uv" venv --quiet --seed --allow-existing --python "$${python:-3.11}" .venv || exit 1
  else "$$python" -m venv --clear .venv || { echo 'Python could not make .venv: on Debian and Ubuntu the package python3-venv is missing.'; exit 1; }; fi
fi
torch='$(TORCH)'
large='about 3 GB (6 GB installed)'
small='about 0.5 GB (2 GB installed)'
if [ "$$(uname)" = Darwin ]; then size=$$small
elif [ "$$torch" = cpu ]; then size="$$small, without NVIDIA libraries"
elif [ "$$torch" = cuda ] || nvidia-smi -L >/dev/null 2>&1; then size="$$large, most of it libraries for NVIDIA GPUs"
elif { [ -n "$$uv" ] || { $(BIN)/python -m pip install --quiet uv >/dev/null 2>&1 && uv=$(BIN)/uv; }; } && $(PROBE) >/dev/null 2>&1; then torch=cpu; size="$$small: no NVIDIA GPU here, so torch comes without its libraries (TORCH=cuda takes them)"
else size="$$large: no NVIDIA GPU here, but the index of the smaller torch can't be reached"; fi
echo "Setting up .venv: PyTorch, fastai, JupyterLab and a small pretrained network, $$size."
log=.venv/set-up.log
ticker=
hush() { [ -z "$$ticker" ] || { kill $$ticker; ticker=; printf '\r        \r'; }; }
if [ -t 1 ]; then # a sign of life
  (s=0; while sleep 1; do s=$$((s+1)); printf '\r%s s ' $$s; done) & ticker=$$!
  trap 'hush; exit 130' INT TERM
fi
{ if [ "$$torch" = cpu ]; then # pip can't choose a torch, uv can
    if [ -z "$$uv" ]; then $(BIN)/python -m pip install uv && uv=$(BIN)/uv; fi &&
    "$$uv" pip install --python $(BIN)/python --torch-backend cpu -e '.[dev]'
  elif [ -n "$$uv" ]; then "$$uv" pip install --python $(BIN)/python -e '.[dev]'
  else $(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'; fi
} >$$log 2>&1 || { hush; echo "The set-up failed. The end of $$log:"; tail -n 30 $$log; exit 1; }
hush
touch $(STAMP)
echo 'Set up.'
endef
export SET_UP
# Does the index of torch for CPUs answer? Three seconds at most, however long a name server takes.
PROBE = UV_HTTP_TIMEOUT=3 UV_HTTP_RETRIES=0 "$$uv" pip install --dry-run --no-deps --reinstall --python $(BIN)/python --torch-backend cpu torch

# Made again when the requirements change; what is installed already is not fetched again.
$(STAMP): settings.ini setup.py
	@sh -c "$$SET_UP"

clean:
	rm -rf build dist _proc _docs .pytest_cache .ruff_cache *.egg-info
	find nbs tests tools transfer_course -name __pycache__ -prune -exec rm -rf {} +
	find nbs -name .ipynb_checkpoints -prune -exec rm -rf {} +
