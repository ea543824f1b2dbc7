"What the page of `data` can't show: bad archives, servers and tokens, kills, two processes at once."
import http.server, os, shutil, signal, subprocess, sys, tarfile, threading, zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest, requests
from transfer_course import data
from transfer_course.core import CourseError, read_json, sha256, write_json
from transfer_course.data.pictures import *
from transfer_course.data.fetch import *
from transfer_course.data.sets import *
from transfer_course.data.splits import *
from transfer_course.data.check import *
from transfer_course.data.synthetic import make_pictures, odd_files

SHELF = os.environ.get('TRANSFER_COURSE_MIRROR', '')
REAL = pytest.mark.skipif(not SHELF or not Path(SHELF, 'archives', 'flowers-recognition.zip').exists(),
                          reason='the real flowers are not here: set TRANSFER_COURSE_MIRROR to a shelf that has them')
ENTRY = dict(title='Test', page='https://example.org/page', licence='none', photos=6, archive='stars.zip')

@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "Runs in a temporary folder, no shelf, no pause between attempts"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    monkeypatch.setattr(data, 'PAUSE', 0)

@pytest.fixture(scope='session')
def stars(tmp_path_factory):
    "A folder of two classes with three drawings each"
    return make_pictures(tmp_path_factory.mktemp('stars')/'stars', 6, ['red-star', 'blue-circle'], size=24)

@pytest.fixture(scope='session')
def packed(stars): return Path(shutil.make_archive(stars.parent/'packed', 'zip', stars.parent, stars.name))

def register(monkeypatch, **more):
    "Make `stars` the only registered data set"
    monkeypatch.setattr(data, 'data_sets', lambda: dict(stars=ENTRY | more))

def shelve(tmp_path, monkeypatch, archive, **about):
    "A shelf with this archive"
    dest = tmp_path/'shelf'/'archives'/ENTRY['archive']
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(archive, dest)
    if about: write_json(dest.with_suffix('.json'), about)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path/'shelf'))
    return dest

def nothing_left(tmp_path):
    "No unpacked folder and no half-made one"
    return not [o for o in (tmp_path/'runs'/'data').glob('*') if o.is_dir() and o.name != 'archives'] and not list((tmp_path/'runs').rglob('.*.part*'))

def says(*words):
    "`pytest.raises` of a sentence that has all of these words, and no path of Python in it"
    import re
    return pytest.raises(CourseError, match=''.join(f'(?=.*{re.escape(o)})' for o in words))

# --- Sources ---

def test_unknown_names():
    with says("did you mean 'flowers'"): get_data('flower')
    with says('There is no folder'): get_data('no/such/folder')
    with says('is a file'): get_data(__file__)

def test_a_registered_set_needs_no_code(tmp_path, monkeypatch, packed):
    register(monkeypatch)
    shelve(tmp_path, monkeypatch, packed, sha256=sha256(packed), photos=6, complete=True, recoded=None)
    ds = get_data('stars', 'full')
    assert (len(ds), ds.classes, ds.info['source'], ds.info['sha256']) == (6, ['blue-circle', 'red-star'], 'shelf', sha256(packed))
    assert str(tmp_path) not in str(ds.info)

def test_folders_by_other_words(tmp_path, monkeypatch, packed):
    register(monkeypatch, classes={'red-star': 'star', 'blue-circle': 'circle'}, instead='circles')
    with says('The same pictures come without a token as circles'): get_data('stars')
    shelve(tmp_path, monkeypatch, packed, sha256=sha256(packed), photos=6, complete=True, recoded=None)
    assert get_data('stars').classes == ['circle', 'star']

def test_no_kaggle_token(tmp_path):
    "In a fresh process with an empty home: one sentence, none of the client's page of help"
    env = {k: v for k,v in os.environ.items() if not k.startswith('KAGGLE') and k != 'TRANSFER_COURSE_MIRROR'} | dict(HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path/'config'))
    code = "from transfer_course.data import *\ntry: get_data('flowers')\nexcept Exception as e: print(type(e).__name__, e)"
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.stdout.startswith('CourseError The data set flowers could not be had. Tried in turn: no shelf is set') and out.stdout.count('\n')==1
    assert 'Kaggle wants a token: make one at' in out.stdout and out.stderr==''

