"What the site is made of: every notebook as a page without solutions, directives and hidden cells; every public name on the page of names; and a check of the built site that finds what is planted."
import ast, importlib.util, json, re
from pathlib import Path
import pytest
from transfer_course.core import CourseError
from transfer_course.docs import notebooks, read_modules, write_pages

ROOT = Path(__file__).resolve().parents[1]

def sources(path): return [(c['cell_type'], ''.join(c['source']), c['metadata']) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    dest = tmp_path_factory.mktemp('site')/'pages'
    return dest, write_pages(dest)

def test_every_notebook_is_a_page(site):
    dest,names = site
    want = {o.relative_to(ROOT/'nbs').with_suffix('').as_posix() for o in notebooks(ROOT)}
    assert {'index', '01_flowers', 'lib/00_core'} <= want == set(names) - {'api'}
    assert {o.relative_to(dest).as_posix() for o in dest.rglob('*') if o.is_file()} == {f'{o}.ipynb' for o in want} | {'api.md'}

def test_all_pages_are_in_the_navigation(site):
    dest,names = site
    entries = [l for _,s,_ in sources(dest/'index.ipynb') if s.startswith('```{toctree}') for l in s.splitlines() if l and l[0] not in '`:']
    assert sorted(entries) == sorted(set(names) - {'index'})

def test_no_hidden_cell_directive_or_solution_shows(site):
    dest,names = site
    for name in names:
        if name == 'api': continue
        before,after = sources(ROOT/'nbs'/f'{name}.ipynb'), sources(dest/f'{name}.ipynb')
        shown = {s for _,s,_ in after}
        hidden = [s for k,s,_ in before if k == 'code' and re.match(r'#\|\s*hide\b', s)]
        assert not any(re.sub(r'\A(#\|.*\n?)+', '', s).strip() in shown for s in hidden), name
        for kind,source,_ in after:
            if kind == 'code': assert not re.match(r'\s*#\|', source), (name, source[:80])
            if '/' not in name: assert 'SOLUTION' not in source, (name, source[:80]) # the workbook's own notebook shows the marks

def test_solutions_are_there_to_be_taken_out(site):
    solved = [s for _,s,_ in sources(ROOT/'nbs'/'01_flowers.ipynb') for s in re.findall(r'^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION', s, re.M|re.S)]
    page = (site[0]/'01_flowers.ipynb').read_text(encoding='utf-8')
    assert len(solved) >= 5
    for lines in solved:
        for line in lines.strip().splitlines()[:1]: assert json.dumps(line.strip())[1:-1] not in page, line

def test_exported_code_and_figures_stay(site):
    dest,_ = site
    assert any('exported' in m.get('tags', []) and 'def atomic' in s for _,s,m in sources(dest/'lib/00_core.ipynb'))
    def figures(path): return sum('image/png' in o.get('data', {}) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', []))
    assert figures(dest/'01_flowers.ipynb') == figures(ROOT/'nbs/01_flowers.ipynb') > 5

def test_all_names_have_an_entry(site):
    "Names and places as the modules' own text has them, read once more by other means"
    text = (site[0]/'api.md').read_text(encoding='utf-8')
    parts = dict(re.findall(r'^## transfer_course\.(\w+)\n(.*?)(?=^## transfer_course|\Z)', text, re.M|re.S))
    modules = [p for p in (ROOT/'transfer_course').glob('*.py') if not p.name.startswith('_')]
    assert set(parts) == {p.stem for p in modules}
    for p in modules:
        names = next(ast.literal_eval(o.value) for o in ast.parse(p.read_text(encoding='utf-8')).body if isinstance(o, ast.Assign) and ast.unparse(o.targets[0]) == '__all__')
        entries = re.findall(r'^:{3,}\{py:(?:class|function|data)\} (\w+)', parts[p.stem], re.M)
        assert entries == names, p.stem

def test_comments_of_all_arguments_are_there(site):
    "fastcore's docments, from the imported functions, say the same"
    import transfer_course.core, transfer_course.data
    from fastcore.docments import docments
    text = (site[0]/'api.md').read_text(encoding='utf-8')
    for module in (transfer_course.core, transfer_course.data):
        part = re.search(rf'^## {module.__name__}\n(.*?)(?=^## )', text, re.M|re.S)[1]
        for name in module.__all__:
            f = getattr(module, name)
            if not callable(f) or isinstance(f, type): continue
            entry = re.search(rf'^:::\{{py:function\}} {name}\(.*?^:::$', part, re.M|re.S)[0].replace('\\', '')
            for arg,comment in docments(f, args_kwargs=True, returns=False).items():
                if comment: assert f':param {arg}: {comment}'.replace('\\', '') in entry, (name, arg)

def test_places_in_notebooks_are_there(site):
    "Each entry's link leads to a heading of that page"
    dest,_ = site
    links = set(re.findall(r'\]\((\S+?\.ipynb)#(.*?)\)\{\.where\}', (dest/'api.md').read_text(encoding='utf-8')))
    assert len(links) > 50
    for page,place in links:
        headings = [re.sub('[`*]', '', h).replace(' ', '-') for k,s,_ in sources(dest/page) if k == 'markdown' for h in re.findall(r'^#+ +(.+?)\s*$', s, re.M)]
        assert place in headings, (page, place)

def test_refuses_what_would_overwrite(tmp_path):
    (tmp_path/'mine.txt').write_text('mine')
    with pytest.raises(CourseError, match='is not empty'): write_pages(tmp_path)
    with pytest.raises(CourseError, match='is no checkout'): write_pages(tmp_path/'new', tmp_path)
    assert [o.name for o in tmp_path.iterdir()] == ['mine.txt']

@pytest.fixture
def check_site():
    spec = importlib.util.spec_from_file_location('check_site', ROOT/'docs'/'check_site.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.check_site

def test_check_of_the_built_site(check_site, tmp_path):
    (tmp_path/'lib').mkdir()
    (tmp_path/'a.png').write_bytes(b'png')
    (tmp_path/'lib'/'b.html').write_text('<h2 id="a-place,-there">B</h2><a href="../a.html">A</a><a href="https://example.org/none">out</a>')
    good = '<a href="lib/b.html#a-place%2C-there">b</a><a href="#top">t</a><p id="top"></p><img src="a.png"><img src="data:image/png;base64,AAAA"><a href="mailto:a@example.org">m</a>'
    (tmp_path/'a.html').write_text(good)
    assert check_site(tmp_path) == []
    (tmp_path/'a.html').write_text(good + '<img src="gone.png"><a href="lib/b.html#nowhere">b</a><a href="c.html">c</a><a href="../outside.html">o</a><link href="x.css">')
    found = check_site(tmp_path)
    assert len(found) == 5 and all(o.startswith('a.html') for o in found)
    assert any('lib/b.html#nowhere leads to no place' in o for o in found)
    assert check_site(tmp_path/'lib'/'empty')[0].endswith('build the site first.')
