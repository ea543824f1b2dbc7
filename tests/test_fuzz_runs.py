"""Damaged results: what reads them says so in a sentence or a warning, and what is whole is still shown.

Each case damages one file of a small chapter of six runs: its text (cut, flipped, another encoding) or one value in it (another type, a huge number, gone)."""
import copy, csv, functools, gzip, io, json, os, random, shutil, warnings
from pathlib import Path

import pytest
from transfer_course import claims, core, experiment
from transfer_course.core import CourseError, course_path, read_json, write_json
from transfer_course.data.sets import aside_path, get_data, own_data
from transfer_course.data.splits import Split
from transfer_course.stats import wilson
from transfer_course.results.store import find_run, load_runs, read_run
from watched import judge, watch

CLASSES = 'daisy', 'rose'
PHOTOS = {part: [f'{CLASSES[i%2]}/{part}{i}.jpg' for i in range(n)] for part,n in dict(train=40, valid=30, test=20).items()}

# --- A chapter ---

def answers(arm, seed, part):
    "(part, name, target, pred, probabilities) a photo: the pretrained arm errs less"
    rng = random.Random(f'{arm}{seed}{part}')
    for name in PHOTOS[part]:
        target = name.split('/')[0]
        p = round(rng.random()**(3 if arm=='pretrained' else 1), 5)
        p = p if target=='rose' else 1-p
        yield part, name, target, CLASSES[p < .5], round(1-p, 5), round(p, 5)

def score(rows):
    k,n = sum(o[2]==o[3] for o in rows), len(rows)
    return dict(n=n, correct=k, acc=k/n, interval=list(wilson(k, n)), loss=.5)

def chapter(root):
    "Six runs, their answers, their split and a file of facts, as the course writes them"
    folder,split = root/'flowers', Split(**PHOTOS, name='article')
    write_json(folder/'splits'/f'{split.fingerprint}.json', split.to_dict())
    for seed in range(3):
        for arm in 'pretrained', 'random':
            rows = [o for part in ('valid', 'test') for o in answers(arm, seed, part)]
            parts = {part: score([o for o in rows if o[0]==part]) for part in ('valid', 'test')}
            name = f'quick-resnet18-192px-fine_tune3-{arm}-s{seed}'
            acc = parts['valid']['acc']
            epochs = [dict(epoch=i, phase=int(i>0), train_loss=.5, train_acc=acc, train_seconds=9., valid_loss=.5, valid_acc=acc, valid_seconds=1., seconds=10., total_seconds=10.*i+10) for i in range(9)]
            write_json(folder/f'{name}.json', dict(format=1, chapter='flowers', name=name, group='quick-resnet18-192px-fine_tune3', scale='quick', arm=arm, seed=seed, arch='torchvision:resnet18', status='finished',
                settings=dict(size=192, method='squish', bs=64, schedule='fine_tune3', phases=[dict(epochs=1, lr=[None, .002], frozen=True, pct_start=.99, div=25.), dict(epochs=8, lr=[1e-5, 1e-3], frozen=False, pct_start=.3, div=5.)],
                              head='fastai', per_class=None, keep='last', patience=None, augment='none', classes=list(CLASSES), normalize=dict(mean=[.5]*3, std=[.5]*3), arch_kwargs={}),
                weights=dict(asked='imagenet' if arm=='pretrained' else 'random', source='shelf', genuine=True, sha256='0'*64, what='made up'),
                data=dict(name='flowers', source='shelf', sha256='0'*64, photos=90, complete=True, recoded=None, part=None, stands_for=None, stand_in=None, fingerprint='0'*12, set_aside=0,
                          split=dict(name='article', **split.sizes, fingerprint=split.fingerprint)),
                numerics=dict(train='fp32', evaluate='fp32', channels_last=False, why='by hand'), machine=dict(cpu='none', kind='plain', cores=2, threads=1, memory_gb=8, gpu=None, system='Linux'),
                versions=dict(python='3.11'), code=dict(commit='0'*12, dirty=False, modules=dict(core='0'*12, data='1'*12)),
                parameters=dict(total=10, trainable=5, frozen=5, bn_statistics=0, keras_total=10, keras_trainable=5, keras_frozen=5, phases=[5, 10]),
                epochs=epochs, best_epoch=0, kept_epoch=8, valid=parts['valid'], test=dict(parts['test'], epoch=8, opened='2026-11-21'), seconds=90., peak_memory_mb=1000))
            text = io.StringIO()
            csv.writer(text, lineterminator='\n').writerows([('part', 'name', 'target', 'pred', *(f'p_{c}' for c in CLASSES)), *rows])
            (folder/f'{name}.answers.csv.gz').write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    write_json(folder/'facts.json', dict(facts=dict(photos=dict(value=90, how='photos in the folders'), pairs_under_two_labels=dict(value=4, how='of these', n=6, interval=[.1, .9])),
                                         data=dict(name='flowers', complete=True, recoded=None), code=dict(commit='0'*12, dirty=False, modules=dict(data='0'*12))))
    return folder

# --- Damage ---