def kaggle(error=None, archive=None):
    "Stands for Kaggle's client"
    def download(name, path, quiet, unzip=False):
        if error: raise error
        shutil.copy(archive, Path(path)/f"{name.split('/')[-1]}.zip")
    return lambda entry: SimpleNamespace(dataset_download_files=download, competition_download_files=download)

def http_error(status): return requests.HTTPError(f'{status} Client Error', response=SimpleNamespace(status_code=status))

@pytest.mark.parametrize('error,words', [
    (http_error(403), ['accept the rules at https://www.kaggle.com/c/stars/rules in a browser']), (http_error(401), ['does not accept the token']), (http_error(404), ['has no stars any more']),
    (requests.ConnectionError('no route'), ['could not be reached', 'network']), (SystemExit(1), ['Kaggle: 1'])])
def test_kaggle_refuses(monkeypatch, error, words):
    register(monkeypatch, competition='stars')
    monkeypatch.setattr(data, '_kaggle_api', kaggle(error))
    with says('no shelf is set', *words): get_data('stars')

def test_kaggle_downloads_once(tmp_path, monkeypatch, packed):
    register(monkeypatch, kaggle='somebody/stars')
    monkeypatch.setattr(data, '_kaggle_api', kaggle(archive=packed))
    first = get_data('stars', 'full')
    assert (len(first), first.info['source'], first.info['complete']) == (6, 'kaggle', True)
    monkeypatch.setattr(data, '_kaggle_api', kaggle(error=AssertionError('asked again')))
    assert get_data('stars').info == first.info

# --- A server on loopback ---

