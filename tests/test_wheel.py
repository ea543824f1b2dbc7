"The wheel carries all that the course reads, and works far from the checkout; nothing is fetched."
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {'.git', '.venv', '.venv-docs', '.venv-newest', 'runs', 'workbook', 'build', 'dist', '_docs', '__pycache__', '.pytest_cache'}
LITTER = ('runs/flowers/mine.json', 'workbook/01_flowers.ipynb', 'nbs/.ipynb_checkpoints/a-checkpoint.ipynb', 'nbs/lib/__pycache__/a.pyc',
          'data/.DS_Store', 'data/.a.12-ab.part.json')

def visible(top, suffix=''):
    "Relative names of the files below ROOT/top that should travel"
    files = [o.relative_to(ROOT) for o in (ROOT/top).rglob(f'*{suffix}') if o.is_file()]
    return {o.as_posix() for o in files if not any(p.startswith('.') or p == '__pycache__' for p in o.parts)}

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A source archive and the wheel made from it, once, out of a copy of the checkout with some litter in it"
    tmp = tmp_path_factory.mktemp('wheel')
    copy = shutil.copytree(ROOT, tmp/'course', ignore=lambda d, names: [o for o in names if o in LEFT_OUT or o.endswith('.egg-info')])
    for litter in LITTER:
        (copy/litter).parent.mkdir(parents=True, exist_ok=True)
        (copy/litter).write_text('litter')
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(tmp/'dist'), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tmp/'dist'

@pytest.fixture(scope='module')
def wheel(built):
    path, = built.glob('*.whl')
    return path

@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "The wheel in a folder of its own: a pure wheel is a zip of what is installed"
    dest = tmp_path_factory.mktemp('far')/'site'
    zipfile.ZipFile(wheel).extractall(dest)
    return dest

def run_far(installed, code, cwd):
    "Run code in a folder far away, with the installed package and without the checkout"
    env = {k: v for k,v in os.environ.items() if k not in ('TRANSFER_COURSE_RUNS', 'IN_TEST')} | dict(PYTHONPATH=str(installed))
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

def test_wheel_holds_what_is_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ('data', 'nbs'):
        assert visible(top) == {o.removeprefix('transfer_course/course/') for o in names if o.startswith(f'transfer_course/course/{top}/')}
    assert not any('litter' in o or 'checkpoint' in o or '.part' in o or 'pycache' in o or '/runs/' in o for o in names)
    assert wheel.stat().st_size < 25*2**20

def test_wheel_holds_all_sub_packages_and_no_tools(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = visible('transfer_course', '.py')
    assert {f'transfer_course/{o}/__init__.py' for o in ('data', 'results', 'train', 'chapters')} <= modules
    assert modules == {o for o in names if o.endswith('.py') and not o.startswith('transfer_course/course/')}
    assert {o.split('/')[0].split('-')[0] for o in names} == {'transfer_course'} # nothing of tools/ or tests/

def test_source_archive(built):
    archive, = built.glob('*.tar.gz')
    names = {o.partition('/')[2] for o in tarfile.open(archive).getnames()}
    texts = {'settings.ini', 'setup.py', 'Makefile', 'LICENSE', 'README.md', 'BOARD.md', 'CONTRIBUTING.md', 'CHANGELOG.md'}
    assert texts | {'tests/test_wheel.py'} <= names
    for top in ('data', 'nbs', 'tools', 'transfer_course'): assert visible(top) <= names
    assert not any(o.startswith(('runs', 'workbook')) or 'checkpoint' in o or '.part' in o or '.DS_Store' in o for o in names)

FAR = """
import json
import transfer_course
from transfer_course.core import *
from transfer_course.data.synthetic import *
from transfer_course.results.provenance import *
from transfer_course.results.store import *
make_pictures('a', 3)
print(json.dumps(dict(package=transfer_course.__file__, runs=str(runs_path('flowers')), claims=course_path('data', 'claims.toml').exists(),
    sample=len(list(course_path('data', 'sample').rglob('*.jpg'))), runs_kept=len(load_runs('flowers', own=False)),
    index=course_path('nbs', 'index.ipynb').exists(), commit=code_state().commit)))
"""

def test_used_far_from_the_checkout(installed, tmp_path):
    found = json.loads(run_far(installed, FAR, tmp_path))
    assert Path(found['package']).is_relative_to(installed)
    assert Path(found['runs']) == tmp_path/'runs'/'flowers' and not (tmp_path/'runs').exists()
    assert found['index'] and found['claims'] and found['runs_kept'] and found['commit'] is None
    assert found['sample'] == len(list((ROOT/'data'/'sample').rglob('*.jpg'))) == 300
    assert len(list((tmp_path/'a').rglob('*.jpg'))) == 3

def test_older_imports_work_for_one_version(installed, tmp_path):
    code = """
from fastai.learner import Learner
import transfer_course.models as old, transfer_course.train.models as new
from transfer_course.precompute import *
assert hasattr(Learner, 'precompute') and old.picture_loaders is new.picture_loaders and set(new.__all__) <= set(old.__all__)
"""
    run_far(installed, code, tmp_path)

def test_a_tool_says_that_it_needs_a_checkout(installed, tmp_path):
    code = "from transfer_course.cli import main\nprint(main(['bench']))"
    assert run_far(installed, code, tmp_path).split()[-1] == '2'