JUNK = [None, True, False, -1, 0, 1, 0.5, 10**18, 10**400, -10**400, 1e308, float('nan'), float('inf'), '', 'x', '../../evil', 'a\0b', 'a/b', '\ud800', 'é'*300, [], [None], {}, {'a': 1}, [[]]*3, [{}]*9, 'running', 'finished', 'pretrained', [0.1, 'x']]

def spots(d, at=()):
    "Every place in a JSON value"
    for k,v in d.items() if isinstance(d, dict) else enumerate(d) if isinstance(d, list) else ():
        yield (*at, k)
        yield from spots(v, (*at, k))

def damage_value(rng, text):
    "One or two values of another kind, doubled, or gone"
    d = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        places = list(spots(d))
        if not places: break
        *way,last = rng.choice([o for o in places if len(o) <= rng.choice([1, 2, 3, 9])] or places) # the list of epochs would take most of the hits
        inner = functools.reduce(lambda o, k: o[k], way, d)
        kind = rng.randrange(8)
        if kind==0: del inner[last]
        elif kind==1: inner[last] = copy.deepcopy(functools.reduce(lambda o, k: o[k], rng.choice(places), d))
        else: inner[last] = rng.choice(JUNK)
    return json.dumps(d, indent=1).encode()

def damage_text(rng, text):
    "A file as disks, editors and merges leave it"
    body = bytearray(text)
    kind = rng.randrange(12)
    if kind==0: return bytes(body[:rng.randrange(len(body))])
    if kind==1: return bytes(body[rng.randrange(len(body)):])
    if kind==2: return text.decode('latin-1').encode(rng.choice(['utf-16', 'utf-32', 'utf-8-sig', 'utf-7']))
    if kind==3: return rng.choice([b'', b' ', b'null', b'[]', b'{}', b'3', b'"x"', b'[{}]', b'NaN', b'\xff\xfe', bytes(1000), b'<<<<<<< HEAD\n'+text, text+text])
    if kind==4: return rng.choice([b'['*100_000, b'{"a":'*100_000, b'['*100_000 + b']'*100_000])
    if kind==5: return text.replace(b'192', b'9'*5000).replace(b'90', b'9'*5000)
    if kind==6: return text.replace(rng.choice([b'0', b'.', b'"', b',', b':', b'true', b'null']), rng.choice([b'', b'""', b'1e999', b'-', b'\\ud800']))
    if kind==7: at = rng.randrange(len(body)); body[at:at+64] = bytes(64)
    else:
        for _ in range(rng.choice([1, 3, 20])): body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return bytes(body)

def damage_answers(rng, body):
    "The gzip, or the table in it"
    if rng.random() < .4: return damage_text(rng, body) if rng.random() < .3 else bytes(damage_bytes(rng, bytearray(body)))
    rows = list(csv.reader(io.StringIO(gzip.decompress(body).decode())))
    i,j = rng.randrange(len(rows)), rng.randrange(len(rows[0]))
    kind = rng.randrange(9)
    if kind==0: rows[i][j] = rng.choice(['', 'x', 'nan', '1e999', '-1', '"', '\0', '9'*5000, 'daisy'])
    elif kind==1: del rows[i][j]
    elif kind==2: rows[i].append('x')
    elif kind==3: rows.insert(i, rows[max(1, i-1)]) # a photo twice
    elif kind==4: del rows[i]
    elif kind==5: rows[0][j] = rng.choice(['', 'x', rows[0][0]])
    elif kind==6: rows = [o[:j]+o[j+1:] for o in rows] # a column gone
    elif kind==7: rows = rows[:rng.choice([0, 1, 2])]
    else: rows = [[o.replace('daisy', 'däisy') for o in r] for r in rows]
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return gzip.compress(text.getvalue().encode(rng.choice(['utf-8', 'utf-8', 'utf-8', 'utf-16', 'latin-1'])))

def damage_bytes(rng, body):
    if rng.random() < .5: return body[:rng.randrange(len(body))]
    for _ in range(rng.choice([1, 5, 50])): body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    return body

def damaged(number, path):
    "What stands in a file in this case"
    rng,body = random.Random(number), path.read_bytes()
    if path.suffix=='.gz': return damage_answers(rng, body)
    return (damage_value if rng.random() < .75 else damage_text)(rng, body)

# --- Everything that reads results ---

def told(f, *args, **kw):
    "What `f` gives, or None after a sentence; anything else goes on upwards"
    try: return f(*args, **kw)
    except CourseError as e:
        assert len(str(e)) < 2000 and '\n' not in str(e), str(e)[:300]

def use(runs, name):
    "Whatever the course does with runs"
    from transfer_course.results.report import board_markdown, caption, compare_table, figure_for, most_wrong, plot_confusion, plot_curves, plot_learning_curve
    for f in compare_table, caption, plot_curves, plot_confusion: told(f, runs)
    told(plot_learning_curve, dict(all=runs))
    told(experiment.paired_difference, [r for r in runs if r.arm=='pretrained'], [r for r in runs if r.arm=='random'])
    for r in runs:
        if r.path.stem != name: continue
        repr(r); r.time_to(.5); r.plateaued()
        for f in r.answers, r.split: told(f)
        told(most_wrong, r)