@pytest.fixture
def server(packed):
    "Serves /ok, /missing, /cut (ends too early), /flaky (the first time too early); counts requests"
    body,asked = packed.read_bytes(), Counter()
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            cut = self.path=='/cut' or (self.path=='/flaky' and asked[self.path]==1)
            if self.path=='/missing': return self.send_error(404)
            if self.path=='/broken': return self.send_error(503)
            self.send_response(200); self.send_header('Content-Length', len(body)); self.end_headers()
            self.wfile.write(body[:len(body)//2] if cut else body)
        def log_message(self, *args): pass
    served = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=served.serve_forever, args=(.01,), daemon=True).start()
    yield SimpleNamespace(url=f'http://127.0.0.1:{served.server_port}', asked=asked)
    served.shutdown(); served.server_close()

def test_download(monkeypatch, server, packed):
    register(monkeypatch, url=f'{server.url}/ok', sha256=sha256(packed))
    ds = get_data('stars', 'full')
    assert (len(ds), ds.info['source']) == (6, f'{server.url}/ok')
    assert get_data('stars').info == ds.info and server.asked['/ok'] == 1

def test_broken_connection_starts_over(monkeypatch, server, packed, capsys):
    register(monkeypatch, url=f'{server.url}/flaky', sha256=sha256(packed))
    assert len(get_data('stars')) == 6 and server.asked['/flaky'] == 2
    assert "it starts over (2 of 3)" in capsys.readouterr().err

@pytest.mark.parametrize('path,words,asked', [('/missing', ['answers 404'], 1), ('/cut', ['3 attempts', 'network'], 3), ('/broken', ['3 attempts'], 3)])
def test_server_fails(tmp_path, monkeypatch, server, packed, path, words, asked):
    register(monkeypatch, url=server.url+path, sha256=sha256(packed))
    with says('no shelf is set', 'nothing was downloaded before', *words): get_data('stars')
    assert server.asked[path]==asked and not list((tmp_path/'runs').rglob('*.zip')) and nothing_left(tmp_path)

def test_wrong_hash(tmp_path, monkeypatch, server, packed):
    register(monkeypatch, url=f'{server.url}/ok', sha256='0'*64)
    with says('another file than expected', sha256(packed)[:12], 'instead of 000000000000', 'not kept'): get_data('stars')
    assert server.asked['/ok']==1 and not list((tmp_path/'runs').rglob('*.zip')) and nothing_left(tmp_path)

def test_no_network(monkeypatch):
    register(monkeypatch, url='http://127.0.0.1:9/nobody-listens', sha256='0'*64)
    with says('is there a network?'): get_data('stars')

def test_one_name_is_never_served_by_another(monkeypatch):
    "Google's flowers and Kaggle's have nothing in common but the subject"
    sets = data_sets()
    assert 'url' not in sets['flowers'] and 'kaggle' not in sets['flower_photos']
    assert sets['flowers']['archive'] != sets['flower_photos']['archive']

# --- Archives ---

def test_wrong_checksum_on_the_shelf_ends_the_search(tmp_path, monkeypatch, packed):
    register(monkeypatch, kaggle='somebody/stars')
    monkeypatch.setattr(data, '_kaggle_api', kaggle(error=AssertionError('went on to Kaggle')))
    shelve(tmp_path, monkeypatch, packed, sha256='0'*64)
    with says('the JSON beside it says 000000000000', 'damaged or another one'): get_data('stars')

@pytest.mark.parametrize('body,words', [
    (lambda b: b[:len(b)//2], 'cut short'), (lambda b: b'', 'neither a zip nor a tar'), (lambda b: b'<!doctype html>', 'neither a zip nor a tar'),
    (lambda b: b.replace(b'\xff\xd9', b'\xff\xd8'), 'could not be unpacked')], ids=['truncated', 'empty', 'web page', 'damaged inside'])
def test_bad_archive(tmp_path, monkeypatch, packed, body, words):
    register(monkeypatch)
    stored = tmp_path/'stored.zip' # not compressed, so that the damage hits a picture
    with zipfile.ZipFile(packed) as a, zipfile.ZipFile(stored, 'w') as b:
        for o in a.namelist(): b.writestr(o, a.read(o))
    (tmp_path/'bad.zip').write_bytes(body(stored.read_bytes()))
    shelve(tmp_path, monkeypatch, tmp_path/'bad.zip')
    with says(words): get_data('stars')
    assert nothing_left(tmp_path)

@pytest.mark.parametrize('name', ['../evil.jpg', 'a/../../evil.jpg', '/tmp/evil.jpg', 'C:/evil.jpg', '..\\evil.jpg'])
def test_names_that_point_out(tmp_path, name):
    with zipfile.ZipFile(tmp_path/'bad.zip', 'w') as z: z.writestr('ok.jpg', b'x'); z.writestr(name, b'x')
    with says('points out of the folder'): unpack(tmp_path/'bad.zip', tmp_path/'out'/'folder')
    assert [o.name for o in (tmp_path/'out').iterdir() if not o.name.endswith('.lock')] == [] and not Path('/tmp/evil.jpg').exists()

def test_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path/'bad.zip', 'w') as z:
        link = zipfile.ZipInfo('link.jpg'); link.external_attr = 0o120777 << 16
        z.writestr(link, '/etc/passwd')
    with tarfile.open(tmp_path/'bad.tgz', 'w:gz') as t:
        link = tarfile.TarInfo('link.jpg'); link.type,link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        t.addfile(link)
    for o in 'bad.zip', 'bad.tgz':
        with says('is a link'): unpack(tmp_path/o, tmp_path/'out')

def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path/'inner.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('zeros.jpg', bytes(4_000_000))
    with zipfile.ZipFile(tmp_path/'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.write(tmp_path/'inner.zip', 'inner.zip')
    for o in 'inner.zip', 'bomb.zip':
        with says('unfolds to more'): unpack(tmp_path/o, tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_tar_and_nested_zip(tmp_path, stars, packed):
    with tarfile.open(tmp_path/'stars.tgz', 'w:gz') as t: t.add(stars, 'stars')
    with zipfile.ZipFile(tmp_path/'nested.zip', 'w') as z: z.write(packed, 'train.zip')
    for o in 'stars.tgz', 'nested.zip': assert len(own_data(unpack(tmp_path/o, tmp_path/'out'/o))) == 6

@pytest.mark.parametrize('lost', [1, 30, 1000], ids=lambda n: f'{n} bytes')
def test_truncated_tar(tmp_path, stars, lost):
    with tarfile.open(tmp_path/'stars.tgz', 'w:gz') as t: t.add(stars, 'stars')
    (tmp_path/'cut.tgz').write_bytes((tmp_path/'stars.tgz').read_bytes()[:-lost])
    with says('could not be unpacked'): unpack(tmp_path/'cut.tgz', tmp_path/'out')

def test_full_refuses_a_part(tmp_path, monkeypatch, packed):
    register(monkeypatch, photos=100)
    shelve(tmp_path, monkeypatch, packed, complete=False, part='6 of 100')
    assert get_data('stars').info['part'] == '6 of 100'
    with says('a part only (6 of 100)'): get_data('stars', 'full')
    shelve(tmp_path, monkeypatch, packed, complete=True, recoded='shorter side 24 px')
    assert get_data('stars', 'full').info['recoded'] == 'shorter side 24 px' # complete, if not as published: the run says so
    (tmp_path/'shelf'/'archives'/'stars.json').unlink()
    with says('holds 6 of 100 pictures'): get_data('stars', 'full')

# --- Kills and company ---

KILLED = """
import os, signal, sys
from transfer_course import data
copy,n = data._copy, 0
def killed(*args):
    global n
    n += 1
    if n==4: os.kill(os.getpid(), signal.SIGKILL)
    return copy(*args)
data._copy = killed
data.unpack(sys.argv[1], sys.argv[2])
"""

def test_killed_while_unpacking(tmp_path, packed):
    folder = tmp_path/'out'/'stars'
    out = subprocess.run([sys.executable, '-c', KILLED, packed, folder])
    assert out.returncode==-signal.SIGKILL and not folder.exists()
    assert len(list(folder.parent.glob('.stars.*.part'))) == 1 # what the killed one left
    assert len(own_data(unpack(packed, folder))) == 6
    assert not list(folder.parent.glob('.stars.*.part'))

TWO = """
import os, sys, time
from pathlib import Path
from transfer_course import data
archive,folder,me,other = sys.argv[1:]
def slow(*args, unpacking=data._unpack_into, **kw):
    print('unpacking', flush=True)
    while not Path(other).exists(): time.sleep(.01) # until the other process is on its way too
    return unpacking(*args, **kw)
data._unpack_into = slow
Path(me).write_text('here')
print(len(data.own_data(data.unpack(archive, folder))))
"""

def test_two_processes_unpack_once(tmp_path, packed):
    a,b = tmp_path/'a', tmp_path/'b'
    both = [subprocess.Popen([sys.executable, '-c', TWO, packed, tmp_path/'out'/'stars', me, other], stdout=subprocess.PIPE, text=True) for me,other in [(a,b), (b,a)]]
    said = ''.join(o.communicate(timeout=120)[0] for o in both)
    assert said.count('unpacking')==1 and said.split().count('6')==2

# --- Folders and pictures ---

def test_odd_folders(tmp_path, stars):
    own = tmp_path/'Meine Blumen – 花'
    shutil.copytree(stars, own)
    assert len(own_data(own)) == 6 and own_data(own).name == 'own:Meine Blumen – 花'
    (own/'__MACOSX'/'x').mkdir(parents=True); (own/'.ipynb_checkpoints').mkdir(); (own/'red-star'/'Thumbs.db').write_bytes(b'x')
    assert len(own_data(own)) == 6
    (own/'nothing').mkdir()
    with says('class folder', 'nothing', 'holds no pictures'): own_data(own)
    (own/'nothing').rmdir(); shutil.rmtree(own/'red-star')
    with says("only one class, 'blue-circle'"): get_data(own)
    (tmp_path/'void').mkdir()
    with says('holds no pictures'): get_data(tmp_path/'void')

def test_class_with_one_picture(tmp_path, stars):
    own = tmp_path/'own'
    shutil.copytree(stars, own); (own/'lonely').mkdir()
    shutil.copy(next((own/'red-star').iterdir()), own/'lonely'/'a.jpg')
    ds = get_data(own) # it may be looked at
    with says("'lonely'", 'has one picture'): split_by_hash(ds)

def test_adding_files_moves_nobody(tmp_path, stars):
    own = make_pictures(tmp_path/'own', 60, ['red-star', 'blue-circle'], size=16)
    before = split_by_hash(own_data(own), .3, .2).part_of()
    for o in list((own/'red-star').iterdir()): shutil.copy(o, o.with_name(f'{o.stem} (1).jpg'))
    make_pictures(tmp_path/'more', 40, ['red-star', 'blue-circle'], size=16, seed=1)
    for o in (tmp_path/'more').rglob('*.jpg'): shutil.copy(o, own/o.parent.name/f'new {o.name}')
    after = split_by_hash(own_data(own), .3, .2).part_of()
    assert len(after)==130 and {o: after[o] for o in before}==before
    assert all(after[o]==after[o.replace(' (1)', '')] for o in after) # copies go with their originals

@pytest.mark.parametrize('kind,words', dict(truncated='cut short', empty='the file is empty', text='no picture', huge='400,000,000 pixels').items())
def test_unreadable_pictures(tmp_path, kind, words):
    path = odd_files(tmp_path)[kind]
    with says(path.name, words): open_picture(path)

def test_odd_pictures_are_read(tmp_path):
    odd = odd_files(tmp_path)
    for kind in set(odd) - {'truncated', 'empty', 'text', 'huge'}: assert open_picture(odd[kind]).mode=='RGB', kind
    from PIL import Image
    with Image.open(odd['rotated']) as im: assert open_picture(odd['rotated']).size == im.size[::-1]
    assert open_picture(odd['pixel']).size == (1,1)

def test_check_sets_aside_and_gives_back(tmp_path, stars):
    own = tmp_path/'own'
    shutil.copytree(stars, own); odd_files(own/'red-star')
    found = check(own)
    assert sorted(Path(o).name for o in found.names('unreadable')) == ['empty.jpg', 'huge.png', 'text.jpg', 'truncated.jpg']
    whole = get_data(own)
    listed = found.set_aside()
    rest = get_data(own)
    assert (rest.info['set_aside'], len(whole)-len(rest)) == (4, 4) and rest.info['fingerprint'] != whole.info['fingerprint']
    assert all((own/o).exists() for o in read_json(listed)['names']) # nothing was deleted
    shutil.copytree(own, tmp_path/'elsewhere'/'own')
    assert get_data(tmp_path/'elsewhere'/'own').info['set_aside'] == 0 # another folder of the same name
    listed.unlink()
    assert get_data(own).info == whole.info

def test_torch_stays_out():
    code = "import sys, transfer_course.data\nassert not {'torch', 'fastai', 'pandas', 'kaggle', 'pooch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

# --- The sample and the real photos ---

def test_sample_looks_at_nothing_else(monkeypatch):
    def refuse(*args): raise AssertionError('looked for an archive')
    monkeypatch.setattr(data, 'get_archive', refuse)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', '/nowhere')
    ds = get_data('flowers', 'sample')
    assert (len(ds), split_sample(ds).sizes) == (300, dict(train=160, valid=40, test=100))
    assert not set(ds.names) & set(held_out()) and set(ds.credits)==set(ds.names)
    assert len({(ds.labels[o], c['author']) for o,c in ds.credits.items()}) == 300 # one photo an author and class
    assert 1_300_000 < sum((ds.path/o).stat().st_size for o in ds.names) <= 1_500_000
    assert sorted(o.name for o in ds.path.iterdir() if o.is_file()) == ['README.md', 'credits.csv']
    with says('needs the whole data set'): split_flowers_article(ds)

@REAL
def test_real_flowers(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', SHELF)
    ds = get_data('flowers')
    assert Counter(ds.labels.values()) == dict(daisy=764, dandelion=1052, rose=784, sunflower=733, tulip=984)
    split = split_flowers_article(ds)
    assert split.sizes == dict(train=3254, valid=813, test=250)
    assert (first_of_each(ds), first_of_each(ds, key=None)) == (held_out(), held_out('plain'))
    found = check(ds, split)
    assert len(found.groups())==6 and [[Path(o).stem for o in g] for g in found.groups('two labels')] == [
        [o]*2 for o in ('15922772266_1167a06620', '17104364030_ee31ee279b_n', '17291451621_0e39f08b9e_n', '17291930305_79deae6a90_n')]
    assert all({o.split('/')[0] for o in g}=={'rose', 'tulip'} for g in found.groups('two labels'))
    assert [[Path(o).stem for o in g] for g in found.groups('duplicate')] == [
        ['14889392928_9742aed45b_m', '15066430311_fb57fa92b0_m'], ['15069459615_7e0fd61914_n', '15072973261_73e2912ef2_n']]

@REAL
def test_sample_is_what_write_sample_writes(tmp_path, monkeypatch):
    "Names and credits to the byte; pixels up to the JPEG library"
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', SHELF)
    ds,sample = get_data('flowers'), get_data('flowers', 'sample')
    write_sample(ds, ds.credits, tmp_path/'sample')
    for o in 'credits.csv', 'README.md': assert (tmp_path/'sample'/o).read_text()==(sample.path/o).read_text()
    assert own_data(tmp_path/'sample').names == sample.names

def test_readme_names_every_data_set():
    from transfer_course.core import course_path
    text = course_path('data', 'README.md').read_text()
    assert all(f'`{name}`' in text and f"{o['photos']:,}" in text for name,o in data_sets().items())
