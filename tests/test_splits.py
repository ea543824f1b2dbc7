"What the splits promise, for any names: nobody moves, nobody is in two parts, copies stay together. `--slow` tries more names."
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transfer_course.core import CourseError
from transfer_course.data.sets import DataSet, get_data, natural_key, own_data
from transfer_course.data.splits import (
    Split,
    few_per_class,
    first_of_each,
    get_split,
    hash_unit,
    held_out,
    random_split,
    split_by_folder,
    split_by_hash,
    split_flowers_article,
    split_sample,
    stem_key,
)

# The same examples each time, and no folder of them
settings.register_profile('repeatable', derandomize=True, deadline=None, max_examples=300 if '--slow' in sys.argv else 25, database=None)
settings.load_profile('repeatable')

# Names as cameras, websites and people give them, and whatever a file system takes
PLAIN = st.from_regex(r'(IMG_[0-9]{4}|[0-9]{1,11}_[0-9a-f]{10}(_[a-z])?|'
                      r'[a-z]{1,8}( \([0-9]\)| - Copy|_copy| kopie \(2\))?)', fullmatch=True)
WILD = st.text(st.characters(exclude_categories=['Cs', 'Cc'], exclude_characters='/'), min_size=1, max_size=12
               ).filter(lambda o: re.search(r'\w$', o) and o[0] != '.')
STEM,ENDING = PLAIN | WILD, st.sampled_from(['.jpg', '.JPG', '.jpeg', '.png'])
CLASSES = 'cat', 'dog', 'Vögel'
BASE = {f'{c}/photo {i}.jpg' for c in CLASSES for i in range(8)} # so that hardly an example leaves a class nothing to train with
NAMES = st.lists(st.builds('{}/{}{}'.format, st.sampled_from(CLASSES), STEM, ENDING), max_size=40).map(lambda o: sorted(BASE.union(o)))
IN_FOLDER = st.builds('{}/{}/{}.jpg'.format, st.sampled_from(['train', 'Valid', 'test']), st.sampled_from(CLASSES), STEM)
FOLDERS = st.lists(IN_FOLDER, max_size=40).map(lambda o: sorted({f'train/{x}' for x in BASE}.union(o)))
SHARES = st.sampled_from([(.2, 0.), (.2, .2), (.5, .25), (.1, .3)])

def data_set(names):
    "A `DataSet` of names that are on no disk"
    names = sorted(names)
    return DataSet('made', Path('nowhere'), names, {o: o.split('/')[-2] for o in names}, dict(set_aside=0))

def split_or_skip(f, *args, **kw):
    "A split; examples that leave a class nothing to train with are refused, and passed over"
    try: return f(*args, **kw)
    except CourseError as e:
        assert re.search('left to train with|has one picture|fell to validation', str(e))
        assume(False)

def whole(split, names):
    "Each name in one part, and no other"
    assert sorted(split.train + split.valid + split.test) == sorted(names)

def moved_without_reason(names, more, before, after):
    "Who is in another part than before; a numbered copy may be, where its original came"
    def came(o): return any(Path(m).parent == Path(o).parent and Path(o).stem.startswith(Path(m).stem) for m in more)
    return [o for o in names if after[o] != before[o] and not (re.search(r'\(\d+\)', Path(o).stem) and came(o))]

# --- By hash ---

@given(NAMES, NAMES, SHARES, st.text(max_size=3))
def test_nobody_moves_when_pictures_are_added(names, more, shares, salt):
    before = split_or_skip(split_by_hash, data_set(names), *shares, salt).part_of()
    after = split_or_skip(split_by_hash, data_set({*names, *more}), *shares, salt).part_of()
    assert moved_without_reason(names, more, before, after) == []

@given(NAMES, SHARES, st.randoms())
def test_the_order_of_the_disk_does_not_count(names, shares, random):
    ds = data_set(names)
    first = split_or_skip(split_by_hash, ds, *shares)
    random.shuffle(ds.names)
    again = split_by_hash(ds, *shares)
    assert (again, again.fingerprint) == (first, first.fingerprint)
    whole(first, names)

COPIES = st.sampled_from([' (1)', '(12)', ' - Copy', ' - copy (2)', '_copy', ' kopie', ' - Copy (3)', '-copie'])

@given(NAMES, SHARES, COPIES, ENDING)
def test_near_copies_go_with_their_originals(names, shares, mark, ending):
    copies = {o: str(Path(o).with_name(Path(o).stem + mark + ending)) for o in names}
    parts = split_or_skip(split_by_hash, data_set({*names, *copies.values()}), *shares).part_of()
    assert all(parts[o]==parts[c] for o,c in copies.items())

