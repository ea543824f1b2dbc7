"The check finds every fault that is planted in a copy of the course, and writes nothing; the README is the same each time; the command line starts without torch."
import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest
from transfer_course.core import CourseError, sha256
from transfer_course.house import check_sync, main, make_readme

ROOT = Path(__file__).resolve().parents[1]
PICTURES = 'nbs/lib/10_pictures.ipynb'

@pytest.fixture
def copy(tmp_path):
    "What is checked, in a folder of its own, without git: as in an unpacked archive"
    root = tmp_path/'un packed'
    for o in ('nbs', 'transfer_course', 'README_files'):
        if (ROOT/o).exists(): shutil.copytree(ROOT/o, root/o, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for o in ('settings.ini', 'pyproject.toml', 'README.md'): shutil.copyfile(ROOT/o, root/o)
    return root

def state(root): return {o.relative_to(root).as_posix(): (sha256(o), o.stat().st_mtime_ns) for o in root.rglob('*') if o.is_file()}

def edit(path, change):
    "Change a notebook and save it as nbdev would"
    nb = json.loads(path.read_text(encoding='utf-8'))
    change(nb)
    path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n', encoding='utf-8')

def last_code(nb): return [o for o in nb['cells'] if o['cell_type'] == 'code'][-1]
def say(nb, text): last_code(nb)['outputs'] = [dict(output_type='stream', name='stdout', text=[text])]

def test_in_sync_and_nothing_written(copy):
    (copy/'nbs/.ipynb_checkpoints').mkdir()
    (copy/'nbs/.ipynb_checkpoints/old-checkpoint.ipynb').write_text('{')
    (copy/'transfer_course/__pycache__').mkdir()
    (copy/'transfer_course/__pycache__/gone.py').write_text('')
    before = state(copy)
    assert check_sync(copy) == []
    assert state(copy) == before

def plant_edited_module(root): (root/'transfer_course/pictures.py').open('a').write('\nx = 1\n')
def plant_not_exported(root): edit(root/PICTURES, lambda nb: nb['cells'][3].update(source=[*nb['cells'][3]['source'], '\nX = 1']))
def plant_missing_module(root): (root/'transfer_course/pictures.py').unlink()
def plant_renamed(root): edit(root/PICTURES, lambda nb: nb['cells'][1].update(source=['#| default_exp drawings']))
def plant_metadata(root): edit(root/PICTURES, lambda nb: nb['metadata'].update(language_info=dict(name='python', version='3.11.7')))
def plant_cell_metadata(root): edit(root/PICTURES, lambda nb: nb['cells'][0]['metadata'].update(collapsed=True))
def plant_counts(root): edit(root/PICTURES, lambda nb: last_code(nb).update(execution_count=12))
def plant_address(root): edit(root/PICTURES, lambda nb: say(nb, '<object at 0x7f0000000000>\n'))
def plant_readme(root): (root/'README.md').open('a').write('by hand\n')
def plant_index(root): edit(root/'nbs/index.ipynb', lambda nb: nb['cells'][0].update(source=['# Another title\n', '\n', '> subtitle']))
def plant_no_readme(root): (root/'README.md').unlink()
def plant_figure(root):
    (root/'README_files').mkdir(exist_ok=True)
    (root/'README_files/README_99_0.png').write_bytes(b'old')
def plant_error(root): edit(root/PICTURES, lambda nb: last_code(nb).update(outputs=[dict(output_type='error', ename='OSError', evalue='no file', traceback=['x'])]))
def plant_home(root): edit(root/PICTURES, lambda nb: say(nb, 'saved to /home/ann/course/runs\n'))
def plant_tmp(root): edit(root/PICTURES, lambda nb: say(nb, "PosixPath('/tmp/tmp1a2b/x.jpg')\n"))
def plant_warning(root): edit(root/PICTURES, lambda nb: say(nb, '/srv/venv/lib/python3.11/site-packages/fastai/layers.py:3: FutureWarning\n'))
def plant_large(root): edit(root/PICTURES, lambda nb: last_code(nb).update(outputs=[dict(output_type='display_data', metadata={}, data={'image/png': 'A'*(2**21+1)})]))
def plant_cut(root): (root/PICTURES).write_text((root/PICTURES).read_text(encoding='utf-8')[:5000], encoding='utf-8')
def plant_merge(root): (root/PICTURES).write_text('<<<<<<< HEAD\n' + (root/PICTURES).read_text(encoding='utf-8'), encoding='utf-8')
def plant_syntax(root): edit(root/PICTURES, lambda nb: nb['cells'][3].update(source=['#| export\n', 'def broken(:']))
def plant_settings(root): (root/'settings.ini').write_text((root/'settings.ini').read_text(encoding='utf-8').replace('min_python = 3.11', 'min_python = 3.12'), encoding='utf-8')
def plant_version(root): (root/'transfer_course/__init__.py').write_text('__version__ = "9.9"\n')

FAULTS = [
    (plant_edited_module, 'transfer_course/pictures.py differs from what the notebooks export: run `make export`'),
    (plant_not_exported, 'transfer_course/pictures.py differs'),
    (plant_missing_module, 'transfer_course/pictures.py is missing: run `make export`'),
    (plant_renamed, 'transfer_course/pictures.py is made by no notebook'),
    (plant_metadata, f'{PICTURES} holds metadata'), (plant_cell_metadata, f'{PICTURES} holds metadata'),
    (plant_counts, f'{PICTURES} holds metadata or execution counts'), (plant_address, f'{PICTURES} holds metadata'),
    (plant_readme, 'README.md is stale: run `make readme`'), (plant_index, 'README.md is stale'), (plant_no_readme, 'README.md is missing: run `make readme`'),
    (plant_figure, 'README_files/README_99_0.png is made by no notebook'),
    (plant_error, 'was saved with an error (OSError: no file)'),
    (plant_home, 'shows a path of this machine in its output (/home/ann/course/runs)'), (plant_tmp, '/tmp/tmp1a2b/x.jpg'), (plant_warning, 'site-packages/fastai'),
    (plant_large, 'MiB, and 2 are allowed'), (plant_cut, f'{PICTURES} is no notebook'), (plant_merge, f'{PICTURES} is no notebook'),
    (plant_syntax, "can't be exported"), (plant_settings, 'pyproject.toml is stale'), (plant_version, 'transfer_course/__init__.py differs')]

@pytest.mark.parametrize('plant,said', FAULTS, ids=[p.__name__ for p,_ in FAULTS])
def test_each_fault_is_found(copy, plant, said):
    plant(copy)
    before = state(copy)
    found = check_sync(copy)
    assert any(said in o for o in found), found
    assert all(o.endswith('.') or 'nbdev_update' in o for o in found)
    assert state(copy) == before

def test_figures_saved_on_purpose_stay(copy):
    nb = json.loads((copy/PICTURES).read_text(encoding='utf-8'))
    assert any('image/png' in o.get('data', {}) for c in nb['cells'] for o in c.get('outputs', []))
    assert check_sync(copy) == []

def test_readme_is_the_same_each_time(tmp_path):
    a,b = make_readme(tmp_path/'a'), make_readme(tmp_path/'b')
    assert state(tmp_path/'a').keys() == state(tmp_path/'b').keys()
    assert a.read_bytes() == b.read_bytes() == (ROOT/'README.md').read_bytes()
    text = a.read_text(encoding='utf-8')
    assert text.startswith('# transfer_course') and '#|' not in text

def test_readme_shows_the_board_as_it_is_today():
    from transfer_course.results.claims import board
    from transfer_course.cli import chapters
    from transfer_course.results.report import board_markdown
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert {v.claim.article for v in board()} == set(chapters())
    for name in chapters():
        count, _, table = board_markdown(board(name), again=True).partition('\n')
        assert count in text and table.strip() in text, f'the board of {name} changed: make render NB=nbs/index.ipynb, then make readme'


def test_links_of_the_readme_lead_somewhere():
    import re
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    for o in re.findall(r'\]\(([^)\s]+)\)', text):
        if '://' not in o and not o.startswith('#'): assert (ROOT/o).exists(), o

def test_exit_codes_and_elsewhere(tmp_path):
    assert main(['snyc']) == 1
    with pytest.raises(CourseError, match='is no checkout'): check_sync(tmp_path)
    done = subprocess.run([sys.executable, '-m', 'transfer_course.house', 'sync'], cwd=tmp_path, capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert done.returncode in (0, 1) and done.stdout and not done.stderr

def loaded(code):
    "Which heavy modules a fresh process has loaded after `code`"
    probe = f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint([o for o in ('torch','fastai','numpy','pandas','matplotlib','nbdev') if o in sys.modules])"
    done = subprocess.run([sys.executable, '-c', probe], capture_output=True, text=True, env=os.environ | dict(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]

def test_light_modules_load_no_torch():
    assert loaded('import transfer_course.core, transfer_course.pictures, transfer_course.house') == '[]'

def test_help_loads_no_torch():
    assert loaded("sys.argv = ['transfer_course', '--help']; from transfer_course.cli import main; main()") == '[]'
