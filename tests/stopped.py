"""Runs that are killed, met by two processes, or found damaged: `python tests/stopped.py FOLDER` prints what came of it, as JSON.

One process imports everything once and forks a child for each attempt, as `kills.py` does. A child tells when it has ended an epoch."""
# ruff: noqa: E402 (`kills` sets one thread before torch is imported)
import json
import os
import signal
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

from kills import forked  # sets one thread, before torch is imported

warnings.filterwarnings('ignore')
import filelock  # noqa: F401  all that a child would import
import pandas  # noqa: F401

from transfer_course.core import CourseError, sha256
from transfer_course.data.splits import split_by_hash
from transfer_course.data.synthetic import make_pictures
from transfer_course.results.config import Schedule
from transfer_course.results.store import ExternalTest, Run, load_external_tests, read_run, save, save_predictions, score
from transfer_course.train.loop import Experiment, _checkpoint, _load_tensors, _save_tensors

ROOT = Path(sys.argv[1])
make_pictures(ROOT/'shapes', n=48, size=40)

def experiment(): # trains in a second
    return Experiment('own', str(ROOT/'shapes'), lambda ds: split_by_hash(ds, .25, .25), ('pretrained',), (0,), scale='sample',
                      arch='tf_efficientnet_lite0', schedule=Schedule.fine_tune(2), size=32, bs=8)

def at(name):
    "Everything below goes to runs of their own"
    os.environ['TRANSFER_COURSE_RUNS'] = str(ROOT/name)

def to_end():
    forked(lambda: experiment().run_one('pretrained', 0, resume=True, log=lambda *o: None))
    return the_run()

def the_run(): return read_run(next(p for p in (Path(os.environ['TRANSFER_COURSE_RUNS'])/'own').glob('*.json')))

def numbers(run):
    epochs = [{k: v for k, v in asdict(e).items() if 'seconds' not in k} for e in run.epochs]
    return dict(epochs=epochs, predictions=run.predictions().to_csv(), weights=sha256(run.weights_path))

def killed_after(epoch, meanwhile=lambda: None):
    "A run that is killed once it has ended an epoch"
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        def log(run, row):
            os.write(says, f'{row.epoch}\n'.encode())
            if row.epoch == epoch: signal.pause()
        try: experiment().run_one('pretrained', 0, resume=True, log=log)
        finally: os._exit(1)
    os.close(says)
    with os.fdopen(said) as lines:
        assert any(line.strip() == str(epoch) for line in lines), 'it ended before that epoch'
    meanwhile()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return the_run()

def other(work) -> str:
    "What another process says that does `work` at the same time"
    said, says = os.pipe()
    def tell():
        try: work()
        except CourseError as e: os.write(says, str(e).encode())
    forked(tell)
    os.close(says)
    with os.fdopen(said) as text: return text.read()

found = {}
at('through')
run = to_end()
found['through'] = numbers(run)

# a finished run whose JSON is lost, with an external test of its weights: it runs again, and the test goes
rows = run.predictions()
test = ExternalTest('own', run.name, 'elsewhere', score(rows[rows.part == 'valid'], list(run.classes)), run.data)
save_predictions(test, rows.assign(part='external_test'))
save(test)
run.path.unlink()
found['again'] = numbers(to_end())
found['external_tests'] = len(load_external_tests('own', own=True))

# killed after its first epoch, while another process looks in; its JSON cut short; killed after its second; gone on with by other code
at('killed')
def meet(): found['second'] = other(lambda: experiment().run_one('pretrained', 0, resume=True))
found['stopped'] = [killed_after(0, meet)]
the_run().path.write_text(the_run().path.read_text()[:300])
found['stopped'].append(run := killed_after(1))
found['stopped'] = [(r.status, len(r.epochs)) for r in found['stopped']]
tensors, words = _load_tensors(_checkpoint(run), run)
old = Run.from_dict(words['run'])
words['run'] = replace(old, code=replace(old.code, commit='0'*12, dirty=False)).to_dict()
_save_tensors(_checkpoint(run), tensors, **words)
run = to_end()
found |= dict(killed=numbers(run), dirty=run.code.dirty)
print(json.dumps(found))
