"""Is what was made from the notebooks up to date? And: README.md, BOARD.md, and pages saved with their figures.

    python tools/sync.py                          # check modules, notebooks, README.md and BOARD.md; nothing is written
    python tools/sync.py readme                   # run nbs/index.ipynb; write README.md and BOARD.md
    python tools/sync.py render [NOTEBOOK ...] [--flags 'real slow']    # run pages and save them with their figures
"""
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

if __name__ == '__main__': sys.path[0] = str(Path(__file__).resolve().parents[1]) # `site` is Python's own, `tools.site` is ours

import nbformat
from execnb.nbio import dict2nb, nb2str, read_nb
from fastcore.script import Param, call_parse
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import MarkdownExporter
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbdev_export

from tools.site import as_json, notebooks, page_of
from transfer_course.core import CourseError, atomic, unknown
from transfer_course.results.claims import board, rules_in_brief, tally

ROOT = Path(__file__).resolve().parents[1]
FLAGS = 'cuda', 'slow', 'real' # as in `tst_flags` of settings.ini
LARGEST = 2 # MiB of a notebook

# --- README.md and BOARD.md ---

def make_readme(
    dest:Path=ROOT, # Folder to write README.md (and README_files) to
    notebook:Path=ROOT/'nbs'/'index.ipynb', # Its source
) -> Path: # The file written
    "Write README.md from its notebook as it was saved: no cell is run"
    resources = dict(unique_key='README', output_files_dir='README_files')
    page = nbformat.reads(as_json(page_of(read_nb(notebook))), 4)
    text,resources = MarkdownExporter().from_notebook_node(page, resources)
    alts = (o.metadata.get('alt', 'figure') for o in page.cells if 'image/png' in str(o.get('outputs')))
    text = re.sub(r'!\[png\]', lambda m: f'![{next(alts)}]', text)
    title,rest = text.lstrip().split('\n', 1)
    text = f'{title}\n\n<!-- Made from nbs/{notebook.name} by `make readme`: edit it there. -->\n{rest}'
    shutil.rmtree(dest/'README_files', ignore_errors=True)
    for name,content in resources['outputs'].items():
        with atomic(dest/name) as tmp: tmp.write_bytes(content)
    _write(dest/'README.md', re.sub(r'\n{3,}', '\n\n', text).rstrip() + '\n')
    return dest/'README.md'

def _write(path, text):
    with atomic(path) as tmp: tmp.write_text(text, encoding='utf-8')

_BOARD = """# What the articles claim, and what we found

<!-- Made from data/claims.toml and data/results by `make readme`. -->

Each statement of an article is a row of [data/claims.toml](data/claims.toml). The verdicts are computed from the results in
[data/results](data/results), so they are the same in every clone.

**Rules.** The column "rule" says by which rule a run or a count settles a row, with its tolerance, its seeds and its date.
RULES `transfer_course claims --history` prints the same.

**Proxies.** A figure of an article is judged only under the article's own conditions, else it is "not comparable". An order or a
bound ("better", "sooner", "at least") may be judged by a proxy, unless the row names the condition, and never by weights that are
not official. Every proxy is then named beside the verdict. If several experiments meet a row, all are shown and the one that is
worst for the claim decides.

The last column is the command that computes a verdict again. `transfer_course claims` prints all of this in a terminal.
"""

def _row(verdict):
    "A claim as a row of a table"
    cell = lambda text: ' '.join(str(text).split()).replace('|', '\\|')
    claim = verdict.claim
    terms = claim.terms if claim.since or claim.history else claim.rule
    cells = claim.id.rpartition('-')[2], claim.says, verdict.article, verdict.figure, verdict.told, terms, f'`{verdict.command}`'
    return '| ' + ' | '.join(map(cell, cells)) + ' |'

def _table(title, verdicts):
    "A heading that counts, and a table"
    count = ', '.join(f'{o} {n}' for o,n in tally(verdicts).items() if n)
    head = '| | the article says | its figure | ours | verdict | rule | command to reproduce |\n|---|---|---|---|---|---|---|'
    return '\n'.join([f'### {title}\n\n{len(verdicts)} claims: {count}.\n', head, *map(_row, verdicts), ''])

def board_page(
    verdicts:list|None=None, # Of `results.claims.Verdict`; None judges all claims by the committed results
    nbs:Path=ROOT/'nbs', # The chapters, for titles and links
) -> str: # Markdown
    "All claims, chapter by chapter, in two tables: what needs no training, and what runs say"
    verdicts = board() if verdicts is None else verdicts
    page = [_BOARD.replace('RULES', rules_in_brief(verdicts))]
    for path in sorted(nbs.glob('[0-9]*_*.ipynb')):
        mine = [o for o in verdicts if o.claim.article == path.stem.partition('_')[2]]
        if not mine: continue
        title = re.search(r'^# (.+)', ''.join(read_nb(path).cells[0].source), re.M)[1]
        page.append(f'## [{title}](nbs/{path.name})\n')
        runs = [o for o in mine if o.claim.how == 'run']
        if counted := [o for o in mine if o not in runs]: page.append(_table('Checked without training', counted))
        if runs: page.append(_table('What our runs say', runs))
    return '\n'.join(page)

