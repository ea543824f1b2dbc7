"The site's pages: every notebook without solutions, directives and hidden cells, and every public name; its check finds what is planted."
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from fastcore.docments import docments

from tools.site import modules, notebooks, own_names, write_pages
from transfer_course.core import CourseError

ROOT = Path(__file__).resolve().parents[1]

def cells(path): return [(c['cell_type'], ''.join(c['source']), c) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    dest = tmp_path_factory.mktemp('site')/'pages'
    return dest, write_pages(dest)

@pytest.fixture(scope='module')
def api(site): return (site[0]/'api.md').read_text(encoding='utf-8')

def test_every_notebook_is_a_page_in_the_navigation(site):
    dest,names = site
    want = {o.relative_to(ROOT/'nbs').with_suffix('').as_posix() for o in notebooks(ROOT)}
    assert {'index', '01_flowers', 'lib/00_core'} <= want == set(names) - {'api'}
    assert {o.relative_to(dest).as_posix() for o in dest.rglob('*') if o.is_file()} == {f'{o}.ipynb' for o in want} | {'api.md'}
    trees = [s for _,s,_ in cells(dest/'index.ipynb') if s.startswith('```{toctree}')]
    entries = [line for s in trees for line in s.splitlines() if line and line[0] not in '`:']
    assert sorted(entries) == sorted(set(names) - {'index'})

def test_no_hidden_cell_directive_or_solution_shows(site):
    dest,names = site
    for name in set(names) - {'api'}:
        before,after = cells(ROOT/'nbs'/f'{name}.ipynb'), cells(dest/f'{name}.ipynb')
        shown = {s for _,s,_ in after}
        hidden = [s for k,s,_ in before if k == 'code' and re.match(r'#\|\s*hide\b', s)]
        assert not any(re.sub(r'\A(#\|.*\n?)+', '', s).strip() in shown for s in hidden), name
        for kind,source,_ in after:
            if kind != 'code': continue
            assert not re.match(r'\s*#\|', source), (name, source[:80])
            assert '/' in name or 'SOLUTION' not in source, (name, source[:80]) # the workbook's own notebook shows the marks

def test_solutions_are_there_to_be_taken_out(site):
    marks = r'^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION'
    solved = [o.strip().splitlines()[0] for _,s,_ in cells(ROOT/'nbs'/'01_flowers.ipynb') for o in re.findall(marks, s, re.M|re.S)]
    page = (site[0]/'01_flowers.ipynb').read_text(encoding='utf-8')
    assert len(solved) >= 5 and not any(json.dumps(o)[1:-1] in page for o in solved)

def test_exported_code_and_figures_stay(site):
    dest,_ = site
    assert any('exported' in c['metadata'].get('tags', []) and 'def atomic' in s for _,s,c in cells(dest/'lib/00_core.ipynb'))
    def figures(path):
        return sum('image/' in ' '.join(o.get('data', {})) for _,_,c in cells(path) for o in c.get('outputs', []))
    assert figures(dest/'01_flowers.ipynb') == figures(ROOT/'nbs/01_flowers.ipynb') > 5

def test_all_names_have_an_entry(api):
    parts = dict(re.findall(r'^## (transfer_course[\w.]+)\n(.*?)(?=^## |\Z)', api, re.M|re.S))
    exporting = [importlib.import_module(m) for m in parts]
    assert {m.__name__ for m,_ in modules() if own_names(m)} == set(parts) and 'transfer_course.data.sets' in parts
    for m in exporting: assert re.findall(r'^### (\w+)', parts[m.__name__], re.M) == own_names(m)
    named = {o for m in exporting for o in own_names(m)}
    public = {o for name,m in sys.modules.items() if name.startswith('transfer_course.') and name in parts for o in m.__all__}
    assert public <= named # a name that is only passed on has its entry elsewhere

def test_comments_of_arguments_are_there(api):
    for module in ('core', 'data.sets'):
        m = importlib.import_module(f'transfer_course.{module}')
        part = re.search(rf'^## {re.escape(m.__name__)}\n(.*?)(?=^## )', api, re.M|re.S)[1]
        for f in filter(callable, (getattr(m, o) for o in m.__all__)):
            for comment in filter(None, docments(f, returns=False).values()): assert f'# {comment}' in part, (f, comment)

def test_places_in_notebooks_are_there(site, api):
    "Each entry's link leads to a heading of that page"
    links = set(re.findall(r'\]\((\S+?\.ipynb)#(.*?)\)\{\.where\}', api))
    assert len(links) > 50
    headings = {}
    for page,place in links:
        found = headings.setdefault(page, {re.sub('[`*]', '', h).replace(' ', '-') for k,s,_ in cells(site[0]/page) if k == 'markdown'
                                           for h in re.findall(r'^#+ +(.+?)\s*$', s, re.M)})
        assert place in found, (page, place)

def test_refuses_what_would_overwrite(tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(CourseError, match='is not empty'): write_pages(tmp_path)
    assert [o.name for o in tmp_path.iterdir()] == ['mine.txt']

GOOD = ('<a href="lib/b.html#a-place%2C-there">b</a><a href="#top">t</a><p id="top"></p><img src="a.png">'
        '<img src="data:image/png;base64,AAAA"><a href="mailto:a@example.org">m</a>')
BAD = ('<img src="gone.png"><a href="lib/b.html#nowhere">b</a><a href="c.html">c</a><a href="../outside.html">o</a>'
       '<link href="x.css">')

def test_check_of_the_built_site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT/'docs')
    from check_site import check_site
    (tmp_path/'lib').mkdir()
    (tmp_path/'a.png').write_bytes(b'png')
    links = '<a href="../a.html">A</a><a href="https://example.org/none">out</a>'
    (tmp_path/'lib'/'b.html').write_text(f'<h2 id="a-place,-there">B</h2>{links}')
    (tmp_path/'a.html').write_text(GOOD)
    assert check_site(tmp_path) == []
    (tmp_path/'a.html').write_text(GOOD + BAD)
    found = check_site(tmp_path)
    assert len(found) == 5 and all(o.startswith('a.html') for o in found)
    assert any('lib/b.html#nowhere leads to no place' in o for o in found)
    assert check_site(tmp_path/'lib'/'empty')[0].endswith('build the site first.')
