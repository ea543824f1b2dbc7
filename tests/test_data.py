"What the pages of `data` can't show: servers and tokens that fail, bad archives, kills, two processes at once, the real photos."
import errno
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from transfer_course.core import CourseError, course_path, mirror_path, read_json, sha256, write_json
from transfer_course.data import fetch, sets
from transfer_course.data.check import check
from transfer_course.data.fetch import data_sets, unpack
from transfer_course.data.sets import get_data, own_data
from transfer_course.data.splits import first_of_each, held_out, split_by_hash, split_flowers_article
from transfer_course.data.synthetic import make_pictures, odd_files

MIRROR = os.environ.get('TRANSFER_COURSE_MIRROR', '')
REAL = pytest.mark.skipif(not Path(MIRROR or 'none', 'archives', 'flowers-recognition.zip').exists(),
                          reason='the real flowers are not here: set TRANSFER_COURSE_MIRROR to a mirror that has them')
ENTRY = dict(title='Test', page='https://example.org/page', licence='none', photos=6, archive='stars.zip')

@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "Runs in a temporary folder, no mirror, no pause between attempts"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    for o in 'MIRROR', 'SHELF': monkeypatch.delenv(f'TRANSFER_COURSE_{o}', raising=False)
    monkeypatch.setattr(fetch, '_PAUSE', 0)

@pytest.fixture(scope='session')
def stars(tmp_path_factory):
    "A folder of two classes with three drawings each"
    return make_pictures(tmp_path_factory.mktemp('stars')/'stars', 6, ['red-star', 'blue-circle'], size=24)

@pytest.fixture(scope='session')
def packed(stars): return Path(shutil.make_archive(stars.parent/'packed', 'zip', stars.parent, stars.name))

@pytest.fixture
def register(monkeypatch):
    "Make `stars` the only registered data set"
    def registered(**more):
        for o in fetch, sets: monkeypatch.setattr(o, 'data_sets', lambda: dict(stars=ENTRY | more))
    return registered

@pytest.fixture
def mirrored(tmp_path, monkeypatch):
    "Put an archive and its JSON on a mirror"
    def put(archive, **about):
        dest = tmp_path/'mirror'/'archives'/ENTRY['archive']
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(archive, dest)
        if about: write_json(dest.with_suffix('.json'), about)
        monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path/'mirror'))
    return put

def nothing_left(tmp_path):
    "No archive, no unpacked folder and no half-made one"
    left = [*(tmp_path/'runs').rglob('*.zip'), *(tmp_path/'runs').rglob('.*.part*')]
    return not left and not [o for o in (tmp_path/'runs'/'data').glob('*') if o.is_dir() and o.name != 'archives']

def says(*words):
    "`pytest.raises` of a sentence that has all of these words"
    return pytest.raises(CourseError, match=''.join(f'(?=.*{re.escape(o)})' for o in words))

# --- Sources ---

def test_a_registered_set_needs_no_code(tmp_path, register, mirrored, packed):
    register(classes={'red-star': 'star', 'blue-circle': 'circle'}, instead='circles')
    with says('The same pictures come without a token as circles'): get_data('stars')
    mirrored(packed, sha256=sha256(packed), photos=6, complete=True, recoded=None)
    ds = get_data('stars', 'full')
    assert (len(ds), ds.classes, ds.info['source'], ds.info['sha256']) == (6, ['circle', 'star'], 'mirror', sha256(packed))
    assert str(tmp_path) not in str(ds.info)

def test_the_mirrors_older_variable(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TRANSFER_COURSE_SHELF', str(tmp_path))
    assert mirror_path('a') == mirror_path('a') == tmp_path/'a'
    assert capsys.readouterr().err.count('TRANSFER_COURSE_MIRROR') <= 1 # once a process
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path/'no'))
    with says('there is no such folder'): mirror_path()

def test_a_wrong_checksum_ends_the_search(monkeypatch, register, mirrored, packed):
    register(kaggle='somebody/stars')
    monkeypatch.setattr(fetch, '_kaggle_api', kaggle(error=AssertionError('went on to Kaggle')))
    mirrored(packed, sha256='0'*64)
    with says('the JSON beside it says 000000000000', 'damaged or another one'): get_data('stars')