@given(st.integers(1, 10**10), st.integers(0, 16**10-1), st.sampled_from('mnstzqc'), STEM, ENDING, st.text(max_size=20))
def test_stems_and_hashes(number, secret, size, stem, ending, key):
    assert stem_key(f'cat/{number}_{secret:010x}_{size}.jpg') == stem_key(f'dog/{number}_{secret:010x}.JPG')
    found = stem_key(f'cat/{stem}{ending}')
    assert found and found == stem_key(f'dog/{found}{ending}') # taking marks off ends, and once is enough
    assert 0 <= hash_unit(key) < 1 and hash_unit(key) == hash_unit(key)

def test_shares_are_about_what_was_requested():
    ds = data_set([f'{c}/{i:05}.jpg' for c in CLASSES for i in range(2000)])
    split,other = split_by_hash(ds, .2, .1), split_by_hash(ds, .2, .1, salt='x')
    assert abs(len(split.valid)/6000 - .2) < .02 and abs(len(split.test)/6000 - .1) < .015
    assert abs(len(set(split.test) & set(other.test))/len(split.test) - .1) < .05 # another salt: they share what chance gives

@given(NAMES, st.sampled_from(CLASSES))
def test_a_class_of_one_picture_is_refused(names, lonely):
    names = [o for o in names if not o.startswith(lonely)] + [f'{lonely}/only.jpg']
    with pytest.raises(CourseError, match='picture'): split_by_hash(data_set(names), .2, .2)

# --- A split itself ---

PARTS_OF = st.lists(st.tuples(WILD, st.integers(0, 2)), max_size=40, unique_by=lambda o: o[0]
                    ).map(lambda o: [[n for n,p in o if p==k] for k in range(3)])

@given(PARTS_OF, st.randoms(), WILD)
def test_a_split_is_what_it_says_in_any_order(parts, random, name):
    split = Split(*parts, name=name)
    for o in parts: random.shuffle(o)
    again = Split(*parts, name='another name')
    assert again.fingerprint == split.fingerprint and (again.train, again.valid, again.test) == (split.train, split.valid, split.test)
    assert Split.from_dict(split.to_dict()) == split
    assert list(split.sizes.values()) == [len(o) for o in parts]
    assert all(n in getattr(split, p) for n,p in split.part_of().items())

@given(PARTS_OF, st.data())
def test_a_picture_in_two_parts_is_refused(parts, data):
    assume(any(parts))
    twice = data.draw(st.sampled_from([n for o in parts for n in o]))
    parts[data.draw(st.integers(0, 2))].append(twice)
    with pytest.raises(CourseError, match='in two parts or twice in one'): Split(*parts)

@given(PARTS_OF, st.data())
def test_another_list_has_another_fingerprint_and_is_refused(parts, data):
    assume(any(parts))
    d = Split(*parts).to_dict()
    part = data.draw(st.sampled_from([o for o in ('train', 'valid', 'test') if d[o]]))
    kind = data.draw(st.sampled_from(['gone', 'renamed', 'moved']))
    lost = d[part].pop(data.draw(st.integers(0, len(d[part])-1)))
    if kind=='renamed': d[part].append(lost + '~')
    if kind=='moved': d[{'train': 'valid', 'valid': 'test', 'test': 'train'}[part]].append(lost)
    assume(len({*d['train'], *d['valid'], *d['test']}) == len(d['train']+d['valid']+d['test']))
    with pytest.raises(CourseError, match='was edited'): Split.from_dict(d)

@pytest.mark.parametrize('d', [None, [], {}, dict(name='x', train='ab', valid=[]), dict(name=1, train=[], valid=[], test=[])])
def test_what_is_no_split(d):
    with pytest.raises(CourseError, match='This is no split'): Split.from_dict(d)

# --- Few, first, folders ---

@given(NAMES, st.integers(0, 3), st.integers(0, 5), st.integers(0, 5))
def test_few_are_among_more_and_leave_the_rest_alone(names, seed, n, more):
    ds = data_set(names)
    split = split_or_skip(split_by_hash, ds, .2, .2)
    have = [sum(ds.labels[o]==c for o in split.train) for c in ds.classes]
    n,more = sorted((min(n, *have), min(n+more, *have)))
    few,many = few_per_class(split, ds, n, seed), few_per_class(split, ds, more, seed)
    assert set(few.train) <= set(many.train) <= set(split.train)
    assert all(sum(ds.labels[o]==c for o in few.train) == n for c in ds.classes)
    assert (few.valid, few.test) == (split.valid, split.test) and few_per_class(split, ds, None) is split
    with pytest.raises(CourseError, match='ask for fewer'): few_per_class(split, ds, max(have)+1, seed)

