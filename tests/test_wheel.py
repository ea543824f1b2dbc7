"The wheel carries all that the course reads, and works far from the checkout; nothing is fetched."
import json, os, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {'.git', '.venv', '.venv-docs', '.venv-newest', 'runs', 'workbook', 'build', 'dist', '_docs', '__pycache__', '.pytest_cache'}

def visible(top):
    "Relative names of the files below ROOT/top that should travel"
    files = [o.relative_to(ROOT) for o in (ROOT/top).rglob('*') if o.is_file()]
    return {o.as_posix() for o in files if not any(p.startswith(('.', '__')) for p in o.parts)}

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A source archive and the wheel made from it, out of a copy of the checkout with some litter in it"
    tmp = tmp_path_factory.mktemp('wheel')
    copy = shutil.copytree(ROOT, tmp/'course', ignore=lambda d, names: [o for o in names if o in LEFT_OUT or o.endswith('.egg-info')])
    for litter in ('runs/flowers/mine.json', 'workbook/01_flowers.ipynb', 'workbook/.course/01_flowers.ipynb', 'nbs/.ipynb_checkpoints/a-checkpoint.ipynb', 'nbs/lib/__pycache__/a.pyc', 'data/.DS_Store', 'data/.a.12-ab.part.json'):
        (copy/litter).parent.mkdir(parents=True, exist_ok=True)
        (copy/litter).write_text('litter')
    done = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(tmp/'dist'), str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return tmp/'dist'

@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    "The wheel, installed into a folder of its own"
    dest = tmp_path_factory.mktemp('far')/'site'
    wheel, = built.glob('*.whl')
    done = subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--target', str(dest), str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dest

def run_far(installed, code, cwd):
    "Run code in a folder far away, with the installed package and without the checkout"
    env = {k: v for k,v in os.environ.items() if k not in ('TRANSFER_COURSE_RUNS', 'IN_TEST')}
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, env=env | dict(PYTHONPATH=str(installed)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

def test_wheel_holds_what_is_read(built):
    wheel, = built.glob('*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    for top in ('data', 'nbs'):
        assert visible(top) == {o.removeprefix('transfer_course/course/') for o in names if o.startswith(f'transfer_course/course/{top}/')}
    for o in (ROOT/'transfer_course').glob('*.py'): assert f'transfer_course/{o.name}' in names
    assert not any('litter' in o or 'checkpoint' in o or '.part' in o or 'pycache' in o or '/runs/' in o or '/tests/' in o for o in names)
    assert {o.split('/')[0].split('-')[0] for o in names} == {'transfer_course'}
    size = wheel.stat().st_size/2**20
    print(f'wheel: {size:.2f} MiB, {len(names)} files')
    assert size < 25

def test_source_archive(built):
    import tarfile
    archive, = built.glob('*.tar.gz')
    names = {o.partition('/')[2] for o in tarfile.open(archive).getnames()}
    assert {'settings.ini', 'setup.py', 'LICENSE', 'README.md', 'nbs/index.ipynb', 'tests/test_wheel.py', 'transfer_course/core.py'} <= names
    assert visible('data') | visible('nbs') <= names
    assert not any(o.startswith(('runs', 'workbook')) or 'checkpoint' in o or '.part' in o or '.DS_Store' in o for o in names)

def test_used_far_from_the_checkout(installed, tmp_path):
    code = '''
import json
from transfer_course.core import *
from transfer_course.results.provenance import *
from transfer_course.train.numerics import *
import transfer_course
print(json.dumps(dict(package=transfer_course.__file__, runs=str(runs_path('flowers')), claims=course_path('data', 'claims.toml').exists(),
    sample=len([o for o in course_path('data', 'sample').rglob('*.jpg')]), results=len(list(course_path('data', 'results').rglob('*.json'))),
    index=course_path('nbs', 'index.ipynb').exists(), scale=get_scale('quick'), code=list(code_state(['core'])['modules']))))'''
    said = json.loads(run_far(installed, code, tmp_path))
    assert Path(said['package']).is_relative_to(installed)
    assert Path(said['runs']) == tmp_path/'runs'/'flowers' and not (tmp_path/'runs').exists()
    assert said['index'] and said['code'] == ['core'] and said['scale'] == 'quick'
    assert said['claims'] == (ROOT/'data'/'claims.toml').exists()
    assert said['sample'] == len(list((ROOT/'data'/'sample').rglob('*.jpg')))
    assert said['results'] == len(list((ROOT/'data'/'results').rglob('*.json')))

def test_pictures_far_from_the_checkout(installed, tmp_path):
    run_far(installed, "from transfer_course.pictures import *\nmake_pictures('a', 3)\nodd_files('b')", tmp_path)
    assert len(list(tmp_path.rglob('*.jpg'))) > 3

def test_house_says_that_it_needs_a_checkout(installed, tmp_path):
    out = run_far(installed, "from transfer_course.house import *\ntry: check_sync()\nexcept CourseError as e: print(e)\n".replace('*', 'check_sync, CourseError'), tmp_path)
    assert 'is no checkout of the course' in out