def test_full_refuses_a_part(tmp_path, register, mirrored, packed):
    register(photos=100)
    mirrored(packed, complete=False, part='6 of 100')
    assert get_data('stars').info['part'] == '6 of 100'
    with says('a part only (6 of 100)'): get_data('stars', 'full')
    for word in 'recoded', 'reencoded': # complete, if not as published: the run says so
        mirrored(packed, complete=True, **{word: 'shorter side 24 px'})
        assert get_data('stars', 'full').info['reencoded'] == 'shorter side 24 px'
    (tmp_path/'mirror'/'archives'/'stars.json').unlink()
    with says('holds 6 of 100 pictures'): get_data('stars', 'full')

def test_a_stale_listing(tmp_path, register, mirrored, packed):
    "The JSON beside the archive, or the unpacked folder, no longer says what is there"
    register()
    mirrored(packed, photos=7)
    with says('holds 6 pictures, and the JSON beside it says 7'): get_data('stars')
    mirrored(packed, photos=6)
    next(get_data('stars').path.rglob('*.jpg')).unlink()
    with says('5 pictures where 6 were unpacked'): get_data('stars')

def test_one_name_is_never_served_by_another():
    "Google's flowers and Kaggle's have nothing in common but the subject"
    all = data_sets()
    assert 'url' not in all['flowers'] and 'kaggle' not in all['flower_photos']
    assert all['flowers']['archive'] != all['flower_photos']['archive']
    text = course_path('data', 'README.md').read_text()
    assert [o for o in all if f'`{o}`' not in text or f"{all[o]['photos']:,}" not in text] == []

# --- Kaggle ---

def test_no_kaggle_token(tmp_path):
    "In a fresh process with an empty home: one sentence, none of the client's page of help"
    env = {k: v for k,v in os.environ.items() if not k.startswith('KAGGLE')}
    env |= dict(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path/'config'))
    code = "from transfer_course.data.sets import *\ntry: get_data('flowers')\nexcept Exception as e: print(type(e).__name__, e)"
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.stdout.startswith('CourseError The data set flowers could not be had. Tried in turn: no mirror is set')
    assert 'Kaggle wants a token: make one at' in out.stdout and out.stdout.count('\n')==1 and out.stderr==''

def kaggle(error=None, archive=None):
    "Stands for Kaggle's client"
    def download(name, path, quiet, unzip=False):
        if error: raise error
        shutil.copy(archive, Path(path)/f"{name.split('/')[-1]}.zip")
    return lambda entry: SimpleNamespace(dataset_download_files=download, competition_download_files=download)

def http_error(status): return requests.HTTPError(f'{status} Client Error', response=SimpleNamespace(status_code=status))

@pytest.mark.parametrize('error,words', [
    (http_error(403), 'accept the rules at https://www.kaggle.com/c/stars/rules in a browser'),
    (http_error(401), 'does not accept the token'), (http_error(404), 'has no stars any more'),
    (requests.ConnectionError('no route'), 'could not be reached'), (SystemExit(1), 'Kaggle: 1')])
def test_kaggle_refuses(monkeypatch, register, error, words):
    register(competition='stars')
    monkeypatch.setattr(fetch, '_kaggle_api', kaggle(error))
    with says('no mirror is set', words): get_data('stars')

def test_kaggle_downloads_once(monkeypatch, register, packed):
    register(kaggle='somebody/stars')
    monkeypatch.setattr(fetch, '_kaggle_api', kaggle(archive=packed))
    first = get_data('stars', 'full')
    assert (len(first), first.info['source'], first.info['complete']) == (6, 'kaggle', True)
    monkeypatch.setattr(fetch, '_kaggle_api', kaggle(error=AssertionError('requested again')))
    assert get_data('stars').info == first.info

# --- A server on loopback ---

