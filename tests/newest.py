"""The installed wheel with nothing but its requirements, each at its newest: every module imports, a learner trains, is exported
and loads in another process. With the extra `course` on top, the library's notebooks run too.

Not a part of `make test`, whose versions are pinned. `make newest` builds the wheel and runs this twice, without and with the extra,
in an environment of its own; the weekly workflow does too.
"""
import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import transfer_course

PACKAGE = Path(transfer_course.__file__).parent
if (PACKAGE.parent/'settings.ini').exists():
    pytest.skip('this is a checkout; these tests are for an installed wheel: make newest', allow_module_level=True)

FOLDERS = {f'{o}.': str(PACKAGE/o) for o in ('data', 'results', 'train', 'chapters')}
MODULES = sorted(o.name for prefix,folder in {'': str(PACKAGE), **FOLDERS}.items()
                 for o in pkgutil.iter_modules([folder], prefix) if not o.ispkg and o.name != '_modidx')
NOTEBOOKS = sorted(o.name for o in (PACKAGE/'course'/'nbs'/'lib').glob('*.ipynb'))
LEFT_OUT = {'00_core.ipynb': 'it looks for the checkout'} # their modules are imported only
EXTRA = importlib.util.find_spec('jupyterlab')

def python(*args, cwd, **env):
    "A fresh process; what it printed"
    env = {k: v for k,v in os.environ.items() if not k.startswith('TRANSFER_COURSE')} | dict(MPLBACKEND='agg') | env
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout

def command(*args, cwd): return python('-m', 'transfer_course.cli', *map(str, args), cwd=cwd)

def test_nothing_for_makers_is_installed(): assert not importlib.util.find_spec('nbdev')

@pytest.mark.parametrize('name', MODULES)
def test_module_imports(name, tmp_path):
    out = python('-c', f'import transfer_course.{name} as m\nprint(all(hasattr(m, o) for o in m.__all__))', cwd=tmp_path)
    assert out.split()[-1] == 'True'

RUN_CELLS = """
import json, re, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(open(sys.argv[1], encoding='utf-8'))['cells']:
    source = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or re.search(r'^#\\|\\s*(slow|cuda|real)\\b|^#\\|\\s*eval:\\s*false', source, re.M): continue
    if not shell.run_cell(source).success: sys.exit(f'failed: {source[:200]}')
"""

@pytest.mark.skipif(not EXTRA, reason='the notebooks need the extra `course`')
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_runs(name, tmp_path):
    path = PACKAGE/'course'/'nbs'/'lib'/name
    if name in LEFT_OUT: pytest.skip(LEFT_OUT[name])
    python('-c', RUN_CELLS, str(path), cwd=tmp_path, IN_TEST='1', TRANSFER_COURSE_RUNS=str(tmp_path/'runs'))

@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A folder with pictures of two kinds"
    from transfer_course.data.synthetic import make_pictures
    folder = tmp_path_factory.mktemp('work')
    make_pictures(folder/'shapes', 40, classes=['red-circle', 'blue-square'], size=48)
    return folder

@pytest.fixture(scope='module')
def run(work):
    "A run of all arms, from the command line; the name of one that can predict"
    options = '--weights random --arch resnet18 --epochs 1 --size 32 --bs 8 --seeds 1'.split()
    out = command('run', '--data', 'shapes', *options, cwd=work)
    assert 'pretrained' in out and 'random' in out
    return next((work/'runs'/'own').glob('*-pretrained-s0.json')).stem

def test_help_needs_nothing_heavy(tmp_path):
    code = """
import sys
from transfer_course.cli import main
try: main(['--help'])
except SystemExit: print(sorted({'torch', 'fastai', 'pandas', 'matplotlib'} & set(sys.modules)))"""
    out = python('-c', code, cwd=tmp_path)
    assert 'usage: transfer_course' in out and out.strip().endswith('[]')

def test_commands_answer(work):
    assert 'flowers' in command('data', cwd=work)
    assert 'holds' in command('claims', cwd=work)
    assert 'runs are missing' in command('runs', '--list', cwd=work)

def test_learner_on_the_sample(tmp_path):
    code = """
from transfer_course.core import *
from transfer_course.data.sets import get_data
from transfer_course.data.splits import split_sample
from transfer_course.train.models import picture_loaders, transfer_learner
ds = get_data('flowers', 'sample')
seed_everything(0)
dls = picture_loaders(ds, split_sample(ds), size=32, bs=32)
seed_everything(0)
learn = transfer_learner(dls, 'tf_efficientnet_lite0', 'random')
with learn.no_bar(), learn.no_logging(): learn.fine_tune(1)
print(len(ds.names), learn.validate()[1])"""
    n,accuracy = python('-c', code, cwd=tmp_path).splitlines()[-1].split()
    assert n == '300' and 0 <= float(accuracy) <= 1

def test_exported_learner_in_another_process(work, run):
    "The same answer from the run and from the exported file, which knows nothing of the run"
    picture = next((work/'shapes').rglob('*.jpg')).relative_to(work)
    said = command('predict', run, picture, cwd=work).split()
    command('export', run, 'net.pkl', cwd=work)
    code = f"""
from fastai.learner import load_learner
learn = load_learner('net.pkl')
with learn.no_bar(): c,i,p = learn.predict('{picture.as_posix()}')
print(c, float(p[i]))"""
    pred,confidence = python('-c', code, cwd=work).split()[-2:]
    assert pred == said[0]
    assert abs(float(confidence) - float(said[1])) < .02 # the run computes in the precision of its training, the exported net in single