# --- Notebooks that can be shared ---

def _machine_path():
    "Finds a path of somebody's machine: below a home or temporary folder, this checkout, or installed packages"
    here = {str(Path.home()), tempfile.gettempdir(), os.path.realpath(tempfile.gettempdir()), str(ROOT)} - {'/'}
    places = [*map(re.escape, sorted(here)), r'/home/[^/\s]+', r'/Users/[^/\s]+', '/root', '/tmp', '/var/folders',
              r'[A-Z]:\\+Users\\+[^\\\s]+', r'(?:/[\w.@+-]+)+/site-packages']
    return re.compile(rf"(?<![\w/+.:-])(?:file://)?(?:{'|'.join(places)})(?=[/\\])[^\s'\"<>),]*")

def _texts(output):
    "The texts of a saved output: streams, and data that is text"
    found = [output.get('text', ''), *(v for k,v in output.get('data', {}).items() if k.startswith('text/') or 'svg' in k)]
    return ''.join(''.join(o) for o in found if isinstance(o, (str, list)))

def _check_outputs(name, nb):
    "Findings in the saved outputs of a notebook"
    paths = _machine_path()
    for i,cell in enumerate(nb['cells']):
        where = f"{name}, cell {i} (`{''.join(cell['source']).strip().partition(chr(10))[0][:50]}`)"
        for o in cell.get('outputs', []):
            if o['output_type'] == 'error':
                yield f"{where} was saved with an error ({o.get('ename')}: {o.get('evalue', '')[:80]}): correct it, run it again and save."
            elif m := paths.search(_texts(o)):
                yield f"{where} shows a path of this machine ({m[0][:80]}): print a relative path or a name, run it again and save."

def _cleaned(text):
    "A notebook as nbdev_clean leaves it"
    nb,cfg = dict2nb(json.loads(text)), get_config()
    keys = {o: cfg.get(o, '').split() for o in ('allowed_metadata_keys', 'allowed_cell_metadata_keys')}
    clean_nb(nb, clear_all=cfg.clear_all, clean_ids=cfg.clean_ids, **keys)
    return nb2str(nb)

def _check_notebook(name, path):
    "Findings in one notebook"
    size = path.stat().st_size/2**20
    try:
        nb = json.loads(text := path.read_text(encoding='utf-8'))
        found = list(_check_outputs(name, nb))
    except (ValueError, KeyError, TypeError) as e:
        return [f"{name} is no notebook ({type(e).__name__}: {e}): it was cut short or merged badly; take it back from the last commit."]
    if size > LARGEST:
        found.append(f"{name} has {size:.1f} MiB, and {LARGEST} are allowed: save smaller figures (fewer dots per inch, fewer photos).")
    if _cleaned(text) != text:
        found.append(f"{name} holds metadata or execution counts that change from machine to machine: `make export` cleans it.")
    return found

# --- In sync ---

@contextlib.contextmanager
def _nbdev_in(root):
    "nbdev takes its settings from the working folder and remembers them; in a test it exports nothing"
    in_test = os.environ.pop('IN_TEST', None)
    get_config.cache_clear()
    try:
        with contextlib.chdir(root): yield
    finally:
        get_config.cache_clear()
        if in_test is not None: os.environ['IN_TEST'] = in_test