def test_seeds_draw_different_few():
    ds = data_set([f'{c}/{i:03}.jpg' for c in CLASSES for i in range(100)])
    split = split_by_hash(ds, .2)
    assert len({tuple(few_per_class(split, ds, 10, seed).train) for seed in range(10)}) == 10

@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True), st.integers(1, 12), NAMES)
def test_the_first_are_the_first_a_file_manager_shows(numbers, n, names):
    ds = data_set([f'{c}/Photo {i}.jpg' for c in CLASSES for i in numbers])
    for natural,plain in (natural_key, None), (None, str):
        assert first_of_each(ds, n, key=natural) == sorted(f'{c}/Photo {i}.jpg' for c in CLASSES for i in sorted(numbers, key=plain)[:n])
    ordered = sorted(sorted(names), key=natural_key) # any names can be sorted
    assert sorted(sorted(reversed(names)), key=natural_key) == ordered

@given(FOLDERS)
def test_folders_decide(names):
    split = split_or_skip(split_by_folder, data_set(names))
    whole(split, names)
    assert set(split.test) == {o for o in names if o.startswith('test')}
    valid = {o for o in names if o.startswith('Valid')}
    assert set(split.valid) == valid if valid else all(o.startswith('train') for o in split.valid)

@given(FOLDERS, FOLDERS)
def test_without_a_folder_to_validate_on_nobody_moves_either(names, more):
    names,more = ([o for o in x if not o.startswith('Valid')] for x in (names, more))
    before = split_or_skip(split_by_folder, data_set(names)).part_of()
    after = split_or_skip(split_by_folder, data_set({*names, *more})).part_of()
    assert moved_without_reason(names, more, before, after) == []

@given(st.lists(st.integers(0, 10**9), min_size=0, max_size=60, unique=True), st.floats(0, 1), st.integers(0, 2**31))
def test_a_random_split_loses_nobody(numbers, valid, seed):
    names = [f'{i}.jpg' for i in sorted(numbers)]
    train,held = random_split(names, valid, seed)
    assert sorted(train+held) == sorted(names) and len(held) == int(valid*len(names))
    assert (train, held) == random_split(names, valid, seed)

# --- The course's own ---

def test_the_articles_split_holds_out_the_list():
    ds = data_set({*held_out(), *held_out('plain'), *(f'{c}/{i}_n.jpg' for c in ('daisy', 'rose') for i in range(100))})
    for order in 'natural', 'plain':
        split = split_flowers_article(ds, order=order)
        assert split.test == sorted(held_out(order)) and len(split.test) == 250
        whole(split, ds.names)
    fewer = data_set(set(ds.names) - {held_out()[0]})
    with pytest.raises(CourseError, match='249 of the 250'): split_flowers_article(fewer)
    with pytest.raises(CourseError, match="did you mean 'natural'"): split_flowers_article(ds, order='naturall')

def test_the_samples_split():
    ds = get_data('flowers', 'sample')
    split = split_sample(ds)
    whole(split, ds.names)
    for part,n in dict(train=32, valid=8, test=20).items():
        assert [sum(ds.labels[o]==c for o in getattr(split, part)) for c in ds.classes] == [n]*5
    assert get_split(ds) == split

def test_folders_on_a_disk(tmp_path):
    "The way from a folder to a split, with the layout that names the parts in other words"
    for o in ('training/cat/1.jpg', 'training/cat/2.jpg', 'training/dog/1.jpg', 'validation/cat/3.jpg', 'validation/dog/3.jpg',
              'testing/cat/4.jpg', 'testing/dog/5.jpg'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).write_bytes(b'x')
    split = get_split(own_data(tmp_path))
    assert (split.name, split.sizes) == ('folders', dict(train=3, valid=2, test=2))

@pytest.mark.skipif(sys.platform != 'linux', reason='this file system has no such names')
def test_a_name_in_no_alphabet_is_told(tmp_path):
    "Names that are no UTF-8 come out of old archives; no list of a run could hold them"
    for c in 'cat', 'dog':
        (tmp_path/c).mkdir()
        (tmp_path/c/'1.jpg').write_bytes(b'x')
    with open(os.fsencode(tmp_path/'cat')+b'/K\xf6ln.jpg', 'wb') as f: f.write(b'x')
    with pytest.raises(CourseError, match='Rename'): own_data(tmp_path)
