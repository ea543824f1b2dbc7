"The check finds every fault that is planted in a small project of two notebooks, and writes nothing; the course itself is in sync."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import sync
from tools.sync import FLAGS, board_page, check_sync, make_readme, render
from transfer_course.core import CourseError, sha256
from transfer_course.results.claims import board

ROOT = Path(__file__).resolve().parents[1]
MIRROR = os.environ.get('TRANSFER_COURSE_MIRROR') or os.environ.get('TRANSFER_COURSE_SHELF')
LIB = 'nbs/lib/10_data.drawings.ipynb'
PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='

def text(path): return path.read_text(encoding='utf-8')

def code(source, *outputs): return nbformat.v4.new_code_cell(source, outputs=list(outputs))

def notebook(path, *cells):
    "Write a notebook as nbdev saves it"
    path.parent.mkdir(parents=True, exist_ok=True)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(o) if isinstance(o, str) else o for o in cells])
    for i,o in enumerate(nb.cells): o.id = f'{i:08x}'
    path.write_text(sync._cleaned(nbformat.writes(nb)), encoding='utf-8')

@pytest.fixture(scope='module')
def project(tmp_path_factory):
    "A project with a page and a module in a sub-package, all in sync"
    root = tmp_path_factory.mktemp('tools')/'a project'
    root.mkdir()
    for o in ('settings.ini', 'pyproject.toml'): (root/o).write_text(text(ROOT/o).replace('transfer_course', 'demo'), encoding='utf-8')
    hidden = code("#| echo: false\nprint('hidden source')"), code('#| hide\n1')
    notebook(root/'nbs/index.ipynb', '# demo\n\n> Two notebooks.', *hidden, 'The end.')
    notebook(root/LIB, '# drawings\n\n> Lines.', code('#| default_exp data.drawings'), code('#| export\ndef line(n): return n'),
             code('line(3)', nbformat.v4.new_output('display_data', {'image/png': PNG})))
    with sync._nbdev_in(root): sync.nbdev_export()
    make_readme(root, root/'nbs/index.ipynb')
    return root

@pytest.fixture
def copy(project, tmp_path): return shutil.copytree(project, tmp_path/'un packed')

def state(root): return {o.relative_to(root).as_posix(): (sha256(o), o.stat().st_mtime_ns) for o in root.rglob('*') if o.is_file()}

def test_in_sync_and_nothing_written(copy):
    "Figures that were saved on purpose stay, and what Jupyter and Python leave behind is passed over"
    for litter in ('nbs/.ipynb_checkpoints/old-checkpoint.ipynb', 'demo/__pycache__/gone.py'):
        (copy/litter).parent.mkdir()
        (copy/litter).write_text('{')
    before = state(copy)
    assert {'demo/data/drawings.py', 'demo/data/__init__.py', 'README.md'} <= set(before)
    assert check_sync(copy) == []
    assert state(copy) == before

def edit(path, change):
    "Change a notebook and save it as nbdev would"
    nb = json.loads(text(path))
    change(nb)
    path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n', encoding='utf-8')

def rewrite(name, change): return lambda root: (root/name).write_text(change(text(root/name)), encoding='utf-8')
def append(name, more): return rewrite(name, lambda old: old + more)
def in_lib(change): return lambda root: edit(root/LIB, change)
def source(i, new): return in_lib(lambda nb: nb['cells'][i].update(source=[new]))
def title(root): edit(root/'nbs/index.ipynb', lambda nb: nb['cells'][0].update(source=['# other\n', '\n', '> x']))
def old_figure(root):
    (root/'README_files').mkdir()
    (root/'README_files/old.png').write_bytes(b'x')
def output(**o): return in_lib(lambda nb: nb['cells'][-1].update(outputs=[o]))
def stdout(line): return output(output_type='stream', name='stdout', text=[line])
def error(): return output(output_type='error', ename='OSError', evalue='no file', traceback=['x'])

FAULTS = {
    'edited module': (append('demo/data/drawings.py', '\nx = 1\n'), 'demo/data/drawings.py is not what the notebooks'),
    'not exported': (source(2, '#| export\ndef line(n): return -n'), 'demo/data/drawings.py is not what'),
    'missing module': (lambda root: (root/'demo/data/drawings.py').unlink(), 'demo/data/drawings.py is missing: run `make export`'),
    'renamed': (source(1, '#| default_exp data.pictures'), 'demo/data/drawings.py is made by no notebook'),
    'metadata': (in_lib(lambda nb: nb['metadata'].update(language_info=dict(name='python', version='3.11.7'))), f'{LIB} holds metadata'),
    'cell metadata': (in_lib(lambda nb: nb['cells'][0]['metadata'].update(collapsed=True)), f'{LIB} holds metadata'),
    'count': (in_lib(lambda nb: nb['cells'][-1].update(execution_count=12)), f'{LIB} holds metadata or execution counts'),
    'address': (stdout('<object at 0x7f0000000000>\n'), f'{LIB} holds metadata'),
    'README': (append('README.md', 'by hand\n'), 'make today: run `make readme`'),
    'no README': (lambda root: (root/'README.md').unlink(), 'README.md is missing: run `make readme`'),
    'index': (title, 'README.md is not what'),
    'old figure': (old_figure, 'README_files/old.png is made by no'),
    'error': (error(), 'was saved with an error (OSError: no file)'),
    'home': (stdout('saved to /home/ann/course/runs\n'), 'shows a path of this machine (/home/ann/course/runs)'),
    'tmp': (stdout("PosixPath('/tmp/tmp1a2b/x.jpg')\n"), '/tmp/tmp1a2b/x.jpg'),
    'warning': (stdout('/srv/venv/lib/python3.11/site-packages/fastai/layers.py:3: FutureWarning\n'), 'site-packages/fastai'),
    'large': (output(output_type='display_data', metadata={}, data={'image/png': 'A'*(2**21+1)}), 'MiB, and 2 are allowed'),
    'cut': (rewrite(LIB, lambda old: old[:500]), f'{LIB} is no notebook'),
    'merge': (rewrite(LIB, lambda old: '<<<<<<< HEAD\n' + old), f'{LIB} is no notebook'),
    'syntax': (source(2, '#| export\ndef broken(:'), "can't be exported"),
    'settings': (rewrite('settings.ini', lambda old: old.replace('= 3.11', '= 3.12')), 'pyproject.toml is not what'),
    'version': (rewrite('demo/__init__.py', lambda old: '__version__ = "9.9"\n'), 'demo/__init__.py is not what'),
    'sub-package': (append('demo/data/__init__.py', 'x = 1\n'), 'demo/data/__init__.py is not what')}

