"Readers' copies hold no solutions; no update, kill or damaged file costs an answer; the check of a class stands what students do."
import ast
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer_course import workbook as w
from transfer_course.cli import main
from transfer_course.core import CourseError
from transfer_course.workbook import *

ROOT = Path(__file__).resolve().parents[1]
REAL = [o for o in sorted((ROOT/'nbs').glob('*.ipynb')) if o.name != 'index.ipynb']
EXAMPLES = settings(max_examples=200, derandomize=True, deadline=None, database=None)

def md(id, source): return dict(cell_type='markdown', id=id, metadata={}, source=source)
def code(id, source, *outputs):
    shown = [dict(output_type='stream', name='stdout', text=o) for o in outputs]
    return dict(cell_type='code', id=id, metadata={}, source=source, execution_count=None, outputs=shown)

def notebook(*cells): return dict(cells=list(cells), metadata={}, nbformat=4, nbformat_minor=5)
def solution(text): return f'{w._BEGIN}\n{text}\n{w._END}'
def exercise(n, solved, test, words='Not that.'):
    "The three cells of an exercise that asks for a name"
    return (md(f'task{n}', f'**{n}. Number {n}.** Set `x{n}`.'), code(f'answer{n}', solution(solved), 'told'),
            code(f'check{n}', f'expect(lambda: {test}, "{words}")', 'Right.'))

def write(path, nb):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb), encoding='utf-8')
    return path

def sources(path): return {o['id']: o['source'] for o in w._read(path)['cells']}
def edit(path, **changes):
    "Change cells of a copy as an editor would: by id; None takes one out"
    nb = json.loads(path.read_text(encoding='utf-8'))
    for o in nb['cells']: o['source'] = changes.get(o['id'], o['source'])
    nb['cells'] = [o for o in nb['cells'] if o['source'] is not None]
    return write(path, nb)

@pytest.fixture
def course(tmp_path):
    "A course of two chapters"
    write(tmp_path/'course/01_a.ipynb', notebook(md('title', '# A'), code('helper', '#| hide\ntwo = 2'), code('figure', 'two*2', '4'),
        *exercise(1, 'x1 = two+1', 'x1 == 3', 'Take two and add one.'), *exercise(2, 'x2 = [two]', 'len(x2) == 1')))
    write(tmp_path/'course/02_b.ipynb', notebook(md('b', '# B'), *exercise(1, 'x1 = "b"', 'x1 == "b"')))
    write(tmp_path/'course/index.ipynb', notebook(md('index', '# Read me')))
    return tmp_path/'course'

# The course's own notebooks

@pytest.mark.parametrize('path', REAL, ids=lambda o: o.stem)
def test_real_copies_hold_no_solutions(path):
    nb = w._read(path)
    copy,found = reader_copy(nb, name=path.name), exercises(nb, path.name)
    before,after = ({o['id']: o for o in n['cells']} for n in (nb, copy))
    assert list(before) == list(after)
    telling = {i for e in found for i in (*e.answers, e.check)}
    for i,cell in after.items():
        assert 'SOLUTION' not in cell['source']
        if cell['cell_type'] == 'code' and not re.match(r'\s*[%!]', cell['source']): ast.parse(cell['source'])
        if i in telling: assert not cell['outputs']
        else: assert cell == before[i]
    for e in found:
        for i in e.answers:
            taken = before[i]['source'].split(w._BEGIN)[1].split(w._END)[0].strip()
            assert taken and '...  # your answer' in after[i]['source'] and not any(taken in o['source'] for o in after.values())

        # nbdev_test passes over flagged cells: a check without its answer would fail, an answer without its check be untested
        assert len({w._is_skipped(before[i]) for i in (*e.answers, e.check)}) == 1, e