@pytest.fixture
def server(packed):
    "Serves /ok, /missing, /cut (ends too early), /flaky (the first time too early), /broken, /busy (once), /late, /endless, /drip; counts"
    body,requested = packed.read_bytes(), Counter()
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested[self.path] += 1
            if status := {'/missing': 404, '/broken': 503}.get(self.path): return self.send_error(status)
            if self.path=='/late' or (self.path=='/busy' and requested[self.path]==1): return self.busy(4000 if self.path=='/late' else 0)
            if self.path in ('/endless', '/drip'): return self.without_end(*(10**6, 0) if self.path=='/endless' else (1, .01))
            cut = self.path=='/cut' or (self.path=='/flaky' and requested[self.path]==1)
            self.send_response(200)
            self.send_header('Content-Length', len(body))
            self.end_headers()
            self.wfile.write(body[:len(body)//2] if cut else body)
        def busy(self, seconds):
            self.send_response(429)
            self.send_header('Retry-After', seconds)
            self.end_headers()
        def without_end(self, n, pause):
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(n))
                    time.sleep(pause)
            except OSError: pass
        def log_message(self, *args): pass
    served = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=served.serve_forever, args=(.01,), daemon=True).start()
    yield SimpleNamespace(url=f'http://127.0.0.1:{served.server_port}', requested=requested)
    served.shutdown()
    served.server_close()

@pytest.mark.parametrize('path,times', [('/ok', 1), ('/flaky', 2), ('/busy', 2)])
def test_download(register, server, packed, capsys, path, times):
    register(url=server.url+path, sha256=sha256(packed))
    ds = get_data('stars', 'full')
    assert (len(ds), ds.info['source']) == (6, server.url+path)
    assert get_data('stars').info == ds.info and server.requested[path] == times
    assert capsys.readouterr().err.count('it starts over (2 of 3)') == times-1

@pytest.mark.parametrize('path,sum,words,times', [
    ('/missing', None, 'answers 404', 1), ('/cut', None, '3 attempts', 3), ('/broken', None, '3 attempts', 3),
    ('/late', None, 'Try again in 67 minutes', 1), ('/endless', None, 'or that fit on the disk', 1), ('/drip', None, 'try again later', 1),
    ('/ok', '0'*64, 'instead of 000000000000…). It was not kept', 1)])
def test_server_fails(tmp_path, monkeypatch, register, server, packed, path, sum, words, times):
    if path=='/drip': monkeypatch.setattr(fetch, '_WAIT', .2)
    if path=='/endless': monkeypatch.setattr(fetch.shutil, 'disk_usage', lambda path: SimpleNamespace(free=3*10**6))
    register(url=server.url+path, sha256=sum or sha256(packed))
    with says(words): get_data('stars')
    assert server.requested[path]==times and nothing_left(tmp_path)

def test_no_network(register):
    register(url='http://127.0.0.1:9/nobody-listens', sha256='0'*64)
    with says('is there a network?'): get_data('stars')

# --- Archives: `test_fuzz_archives` has all the tricks ---