def board_and_more():
    from transfer_course.cli import main
    from transfer_course.results.report import board_markdown
    if rows := told(claims.board, own=True): claims.board_text(rows); board_markdown(rows); json.dumps([o.to_dict() for o in rows])
    if rows := told(claims.stale, own=True): [str(o) for o in rows]; json.dumps([o.to_dict() for o in rows])
    # The command line too, with the chapter in the place of the committed results
    for args in (['claims'], ['claims', '--json'], ['claims', '--stale'], ['runs', '--list', '--stale']): assert main(args) in (0, 2)

@functools.cache
def whole(folder):
    "The chapter in the place of the committed results and of the reader's own; nothing of the course's is read or written"
    import contextlib, sys
    root = folder/'results'
    chapter(root)
    os.environ['TRANSFER_COURSE_RUNS'] = str(root)
    elsewhere = lambda *parts: root.joinpath(*parts[2:]) if parts[:2]==('data', 'results') else course_path(*parts)
    core.course_path = elsewhere # where `results_path` asks
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    return root/'flowers'

def files(folder): return sorted(o for o in folder.rglob('*') if o.is_file())

def attempt(number, folder):
    "Damage one file, read everything, put it back"
    home = whole(folder)
    before = files(home)
    path = before[number % len(before)]
    body = path.read_bytes()
    other = [o.stem for o in before if o.parent==home and o.suffix=='.json' and o.name!='facts.json' and o != path]
    path.write_bytes(damaged(number, path))
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            runs = load_runs('flowers')
            assert {r.path.stem for r in runs} >= set(other), 'a damaged file hides others'
            use(runs, path.name.split('.')[0])
            if path.suffix=='.json': told(find_run, path.stem); told(read_run, path)
            board_and_more()
    finally: path.write_bytes(body)
    assert files(home)==before, 'something was written'
    return 'warned' if any('.json' in str(o.message) for o in said) else 'quiet'

# --- The tests ---

def test_some_damaged_results(): judge(watch('test_fuzz_runs', [*range(150), 586, 672, 1040, 2016])) # the last four were faults once

@pytest.mark.slow
def test_three_thousand_damaged_results(): judge(watch('test_fuzz_runs', range(150, 3150)))

def test_a_whole_chapter_is_read(tmp_path, monkeypatch):
    "What is not damaged comes out: otherwise the tests above could pass on nothing"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    chapter(tmp_path)
    runs = load_runs('flowers', committed=False)
    assert len(runs)==6 and all(r.split().sizes==dict(train=40, valid=30, test=20) and len(r.answers())==50 for r in runs)
    assert experiment.paired_difference(runs[:3], runs[3:])['n'] == 30

def test_what_a_killed_process_leaves_is_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    run = sorted(chapter(tmp_path).glob('*-s0.json'))[0]
    for left in (f'.{run.stem}.12-abcdef.part.json', f'.{run.stem}.13-abcdef.part.json'): shutil.copy(run, run.with_name(left))
    run.with_name(f'.{run.stem}.14-abcdef.part.json').write_text('{"half": ')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(load_runs('flowers', committed=False)) == 6
    assert not [o for o in claims.stale(own=True) if '.part' in o.file]
    with pytest.raises(CourseError, match='no run'): find_run(f'.{run.stem}.12-abcdef.part')

@pytest.mark.parametrize('text', ['[]', '{}', '{"names": 3}', '{"names": ', 'null', '3'])
def test_a_damaged_list_of_what_was_set_aside_is_a_sentence(tmp_path, monkeypatch, text):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    for c in 'ab': (tmp_path/'own'/c).mkdir(parents=True); (tmp_path/'own'/c/'1.jpg').write_bytes(b'x')
    path = aside_path('own:own', tmp_path/'own')
    path.parent.mkdir(parents=True); path.write_text(text)
    with pytest.raises(CourseError, match='set_aside.json'): own_data(tmp_path/'own')

@pytest.mark.parametrize('d', [{}, [], None, 3, dict(train=[], valid=[]), dict(train=3, valid=[], test=[], name='x'), dict(train=[[]], valid=[], test=[], name='x'), dict(train=[1], valid=['a'], test=[], name='x'), dict(train='abc', valid=[], test=[], name='x')])
def test_what_is_no_split_is_a_sentence(d):
    with pytest.raises(CourseError): Split.from_dict(d)

@pytest.mark.parametrize('text', ['['*100_000, '{"a": ' + '9'*5000 + '}', '{', '', '\ud800'], ids=['deep', 'long number', 'cut', 'empty', 'surrogate'])
def test_json_that_cannot_be_read_is_a_sentence(tmp_path, text):
    (tmp_path/'x.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    with pytest.raises(CourseError, match='x.json is damaged'): read_json(tmp_path/'x.json')
    (tmp_path/'folder.json').mkdir()
    with pytest.raises(CourseError, match='folder.json'): read_json(tmp_path/'folder.json')
