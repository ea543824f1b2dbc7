"The pages of the course: every link between them leads somewhere, the map counts what is there, and saved pages are small and quiet."
import json
import re
from pathlib import Path

import pytest

from transfer_course.cli import chapters

NBS = Path(__file__).resolve().parents[1]/'nbs'
PAGES = sorted(NBS.glob('*.ipynb'))

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def words(path): return '\n'.join(''.join(c['source']) for c in cells(path) if c['cell_type'] == 'markdown')
def anchors(path): return {re.sub(r'\s+', '-', o.strip()) for o in re.findall(r'^#+ (.+)$', words(path), re.M)}

@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r'\]\(([^)\s]+)\)', words(path)):
        if target.startswith(('http://', 'https://', 'mailto:')): continue
        page,_,anchor = target.partition('#')
        base = NBS.parent if path.stem == 'index' else path.parent # the README's links start at the root
        to = base/page if page else path
        assert to.exists(), f'{path.name} links to {target}, which is not there'
        if anchor: assert anchor in anchors(to), f'{path.name} links to {target}, and {to.name} has no such heading'

@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_saved_outputs_are_quiet(path):
    for c in cells(path):
        for o in c.get('outputs', []):
            assert o.get('name') != 'stderr', (path.name, ''.join(c['source'])[:60])
            assert '<progress' not in json.dumps(o.get('data', {})), (path.name, ''.join(c['source'])[:60])

SHOWING = re.compile(r'(table|drawn|print|display|Markdown)\(')

@pytest.mark.parametrize('path', PAGES + sorted((NBS/'lib').glob('*.ipynb')), ids=lambda p: p.stem)
def test_what_a_cell_shows_is_saved(path):
    for c in cells(path):
        lines = ''.join(c['source']).rstrip().split('\n')
        said = {o[2:].split(':')[0].strip() for o in lines if o.startswith('#|')} # `#| hide`, `#| real`, `#| eval: false` …
        if c['cell_type'] == 'code' and said <= {'echo'} and SHOWING.match(lines[-1]):
            assert c['outputs'], f'{path.name} is saved without what this cell shows: {lines[0][:80]} …; make render NB={path.relative_to(NBS.parent)}'

@pytest.mark.parametrize('name', ['course', 'glossary', 'help', 'own_photos', 'primer', 'when'])
def test_pages_beside_the_chapters(name):
    path = NBS/f'{name}.ipynb'
    assert path.stat().st_size < 2**20
    assert re.match(r'# .+\n\n> .+', words(path))
    assert any(c.get('outputs') for c in cells(path)), f'{path.name} is saved without its figures: make render NB=nbs/{path.name}'

def test_the_map_names_the_chapters_that_are_there():
    saved = json.dumps([c.get('outputs') for c in cells(NBS/'course.ipynb')])
    for name in chapters(): assert f'_{name}.ipynb)' in saved, f'the map was saved before {name} came: make render NB=nbs/course.ipynb'

@pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)
def test_commands_exist(path):
    from transfer_course.cli import _parser
    known = next(o.choices for o in _parser()._actions if o.choices)
    for command in re.findall(r'(?:^|`|/)transfer_course ([a-z]+)', words(path), re.M): assert command in known, f'{path.name} speaks of `transfer_course {command}`'