@pytest.mark.parametrize('body,words', [
    (lambda b: b[:len(b)//2], 'cut short'), (lambda b: b'', 'neither a zip nor a tar'),
    (lambda b: b.replace(b'\xff\xd9', b'\xff\xd8'), 'could not be unpacked')], ids=['truncated', 'empty', 'damaged inside'])
def test_bad_archive(tmp_path, register, mirrored, packed, body, words):
    register()
    stored = tmp_path/'stored.zip' # not compressed, so that the damage hits a picture
    with zipfile.ZipFile(packed) as a, zipfile.ZipFile(stored, 'w') as b:
        for o in a.namelist(): b.writestr(o, a.read(o))
    (tmp_path/'bad').write_bytes(body(stored.read_bytes()))
    mirrored(tmp_path/'bad')
    with says(words): get_data('stars')
    assert nothing_left(tmp_path)

def test_too_many_files_and_a_full_disk(tmp_path, packed, monkeypatch):
    with zipfile.ZipFile(tmp_path/'many.zip', 'w') as z:
        for i in range(30): z.writestr(f'{i}.jpg', b'')
    monkeypatch.setattr(fetch, '_FILES', 10)
    with says('too many files for its size'): unpack(tmp_path/'many.zip', tmp_path/'many')
    def full(*args): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(fetch, '_copy', full)
    with says('is full. Make room'): unpack(packed, tmp_path/'full')

def test_tar_and_nested_zip(tmp_path, stars, packed):
    with tarfile.open(tmp_path/'stars.tgz', 'w:gz') as t: t.add(stars, 'stars')
    with zipfile.ZipFile(tmp_path/'nested.zip', 'w') as z: z.write(packed, 'train.zip')
    for o in 'stars.tgz', 'nested.zip': assert len(own_data(unpack(tmp_path/o, tmp_path/'out'/o))) == 6
    for lost in 1, 30, 1000:
        (tmp_path/'cut.tgz').write_bytes((tmp_path/'stars.tgz').read_bytes()[:-lost])
        with says('could not be unpacked'): unpack(tmp_path/'cut.tgz', tmp_path/'cut')

# --- Kills and company ---

KILLED = """
import os, signal, sys
from transfer_course.data import fetch
copy,n = fetch._copy, 0
def killed(*args):
    global n
    n += 1
    if n==4: os.kill(os.getpid(), signal.SIGKILL)
    return copy(*args)
fetch._copy = killed
fetch.unpack(sys.argv[1], sys.argv[2])
"""

def test_killed_while_unpacking(tmp_path, packed):
    folder = tmp_path/'out'/'stars'
    out = subprocess.run([sys.executable, '-c', KILLED, packed, folder])
    assert out.returncode==-signal.SIGKILL and not folder.exists()
    assert len(list(folder.parent.glob('.stars.*.part'))) == 1 # what the killed one left
    assert len(own_data(unpack(packed, folder))) == 6
    assert not list(folder.parent.glob('.stars.*.part'))

TWO = """
import sys, time
from pathlib import Path
from transfer_course.data import fetch, sets
archive,folder,me,other = sys.argv[1:]
def slow(*args, unpacking=fetch._unpack_into, **kw):
    print('unpacking', flush=True)
    while not Path(other).exists(): time.sleep(.01) # until the other process is on its way too
    return unpacking(*args, **kw)
fetch._unpack_into = slow
Path(me).write_text('here')
print(len(sets.own_data(fetch.unpack(archive, folder))))
"""

def test_two_processes_unpack_once(tmp_path, packed):
    a,b = tmp_path/'a', tmp_path/'b'
    args = [sys.executable, '-c', TWO, packed, tmp_path/'out'/'stars']
    both = [subprocess.Popen([*args, *o], stdout=subprocess.PIPE, text=True) for o in ((a, b), (b, a))]
    said = ''.join(o.communicate(timeout=120)[0] for o in both)
    assert said.count('unpacking')==1 and said.split().count('6')==2

# --- Folders and pictures ---

def test_odd_folders(tmp_path, stars):
    own = tmp_path/'Meine Blumen – 花'
    shutil.copytree(stars, own)
    (own/'__MACOSX'/'x').mkdir(parents=True)
    (own/'.ipynb_checkpoints').mkdir()
    (own/'red-star'/'Thumbs.db').write_bytes(b'x')
    assert len(own_data(own)) == 6 and own_data(own).name == 'own:Meine Blumen – 花'
    (own/'lonely').mkdir()
    with says('class folder', 'lonely', 'holds no pictures'): own_data(own)
    shutil.copy(next((own/'red-star').iterdir()), own/'lonely'/'a.jpg')
    with says("'lonely'", 'has one picture'): split_by_hash(own_data(own))
    for o in 'lonely', 'red-star': shutil.rmtree(own/o)
    with says("only one class, 'blue-circle'"): get_data(own)
    (tmp_path/'void').mkdir()
    with says('holds no pictures'): get_data(tmp_path/'void')

def test_adding_files_moves_nobody(tmp_path):
    own = make_pictures(tmp_path/'own', 60, ['red-star', 'blue-circle'], size=16)
    before = split_by_hash(own_data(own), .3, .2).part_of()
    for o in list((own/'red-star').iterdir()): shutil.copy(o, o.with_name(f'{o.stem} (1).jpg'))
    make_pictures(tmp_path/'more', 40, ['red-star', 'blue-circle'], size=16, seed=1)
    for o in (tmp_path/'more').rglob('*.jpg'): shutil.copy(o, own/o.parent.name/f'new {o.name}')
    after = split_by_hash(own_data(own), .3, .2).part_of()
    assert len(after)==130 and {o: after[o] for o in before}==before
    assert all(after[o]==after[o.replace(' (1)', '')] for o in after) # copies go with their originals

def test_check_sets_aside_and_gives_back(tmp_path, stars):
    own = tmp_path/'own'
    shutil.copytree(stars, own)
    odd_files(own/'red-star')
    found,whole = check(own), get_data(own)
    assert sorted(Path(o).name for o in found.names('unreadable')) == ['empty.jpg', 'huge.png', 'text.jpg', 'truncated.jpg']
    listed = found.set_aside()
    rest = get_data(own)
    assert (rest.info['set_aside'], len(whole)-len(rest)) == (4, 4) and rest.info['fingerprint'] != whole.info['fingerprint']
    assert all((own/o).exists() for o in read_json(listed)['names']) # nothing was deleted
    shutil.copytree(own, tmp_path/'elsewhere'/'own')
    assert get_data(tmp_path/'elsewhere'/'own').info['set_aside'] == 0 # another folder of the same name
    write_json(listed, dict(names={'red-star/00000.jpg': 7})) # of another kind
    with says('does not hold what was written there', 'names'): get_data(own)
    write_json(listed, ['not a table'])
    with says('does not hold what was written there'): get_data(own)
    listed.unlink()
    assert get_data(own).info == whole.info

def test_torch_stays_out():
    code = ("import sys; from transfer_course.data import pictures, synthetic, fetch, sets, splits, check, openimages\n"
            "assert not {'torch', 'fastai', 'pandas', 'kaggle'} & set(sys.modules)")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

# --- The sample and the real photos ---

def test_sample_looks_at_nothing_else(monkeypatch):
    def refuse(*args): raise AssertionError('looked for an archive')
    monkeypatch.setattr(sets, 'get_archive', refuse)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', '/nowhere')
    ds = get_data('flowers', 'sample')
    assert len(ds) == 300 and not set(ds.names) & set(held_out()) and set(ds.credits)==set(ds.names)
    assert len({(ds.labels[o], c['author']) for o,c in ds.credits.items()}) == 300 # one photo an author and class
    assert 1_300_000 < sum((ds.path/o).stat().st_size for o in ds.names) <= 1_500_000
    assert sorted(o.name for o in ds.path.iterdir() if o.is_file()) == ['README.md', 'credits.csv']
    with says('needs the whole data set'): split_flowers_article(ds)

@REAL
def test_real_flowers(monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', MIRROR)
    ds = get_data('flowers')
    assert Counter(ds.labels.values()) == dict(daisy=764, dandelion=1052, rose=784, sunflower=733, tulip=984)
    split = split_flowers_article(ds)
    assert split.sizes == dict(train=3254, valid=813, test=250)
    assert (first_of_each(ds), first_of_each(ds, key=None)) == (held_out(), held_out('plain'))
    found = check(ds, split)
    def stems(problem): return [[Path(o).stem for o in g] for g in found.groups(problem)]
    assert stems('two labels') == [[o]*2 for o in ('15922772266_1167a06620', '17104364030_ee31ee279b_n',
                                                   '17291451621_0e39f08b9e_n', '17291930305_79deae6a90_n')]
    assert stems('duplicate') == [['14889392928_9742aed45b_m', '15066430311_fb57fa92b0_m'],
                                  ['15069459615_7e0fd61914_n', '15072973261_73e2912ef2_n']]
    assert len(found.groups())==6 and {o.split('/')[0] for g in found.groups('two labels') for o in g}=={'rose', 'tulip'}
