"The pages of the course: links lead somewhere, commands exist, hidden cells are hidden, and saved pages are small, quiet and complete."
import json
import re
from pathlib import Path

import pytest

from transfer_course.cli import _parser, chapters

NBS = Path(__file__).resolve().parents[1]/'nbs'
PAGES = sorted(NBS.glob('*.ipynb'))
LIBRARY = sorted((NBS/'lib').glob('*.ipynb'))
SHOWING = re.compile(r'(table|drawn|print|display|Markdown)\(')

def each(paths): return pytest.mark.parametrize('path', paths, ids=lambda p: p.stem)
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def words(path): return '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'markdown')
def code(path): return [c for c in cells(path) if c['cell_type'] == 'code']
def anchors(path): return {re.sub(r'\s+', '-', o.strip()) for o in re.findall(r'^#+ (.+)$', words(path), re.M)}

@each(PAGES + LIBRARY)
def test_links_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)\s]+)\)', words(path)):
        if target.startswith(('http://', 'https://', 'mailto:')): continue
        page,_,anchor = target.partition('#')
        base = NBS.parent if path.stem == 'index' else path.parent # the README's links start at the root
        to = base/page if page else path
        assert to.exists(), f'{path.name} links to {target}, which is not there'
        if anchor: assert anchor in anchors(to), f'{path.name} links to {target}, and {to.name} has no such heading'

@each(PAGES + LIBRARY)
def test_what_is_saved(path):
    "No warnings, no bars, and what a cell shows: `make render NB=…` runs a page anew"
    assert path.stat().st_size < 2*2**20
    for c in code(path):
        for o in c['outputs']:
            assert o.get('name') != 'stderr', source(c)[:60]
            assert '<progress' not in json.dumps(o.get('data', {})), source(c)[:60]
        lines = source(c).rstrip().split('\n')
        directives = {o[2:].split(':')[0].strip() for o in lines if o.startswith('#|')}
        if directives <= {'echo'} and SHOWING.match(lines[-1]): assert c['outputs'], f'saved without what this cell shows: {lines[0][:80]}'

@each(PAGES)
def test_pattern_of_a_page(path):
    "Title and subtitle; one import for all; what a reader need not see is hidden in the notebook's own metadata, where Jupyter looks"
    assert re.match(r'# .+\n\n> .+', words(path))
    if path.stem != 'index': assert any('from transfer_course.all import *' in source(c) for c in code(path)[:4])
    for c in code(path):
        if re.search(r'^#\|\s*hide\b', source(c), re.M): assert c['metadata'].get('jupyter') == dict(source_hidden=True), source(c)[:80]

@each(PAGES)
def test_figures_have_alternative_texts(path):
    "A line `#| fig-alt: …` that says what the figure shows"
    for c in code(path):
        shows = any('image/' in ' '.join(o.get('data', {})) for o in c['outputs'])
        assert not shows or re.search(r'^#\| fig-alt: .{40}', source(c), re.M), source(c)[:80]

@each(PAGES)
def test_commands_exist(path):
    known = next(o.choices for o in _parser()._actions if o.choices)
    for command in re.findall(r'(?:^|`|/)transfer_course ([a-z]+)', words(path), re.M): assert command in known, command

def test_the_map_names_the_chapters_that_are_there():
    saved = json.dumps([c['outputs'] for c in code(NBS/'course.ipynb')])
    for name in chapters(): assert f'_{name}.ipynb)' in saved, f'the map was saved before {name} came: make render NB=nbs/course.ipynb'

def test_readme_is_short():
    assert len((NBS.parent/'README.md').read_text(encoding='utf-8').splitlines()) <= 120