def _copy_sources(root, dest, nbs, lib):
    "What an export starts from"
    for o in [*notebooks(root, nbs), *(root/o for o in ('settings.ini', 'pyproject.toml', f'{lib}/__init__.py'))]:
        if not o.exists(): continue
        (dest/o.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(o, dest/o.relative_to(root))

def _files(root, *patterns):
    "Relative names of the files that match, Python's caches left out"
    return {o.relative_to(root).as_posix() for p in patterns for o in root.glob(p) if o.is_file() and '__pycache__' not in o.parts}

def _compare(root, made, lib):
    "Findings where the tree's files differ from those made anew"
    patterns = f'{lib}/**/*.py', 'pyproject.toml', 'README.md', 'README_files/*', 'BOARD.md'
    here,there = _files(root, *patterns), _files(made, *patterns)
    fix = lambda o: '`make readme`' if o.startswith(('README', 'BOARD')) else '`make export`'
    for o in sorted(there - here): yield f"{o} is missing: run {fix(o)}."
    for o in sorted(here - there):
        yield f"{o} is made by no notebook: remove it if it was left behind (a renamed `default_exp`, an old figure)."
    for o in sorted(here & there):
        if (root/o).read_bytes() == (made/o).read_bytes(): continue
        hint = ' To keep an edit made in the module, run `nbdev_update` first.' if o.startswith(lib) else ''
        yield f"{o} is not what the notebooks and results make today: run {fix(o)}.{hint}"

def check_sync(
    root:Path=ROOT # A checkout or an unpacked archive of the course
) -> list: # Findings, each a sentence; empty when all is well
    "Make modules, README.md and BOARD.md anew in a temporary folder, compare, and look at the notebooks; nothing is written to the tree"
    root,cfg = Path(root).resolve(), ConfigParser(delimiters=['='], interpolation=None)
    if not cfg.read(root/'settings.ini', encoding='utf-8'):
        raise CourseError(f"{root} is no checkout of the course: it has no settings.ini.")
    nbs,lib = cfg['DEFAULT']['nbs_path'], cfg['DEFAULT']['lib_path']
    with tempfile.TemporaryDirectory() as tmp:
        made = Path(tmp).resolve()
        _copy_sources(root, made, nbs, lib)
        with _nbdev_in(made):
            found = [f for o in notebooks(root, nbs) for f in _check_notebook(o.relative_to(root).as_posix(), o)]
            if any('is no notebook' in o for o in found): return found
            try: nbdev_export()
            except Exception as e:
                return [*found, f"The notebooks can't be exported ({type(e).__name__}: {e}): correct the cell, run `make export`."]
            make_readme(made, made/nbs/'index.ipynb')
        if root == ROOT: _write(made/'BOARD.md', board_page())
        return found + list(_compare(root, made, lib))

# --- Pages with their figures ---

def _wanted(cell, flags):
    "Is this cell to be run?"
    given = set(re.findall(r'^#\|\s*(\w+)', cell.source, re.M))
    left_out = given & (set(FLAGS) - set(flags)) or re.search(r'^#\|\s*eval:\s*false', cell.source, re.M)
    return cell.cell_type == 'code' and not left_out

def _worth_saving(output):
    "Not stderr, not a bar, not the style sheet that comes with a bar"
    if output.output_type == 'stream': return output.name != 'stderr'
    data = output.get('data', {})
    html = str(data.get('text/html', ''))
    if '<progress' in html + str(data.get('text/markdown', '')): return False
    only_style = not re.sub(r'<style>.*?</style>', '', html, flags=re.S).strip()
    return not (output.output_type == 'display_data' and 'text/html' in data and only_style)

def _run_cells(nb, path, flags, timeout):
    "Run the cells that are wanted, in a kernel of the page's own"
    client = NotebookClient(nb, timeout=timeout, kernel_name='python3', record_timing=False, coalesce_streams=True,
                            resources=dict(metadata=dict(path=str(path.parent))))
    with client.setup_kernel():
        for i,cell in enumerate(nb.cells):
            if not _wanted(cell, flags): continue
            try: client.execute_cell(cell, i)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
                why = f'{e.ename}: {e.evalue}' if isinstance(e, CellExecutionError) else f'more than {timeout} s, or the kernel died'
                where = f"{path.name}, cell {i} (`{cell.source.partition(chr(10))[0][:50]}`)"
                raise CourseError(f"{where} failed ({why}). Nothing was saved: correct the cell and render again.") from None
            cell.outputs = [o for o in cell.outputs if _worth_saving(o)]

def render(
    notebook:str|Path, # A page; saved in place
    flags=(), # Of `FLAGS`: run these cells too
    timeout:int=3600, # Seconds for a cell
):
    "Run a page from top to bottom and save it with its figures, whole or not at all"
    if wrong := set(flags) - set(FLAGS): raise unknown('flag', sorted(wrong)[0], FLAGS)
    path = Path(notebook).resolve()
    if not path.exists(): raise CourseError(f"There is no notebook {notebook}.")
    nb = nbformat.read(path, 4)
    with _nbdev_in(ROOT):
        _run_cells(nb, path, flags, timeout)
        _write(path, _cleaned(nbformat.writes(nb)))

def _readme():
    render(ROOT/'nbs'/'index.ipynb')
    make_readme()
    _write(ROOT/'BOARD.md', board_page())
    print('README.md written from nbs/index.ipynb, BOARD.md from the committed results.')

@call_parse
def main(
    job:Param('What to do', str, opt=False, nargs='?', choices=('check', 'readme', 'render'))='check',
    files:Param('Notebooks to render; all pages if none', str, opt=False, nargs='*')=None,
    flags:str='', # Flagged cells to render too, such as "real slow"
):
    "Check that everything is in sync, write README.md and BOARD.md, or render pages"
    try:
        if job == 'readme': _readme()
        elif job == 'render':
            for o in files or sorted((ROOT/'nbs').glob('*.ipynb')):
                print(Path(o).name, flush=True)
                render(o, flags.split())
        elif found := check_sync(): sys.exit('\n'.join(found))
        else: print('In sync: modules, notebooks, README.md and BOARD.md.')
    except CourseError as e: sys.exit(str(e))