@pytest.mark.slow
@pytest.mark.parametrize('path', REAL, ids=lambda o: o.stem)
def test_run_all_reaches_the_end(path, tmp_path, monkeypatch):
    "A copy as it was given, without GPU, photos, token and network: only exercises stop, and say that there is no answer yet"
    for o in ('TRANSFER_COURSE_MIRROR', 'KAGGLE_API_TOKEN', 'KAGGLE_USERNAME', 'IN_TEST'): monkeypatch.delenv(o, raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('KAGGLE_CONFIG_DIR', str(tmp_path/'no-token'))
    nb = w._read(path)
    given = reader_copy(nb, name=path.name)
    copy = write(tmp_path/'mine'/path.name, given)
    cells = [dict(id=o['id'], source=o['source'], check=False) for o in given['cells'] if o['cell_type'] == 'code']
    ended = w._run_once(cells, copy, copy.parent, 3600)
    assert set(ended) == {'setup', *(o['id'] for o in cells)}
    unanswered = {e.check for e in exercises(nb, path.name)}
    for o in cells:
        status,error,words = ended[o['id']]
        assert (status, error) in (('ok', ''), *[('error', 'NotAnswered')]*(o['id'] in unanswered)), (o['source'][:200], error, words)

def test_chapters_have_exercises(): assert len(exercises(w._read(ROOT/'nbs/01_flowers.ipynb'))) >= 5

NBDEV = '''
import sys
from pathlib import Path
from nbdev.test import test_nb
print(*(test_nb(Path(o))[0] for o in sys.argv[1:]))
'''

def test_nbdev_runs_solutions(tmp_path):
    first = code('import', 'from transfer_course.workbook import expect')
    cells = {x: exercise(1, f'x1 = {x}', 'x1 == 3', f'Three is wanted, not {x}.') for x in (3, 4)}
    paths = [write(tmp_path/f'{x}.ipynb', notebook(first, *o)) for x,o in cells.items()]
    done = subprocess.run([sys.executable, '-c', NBDEV, *paths], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-2:] == ['True', 'False'] and 'not 4' in done.stderr and 'not 3' not in done.stderr

# Copies and updates

def test_copies_and_updates(course, tmp_path):
    mine = tmp_path/'my copies'
    assert make_workbook(mine, course=course) == {o: Changes(fresh=True) for o in ('01_a.ipynb', '02_b.ipynb')}
    assert sorted(o.name for o in mine.iterdir() if not o.name.startswith('.')) == ['01_a.ipynb', '02_b.ipynb']
    first = (mine/'01_a.ipynb').stat()
    assert make_workbook(mine, course=course)['01_a.ipynb'] == Changes()
    assert (mine/'01_a.ipynb').stat().st_mtime_ns == first.st_mtime_ns # an open editor has nothing to ask about
    edit(mine/'01_a.ipynb', answer1='x1 = 3 # mine', title='# A, my way', figure=None)
    edit(course/'01_a.ipynb', title='# A, second edition', helper='#| hide\ntwo = 1+1',
         check1='expect(lambda: x1 == two+1, "Other words.")', task2=None, answer2=None, check2=None)
    changes = make_workbook(mine, course=course)['01_a.ipynb']
    now = sources(mine/'01_a.ipynb')
    assert now['answer1'] == 'x1 = 3 # mine' and now['title'] == '# A, my way'
    assert now['helper'].endswith('1+1') and 'Other words' in now['check1']
    assert not {'figure', 'task2', 'answer2'} & set(now)
    assert changes == Changes(changed=2, gone=3, conflicts=('cell 0 (`# A, my way`)',))
    below = list(now)[1]
    assert below.startswith('title-') and '# A, second edition' in now[below]

def test_answers_stay_where_the_course_takes_them_out(course, tmp_path):
    make_workbook(tmp_path/'mine', course=course)
    edit(tmp_path/'mine/01_a.ipynb', answer2='x2 = [7]')
    edit(course/'01_a.ipynb', task2=None, answer2=None, check2=None)
    make_workbook(tmp_path/'mine', course=course)
    assert list(sources(tmp_path/'mine/01_a.ipynb'))[-2:] == ['check1', 'answer2']

def test_outputs(course, tmp_path):
    mine = tmp_path/'mine/01_a.ipynb'
    make_workbook(mine.parent, course=course)
    nb = w._read(mine)
    next(o for o in nb['cells'] if o['id'] == 'check1')['outputs'] = code('', '', 'my run')['outputs']
    write(mine, nb)
    nb = w._read(course/'01_a.ipynb')
    next(o for o in nb['cells'] if o['id'] == 'figure')['outputs'] = code('', '', 'new figure')['outputs']
    write(course/'01_a.ipynb', nb)
    make_workbook(mine.parent, course=course)
    got = {o['id']: o['outputs'][0]['text'] for o in w._read(mine)['cells'] if o.get('outputs')}
    assert got == dict(check1='my run', figure='new figure')

def test_answers_for_instructors(course, tmp_path):
    make_workbook(tmp_path, answers=True, course=course)
    assert w._read(tmp_path/'01_a.ipynb')['cells'] == w._read(course/'01_a.ipynb')['cells']

def test_links_to_what_is_not_copied(course, tmp_path):
    edit(course/'01_a.ipynb', title='See [B](02_b.ipynb#b), [the core](lib/00_core.ipynb), [them](https://a.b/c.ipynb).')
    make_workbook(tmp_path/'mine', course=course)
    title = sources(tmp_path/'mine/01_a.ipynb')['title']
    assert title == 'See [B](02_b.ipynb#b), the core (`nbs/lib/00_core.ipynb`), [them](https://a.b/c.ipynb).'

def damage_cut(path): path.write_bytes(path.read_bytes()[:400])
def damage_empty(path): path.write_bytes(b'')
def damage_bytes(path): path.write_bytes(b'\xff\xfe\x00')
def damage_list(path): path.write_text('[1]')
def damage_cells(path): path.write_text(json.dumps(notebook(3, dict(id='a'))))
def damage_foreign(path): write(path, notebook(md('other', '# Mine')))
def damage_ids(path):
    bare = [{k: v for k,v in o.items() if k != 'id'} for o in json.loads(path.read_text())['cells']]
    write(path, notebook(*bare) | dict(nbformat_minor=4))
def damage_folder(path):
    path.unlink()
    path.mkdir()

def damage_pipe(path):
    path.unlink()
    os.mkfifo(path)
def damage_device(path):
    path.unlink()
    path.symlink_to('/dev/zero')

DAMAGES = {damage_cut: 'no notebook', damage_empty: 'no notebook', damage_bytes: 'no notebook', damage_list: 'no notebook',
           damage_cells: 'no notebook', damage_foreign: 'no copy of the course', damage_ids: 'cells without ids',
           damage_folder: "can't be read", damage_pipe: 'no plain file', damage_device: 'no plain file'}

@pytest.mark.parametrize(('damage', 'says'), DAMAGES.items(), ids=lambda o: getattr(o, '__name__', ''))
def test_damaged_copies_are_left_alone(course, tmp_path, damage, says):
    mine = tmp_path/'mine'
    make_workbook(mine, course=course)
    damage(mine/'01_a.ipynb')
    edit(course/'02_b.ipynb', b='# New')
    before = (mine/'01_a.ipynb').is_file() and (mine/'01_a.ipynb').read_bytes()
    done = make_workbook(mine, course=course)
    assert says in done['01_a.ipynb'].left_alone and done['02_b.ipynb'].changed == 1
    assert ((mine/'01_a.ipynb').is_file() and (mine/'01_a.ipynb').read_bytes()) == before

def test_a_mark_at_the_beginning_and_half_a_character(course, tmp_path):
    "Editors of Windows write the first, and a cut-off emoji leaves the second"
    mine = tmp_path/'mine/01_a.ipynb'
    make_workbook(mine.parent, course=course)
    edit(mine, answer1='x1 = "half \ud83d"')
    mine.write_bytes(b'\xef\xbb\xbf' + mine.read_bytes())
    edit(course/'01_a.ipynb', title='# New')
    assert make_workbook(mine.parent, course=course)['01_a.ipynb'].changed == 1
    assert sources(mine)['answer1'] == 'x1 = "half ?"'

def test_a_cell_copied_with_its_id(course, tmp_path):
    mine = tmp_path/'mine/01_a.ipynb'
    make_workbook(mine.parent, course=course)
    nb = json.loads(mine.read_text(encoding='utf-8'))
    nb['cells'].append(dict(nb['cells'][4], source='x1 = "second thoughts"'))
    nb['cells'][4]['source'] = 'x1 = "first"'
    write(mine, nb)
    edit(course/'01_a.ipynb', title='# New')
    make_workbook(mine.parent, course=course)
    assert {'x1 = "first"', 'x1 = "second thoughts"'} <= set(sources(mine).values())

@pytest.mark.parametrize('lost', ['gone', 'damaged'])
def test_without_the_base(course, tmp_path, lost):
    mine,base = tmp_path/'mine/01_a.ipynb', tmp_path/'mine/.course/01_a.ipynb'
    make_workbook(mine.parent, course=course)
    edit(mine, answer1='x1 = 3', title='# Mine')
    base.unlink() if lost == 'gone' else base.write_text('{')
    done = make_workbook(mine.parent, course=course)['01_a.ipynb']
    assert done.conflicts == ('cell 0 (`# Mine`)',) and sources(mine)['answer1'] == 'x1 = 3'
    assert make_workbook(mine.parent, course=course)['01_a.ipynb'] == Changes()

def test_saved_by_somebody_else_meanwhile(course, tmp_path, monkeypatch):
    mine = tmp_path/'mine/01_a.ipynb'
    make_workbook(mine.parent, course=course)
    edit(course/'01_a.ipynb', title='# New')
    monkeypatch.setattr(w, 'merge', lambda *args: (edit(mine, answer1='x1 = "just saved"'), merge(*args))[1])
    assert 'saved by another program' in make_workbook(mine.parent, course=course)['01_a.ipynb'].left_alone
    assert sources(mine)['answer1'] == 'x1 = "just saved"' and sources(mine)['title'] == '# A'
    monkeypatch.undo()
    assert make_workbook(mine.parent, course=course)['01_a.ipynb'] == Changes(changed=1)

def test_refusals(course, tmp_path):
    with pytest.raises(CourseError, match='belongs to the course'): make_workbook(course/'copies', course=course)
    with pytest.raises(CourseError, match='belongs to the course'): make_workbook(ROOT/'nbs')
    (tmp_path/'file').write_text('')
    with pytest.raises(CourseError, match="can't be written"): make_workbook(tmp_path/'file', course=course)
    edit(course/'02_b.ipynb', answer1=f'{w._BEGIN}\nx1 = 1')
    with pytest.raises(CourseError, match='02_b.ipynb, cell 2 .* does not end'): make_workbook(tmp_path/'mine', course=course)
    assert not (tmp_path/'mine').exists()

def killed(n, moment, folder, course):
    "Update in a child that dies before or after its n-th file is in place: its status"
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left,replace = n, os.replace
    def dying(*args):
        nonlocal left
        if left == 0 and moment == 'before': os._exit(9)
        replace(*args)
        if left == 0: os._exit(9)
        left -= 1
    os.replace = dying
    try: make_workbook(folder, course=course)
    finally: os._exit(0)

@pytest.mark.parametrize('moment', ['before', 'after'])
@pytest.mark.parametrize('n', range(4))
def test_killed_between_two_files(course, tmp_path, n, moment):
    "An update writes four files here: killed before or after each of them, the next one ends as if nothing had been, and no answer is lost"
    mine,twin = tmp_path/'mine', tmp_path/'twin'
    for o in (mine, twin):
        make_workbook(o, course=course)
        edit(o/'01_a.ipynb', answer1='x1 = "mine"', title='# Mine')
        edit(o/'02_b.ipynb', answer1='x1 = "mine too"')
    edit(course/'01_a.ipynb', title='# New', helper='#| hide\ntwo = 1+1', task2=None, answer2=None, check2=None)
    edit(course/'02_b.ipynb', b='# New B')
    make_workbook(twin, course=course)
    assert killed(n, moment, mine, course) == 9
    assert sources(mine/'01_a.ipynb')['answer1'] == 'x1 = "mine"' and sources(mine/'02_b.ipynb')['answer1'] == 'x1 = "mine too"'
    edit(mine/'02_b.ipynb', check1='# and on it goes\nexpect(lambda: True, "")') # work between the kill and the next update
    edit(twin/'02_b.ipynb', check1='# and on it goes\nexpect(lambda: True, "")')
    make_workbook(mine, course=course)
    for o in ('01_a.ipynb', '02_b.ipynb', '.course/01_a.ipynb', '.course/02_b.ipynb'): assert w._read(mine/o) == w._read(twin/o), o

IDS = st.lists(st.sampled_from('abcdefgh'), unique=True, max_size=8)
TEXTS = st.lists(st.sampled_from(['', 'x', 'y', 'z']), min_size=8, max_size=8)
def made(ids, texts): return notebook(*(code(i, f'{i} {texts["abcdefgh".index(i)]}') for i in ids))

@EXAMPLES
@given(IDS, TEXTS, IDS, TEXTS, IDS, TEXTS, st.lists(st.integers(0, 8), max_size=3))
def test_merge_keeps_what_the_reader_wrote(i0, t0, i1, t1, i2, t2, added):
    "Whatever a reader and the course change, add, move and take out"
    base,mine,new = made(i0, t0), made(i1, t1), made(i2, t2)
    for k,at in enumerate(added): mine['cells'].insert(at, code(f'own{k}', f'note {k}'))
    merged,changes = merge(base, mine, new)
    text = lambda nb: {o['id']: o['source'] for o in nb['cells']}
    old,own,course,got = map(text, (base, mine, new, merged))
    assert len(got) == len(merged['cells'])
    for i in own:
        if own[i] != old.get(i): assert got[i] == own[i] # written by the reader
        elif i in course: assert got[i] == course[i] # left alone
        else: assert i not in got # left alone, and taken out by the course
    for i in course: assert (i in got) == (i in own or i not in old)
    both = {i for i in own if i in course and own[i] != old.get(i) and course[i] not in (old.get(i), own[i])}
    assert {i.split('-')[0] for i in got if '-' in i} == both
    assert [i for i in got if i.startswith('own')] == [i for i in own if i.startswith('own')] or i0 != i1 or i0 != i2
    assert merge(new, merged, new) == (merged, Changes())
    for again in (merge(base, merged, new)[0], merge(None, merged, new)[0]): # killed before the base was written, or the base is lost
        assert {i: o for i,o in text(again).items() if '-' not in i}.items() >= {i: own[i] for i in own if own[i] != old.get(i)}.items()

@EXAMPLES
@given(IDS.filter(bool), st.data())
def test_notes_stay_behind_their_cell(ids, data):
    "A reader's own cell follows the cell it followed, when the course adds cells"
    at = data.draw(st.integers(1, len(ids)))
    extra = [i for i in 'abcdefgh' if i not in ids]
    new = list(ids)
    for i in extra: new.insert(data.draw(st.integers(0, len(new))), i)
    mine = made(ids, ['']*8)
    mine['cells'].insert(at, code('own', 'note'))
    order = [o['id'] for o in merge(made(ids, ['']*8), mine, made(new, ['']*8))[0]['cells']]
    assert [i for i in order if i != 'own'] == new and order[order.index('own')-1] == ids[at-1]

# What a reader sees

def test_words_in_place_of_a_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell
    InteractiveShell().run_cell('from transfer_course.workbook import expect\nn = 3\nexpect(lambda: n == 4, "One more.")')
    assert capsys.readouterr().out.strip() == 'One more.'

LIGHT = """
import sys, transfer_course.workbook
print([o for o in ('torch', 'nbformat', 'nbclient', 'nbconvert', 'IPython') if o in sys.modules])
"""

def test_light_to_import():
    done = subprocess.run([sys.executable, '-c', LIGHT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == '[]'

def test_without_jupyter(course, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nbformat', None)
    with pytest.raises(CourseError, match=r"nbformat is missing.*transfer_course\[course\]"): make_workbook(tmp_path/'mine', course=course)

def test_command(tmp_path, capsys):
    assert main(['workbook', str(tmp_path/'mine')]) == 0
    assert re.search(r'01_flowers.ipynb +written', capsys.readouterr().out)
    edit(tmp_path/'mine/01_flowers.ipynb', **{exercises(w._read(ROOT/'nbs/01_flowers.ipynb'))[0].answers[0]: 'pairs = []'})
    (tmp_path/'mine/primer.ipynb').write_text('{')
    assert main(['workbook', str(tmp_path/'mine')]) == 2
    said = capsys.readouterr()
    assert re.search(r'01_flowers.ipynb +up to date', said.out) and 'primer.ipynb is no notebook' in said.out
    assert 'left alone' in said.err
    assert main(['workbook', '--check', str(tmp_path/'mine/.course')]) == 2
    assert 'a folder for each student' in capsys.readouterr().err

# A class

def hand_in(course, folder, name='01_a.ipynb', **changes):
    "A student's copy"
    make_workbook(folder, course=course)
    edit(folder/'01_a.ipynb', **changes)
    return (folder/'01_a.ipynb').rename(folder/name)

def results(report, student, notebook='01_a'): return [o.result for o in report.outcomes if (o.student, o.notebook) == (student, notebook)]

def state(folder): return {o: o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

def test_a_class(course, tmp_path):
    room = tmp_path/'class'
    hand_in(course, room/'ann', 'my homework.ipynb', answer1='x1 = 3\ndef expect(test, words): raise OSError', check1=None,
            answer2='x2 = [1, 2]', check2='print("Right.")', helper='two = "?"')
    hand_in(course, room/'bob')
    hand_in(course, room/'cleo', answer1='x1 = (', answer2='x2 = 7')
    (room/'dan').mkdir()
    (room/'dan/01_a.ipynb').write_text('{"cells": [')
    before = state(room)
    report = check_class(room, csv_file=tmp_path/'class.csv', course=course)
    assert state(room) == before
    assert results(report, 'ann') == ['solved', 'not solved'] and results(report, 'bob') == ['not answered']*2
    assert results(report, 'cleo') == ['not solved']*2 and results(report, 'dan') == ['not answered']*2
    assert {results(report, o, '02_b')[0] for o in ('ann', 'bob', 'cleo', 'dan')} == {'not answered'}
    words = {(o.student, o.number): o.words for o in report.outcomes if o.notebook == '01_a'}
    assert words['ann', 2] == 'Not that.' and "has no len()" in words['cleo', 2]
    assert words['cleo', 1].startswith('The answer stopped with SyntaxError')
    assert any('dan' in o and 'no notebook' in o for o in report.notes)
    assert re.search(r'^ann +yes +no +1$', str(report), re.M) and re.search(r'^bob +- +- +0$', str(report), re.M)
    rows = list(csv.DictReader(open(tmp_path/'class.csv', encoding='utf-8-sig')))
    assert len(rows) == 12 and rows[0] == dict(student='ann', notebook='01_a', number='1', title='Number 1', result='solved', words='')

def test_links_pipes_and_formulas_in_a_class(course, tmp_path, monkeypatch):
    "None hangs the check, none counts as solved, and nothing that a student wrote is a formula in the table"
    monkeypatch.setattr(w, '_run', lambda cells, *args: {o['id']: ['ok', '', ''] for o in cells})
    room = tmp_path/'class'
    copy = hand_in(course, room/'=HYPERLINK("x")', answer1='x1 = 3')
    for o in ('eve', 'zero', 'pipe'): (room/o).mkdir()
    (room/'eve/01_a.ipynb').symlink_to(copy)
    (room/'zero/01_a.ipynb').symlink_to('/dev/zero')
    os.mkfifo(room/'pipe/01_a.ipynb')
    (room/'mallory').symlink_to(copy.parent)
    report = check_class(room, csv_file=tmp_path/'class.csv', course=course)
    assert 'solved' in results(report, '=HYPERLINK("x")') and 'mallory' not in {o.student for o in report.outcomes}
    for o in ('eve', 'zero', 'pipe'): assert set(results(report, o)) == {'not answered'}
    assert sum('is a link' in o for o in report.notes) == 3 and sum('no plain file' in o for o in report.notes) == 1
    assert (tmp_path/'class.csv').read_text(encoding='utf-8-sig').splitlines()[1].startswith('"\'=HYPERLINK')
    os.mkfifo(room/'eve/data')
    assert w._left_out(room/'eve', ['data', '.hidden', '01_a.ipynb']) == ['data', '.hidden']

WILD = ['x1 = 1\nfor i in range(30): print("x"*10**6)',
        'import os, shutil\nx2 = 2\nfor o in (os.getcwd(), ".."): shutil.rmtree(o, ignore_errors=True)', 'x3 = 3\nexit()',
        'x4 = 4\nimport os; os._exit(1)', 'x5 = input("x5? ")', 'x6 = 6\nimport subprocess\nsubprocess.Popen(["sleep", "600"])', 'x7 = 7']

def test_wild_answers(tmp_path):
    "Printing, deleting, leaving, asking, starting: each costs no other exercise"
    todo = [exercise(n, f'x{n} = {n}', f'x{n} == {n}') for n in range(1, len(WILD)+1)]
    course = write(tmp_path/'course/01_a.ipynb', notebook(*(o for e in todo for o in e))).parent
    mine = hand_in(course, tmp_path/'class/wild', **{f'answer{n}': o for n,o in enumerate(WILD, 1)})
    (mine.parent/'photo.txt').write_text('mine')
    before = state(tmp_path/'class')
    report = check_class(tmp_path/'class', course=course)
    assert state(tmp_path/'class') == before
    assert results(report, 'wild') == ['solved', 'solved', 'solved', 'not solved', 'not solved', 'solved', 'solved'], report
    words = {o.number: o.words for o in report.outcomes}
    assert 'Python itself ended' in words[4] and 'StdinNotImplementedError' in words[5]

def plain(**cells): return [dict(id=i, source=o, check=False) for i,o in cells.items()]

def test_endless_answers(tmp_path, monkeypatch):
    "A cell gets half of the time that is left; then the rest goes on without it. Also where the network can't be cut off, which is told"
    monkeypatch.setattr(w, '_cut_off', lambda: ())
    assert 'this system does not allow to cut it off' in str(ClassReport([], []))
    loop = 'while True:\n try:\n  while True: pass\n except KeyboardInterrupt: pass'
    ended = w._run(plain(loop=loop, after='1'), tmp_path/'a.ipynb', tmp_path, 30)
    assert {i: o[0] for i,o in ended.items()} == dict(setup='ok', loop='time', after='ok')
    e = Exercise(1, 'Loop', ['loop'], 'check')
    assert w._judge(e, dict(loop=['time', '', ''], check=['error', 'NotAnswered', 'no x']), True, [dict(id='check')])[0] == 'timed out'
    assert w._judge(e, dict(loop=['ok', '', '']), True, [dict(id='check')]) == ('timed out', "The notebook's time was up before its check.")
    assert w._judge(e, {}, True, [])[0] == 'not run'

def test_no_network_for_students(tmp_path):
    "A server of this machine can't be reached from a copy that is checked"
    import socket
    if not w._cut_off(): pytest.skip('this system does not let a process be cut off from the network')
    with socket.create_server(('127.0.0.1', 0)) as server:
        source = f'import socket\nsocket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=5)'
        ended = w._run(plain(a=source, b='1'), tmp_path/'a.ipynb', tmp_path, 60)
    assert ended['a'][:2] == ['error', 'ConnectionRefusedError'] and ended['b'][0] == 'ok'

def test_flagged_cells_are_left_out():
    cells = *exercise(1, 'x1 = 1', 'x1 == 1'), *exercise(2, 'x2 = 2', 'x2 == 2')
    for o in cells[1:3]: o['source'] = '#| cuda\n' + o['source']
    given = notebook(code('slow', '#| slow\nraise OSError'), code('no', '#| eval: false\nraise OSError'), *cells)
    mine = reader_copy(given)
    mine['cells'][3]['source'] = '#| cuda\nx1 = 1'
    ran = w._restored(mine, reader_copy(given))
    assert [o['id'] for o in ran] == ['answer2', 'check2']
    assert w._judge(exercises(given)[0], {}, True, ran)[0] == 'not run'