@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_is_found(copy, fault):
    plant,words = FAULTS[fault]
    plant(copy)
    before = state(copy)
    found = check_sync(copy)
    assert any(words in o for o in found), found
    assert all(o.endswith('.') for o in found)
    assert state(copy) == before

def test_metadata_that_hides_a_cell_survives(copy):
    edit(copy/LIB, lambda nb: nb['cells'][2]['metadata'].update(jupyter=dict(source_hidden=True), tags=['hide-input'], cellView='form'))
    assert check_sync(copy) == []

def test_a_stale_board_is_found(copy, monkeypatch):
    monkeypatch.setattr(sync, 'ROOT', copy)
    monkeypatch.setattr(sync, 'board_page', lambda: '# Board\n')
    assert check_sync(copy) == ['BOARD.md is missing: run `make readme`.']
    (copy/'BOARD.md').write_text('# Board\n')
    assert check_sync(copy) == []
    append('BOARD.md', '| 1 | a claim |\n')(copy)
    assert check_sync(copy) == ['BOARD.md is not what the notebooks and results make today: run `make readme`.']

def test_readme_shows_what_a_reader_should_see(project):
    page = text(project/'README.md')
    assert page.startswith('# demo\n\n<!-- Made from nbs/index.ipynb') and page.endswith('The end.\n')
    assert '#|' not in page and 'hidden source' not in page

def test_render(copy):
    "Flagged cells and notices stay out; a cell that fails leaves the file as it was"
    page = copy/'nbs/page.ipynb'
    notebook(page, '# A page', code("import sys\nprint('shown')\nprint('notice', file=sys.stderr)"), code("#| slow\nprint('long')"))
    render(page)
    cells = nbformat.read(page, 4).cells
    assert [''.join(o.text) for o in cells[1].outputs] == ['shown\n'] and cells[2].outputs == []
    before = page.read_bytes()
    edit(page, lambda nb: nb['cells'][1].update(source=['1/0']))
    broken = page.read_bytes()
    with pytest.raises(CourseError, match=r'page.ipynb, cell 1 \(`1/0`\) failed \(ZeroDivisionError'): render(page)
    assert page.read_bytes() == broken != before
    with pytest.raises(CourseError, match="did you mean 'slow'"): render(page, ['slwo'])

def test_flags_are_those_of_the_settings():
    assert set(re.search(r'^tst_flags = (.*)', text(ROOT/'settings.ini'), re.M)[1].split()) == set(FLAGS)

# --- The course itself ---

def test_the_course_is_in_sync(): assert check_sync() == []

def test_all_claims_are_on_the_board():
    verdicts = board()
    page = board_page(verdicts)
    rows = re.findall(r'^\| (\S+) \| .*\*\*(.+?)\*\*', page, re.M)
    assert sorted(rows) == sorted((v.claim.id.rpartition('-')[2], v.verdict) for v in verdicts)
    assert page.count('\n## ') == len({v.claim.article for v in verdicts})
    runs = ''.join(re.findall(r'^### What our runs say\n(.*?)(?=^#|\Z)', page, re.M|re.S))
    assert runs.count('**') == 2*sum(v.claim.how == 'run' for v in verdicts)

@pytest.mark.parametrize('name', ['README.md', 'BOARD.md', 'CONTRIBUTING.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(name):
    for o in re.findall(r'\]\(([^)\s]+)\)', text(ROOT/name)):
        if '://' not in o and not o.startswith('#'): assert (ROOT/o.partition('#')[0]).exists(), o

def test_elsewhere(tmp_path):
    with pytest.raises(CourseError, match='is no checkout'): check_sync(tmp_path)
    done = subprocess.run([sys.executable, ROOT/'tools'/'sync.py', 'snyc'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and 'invalid choice' in done.stderr and 'Traceback' not in done.stderr

# --- The sample ---

@pytest.mark.skipif(not MIRROR, reason='the real flowers are not here: set TRANSFER_COURSE_MIRROR')
def test_the_sample_is_what_its_tool_writes(tmp_path):
    "Names and credits to the byte; pixels up to the JPEG library"
    from tools.sample import SAMPLE, write_sample
    from transfer_course.data.sets import get_data, own_data
    ds = get_data('flowers')
    assert ds.info['complete']
    write_sample(ds, tmp_path/'sample')
    assert (tmp_path/'sample'/'credits.csv').read_text() == (SAMPLE/'credits.csv').read_text()
    assert own_data(tmp_path/'sample').names == get_data('flowers', 'sample').names
