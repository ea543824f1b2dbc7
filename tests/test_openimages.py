"""Open Images from a server of our own making: kills, a full disk, a dead server, random trouble, lists larger than memory.

The server is the one on the module's page."""
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from transfer_course.core import CourseError
from transfer_course.data import openimages
from transfer_course.data.openimages import PETS, RELEASES, fetch_photos, get_open_images, list_photos, read_labels, read_rows
from transfer_course.data.pictures import open_picture

PAGE = Path(__file__).resolve().parents[1]/'nbs'/'lib'/'17_data.openimages.ipynb'

def page_server():
    "The server and its lists, as the page defines them in hidden cells"
    cells = [''.join(c['source']) for c in json.loads(PAGE.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    names = {k: v for k,v in vars(openimages).items() if not k.startswith('__')}
    exec('import io, zlib\nfrom http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n'
         'from transfer_course.data.synthetic import make_picture', names)
    for c in cells:
        if c.startswith('#| hide') and ('class Server(' in c or 'def publish(' in c): exec(c, names)
    return names['Server'], names['publish']

Server,publish = page_server()

@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for k,v in dict(LIST_PAUSE=.01, FIRST_PAUSE=.01, PHOTO_TIMEOUT=(1, .5), PHOTO_SECONDS=1).items():
        monkeypatch.setattr(openimages, k, v)

@pytest.fixture
def server():
    with Server() as s: yield s

def photos(dest): return sorted(dest.glob('*/*/*.jpg'))
def get_all(dest, server, **kw): return get_open_images(dest, base=server.url, bucket=f'{server.url}/bucket', **kw)

def test_a_thousand_lines_of_memory(tmp_path):
    "Five megabytes of rows, and not two of memory"
    path = tmp_path/'labels.csv'
    with open(path, 'w') as f:
        f.write('ImageID,Source,LabelName,Confidence\n')
        for i in range(100_000): f.write(f'{i:016x},crowdsource-verification,/m/{i%600:05},1\n')
        f.write(f'{5:016x},verification,{PETS["cat"]},1\n')
    tracemalloc.start()
    found = read_labels(path, PETS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {f'{5:016x}': ['cat']} and path.stat().st_size > 4.5e6
    assert peak < 2e6, peak

def test_a_list_of_one_endless_line(tmp_path):
    (tmp_path/'a.csv').write_bytes(b'ImageID,' + b'x'*3_000_000)
    with pytest.raises(CourseError, match='line of more than a megabyte'): list(read_rows(tmp_path/'a.csv', ('ImageID',)))

def test_bytes_that_are_no_utf8(tmp_path):
    (tmp_path/'a.csv').write_bytes('\ufeffImageID,Author\r\n1,Jürgen\r\n'.encode('utf-8') + '2,Jürgen\r\n'.encode('latin-1'))
    assert list(read_rows(tmp_path/'a.csv', ('Author',))) == [('Jürgen',), ('J\ufffdrgen',)]

def test_a_list_that_changes_while_it_is_read(server, monkeypatch):
    server.files['a.csv'],server.tricks['a.csv'] = b'ImageID\n' + b'1\n'*2_000_000, 'cut x1'
    rows = read_rows(f'{server.url}/a.csv', ('ImageID',))
    next(rows)
    server.files['a.csv'] = b'ImageID\n' + b'2\n'*2_000_000
    with pytest.raises(CourseError, match='was changed while it was being read'): list(rows)

@pytest.mark.parametrize('release', RELEASES)
def test_every_release(tmp_path, server, release):
    publish(server, 6, release)
    ds = get_all(tmp_path/'photos', server, release=release)
    assert (len(ds), ds.info['source']) == (15, f'Open Images {release.upper()}')

def test_names_that_are_not_there(server):
    with pytest.raises(CourseError, match="did you mean 'v4'"): list_photos('train', release='v44')
    with pytest.raises(CourseError, match="no part of Open Images 'valid'"): list_photos('valid')
    with pytest.raises(CourseError, match='answers 404'): list_photos('train', base=server.url)

KILLED = """
import sys
from transfer_course.data import openimages
openimages.get_open_images(sys.argv[1], base=sys.argv[2], bucket=sys.argv[2]+'/bucket', workers=4)
"""

def test_killed_and_gone_on(tmp_path, server):
    dest = tmp_path/'photos'
    publish(server, 45)
    do_get = server.RequestHandlerClass.do_GET
    def slowly(self):
        if self.path.endswith('.jpg'): time.sleep(.02)
        do_get(self)
    server.RequestHandlerClass = type('Slow', (server.RequestHandlerClass,), dict(do_GET=slowly))
    kills = 0
    for pause in (.1, .3):
        before = len(photos(dest))
        p = subprocess.Popen([sys.executable, '-c', KILLED, dest, server.url], stdout=subprocess.DEVNULL)
        end = time.time()+60
        while p.poll() is None and len(photos(dest)) <= before+5 and time.time() < end: time.sleep(.01)
        time.sleep(pause)
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            kills += 1
        p.wait()
        for o in photos(dest): open_picture(o)  # what is there is whole
    server.requested.clear()
    had = {o.stem for o in photos(dest)}
    with open(dest/'lists'/'train.outcomes.csv', 'a') as f: f.write('train/cat/half')  # a kill may leave half a line
    ds = get_all(dest, server)
    assert kills and len(ds) == 3*44
    assert not [o for o in server.requested if o.rpartition('/')[2].removesuffix('.jpg') in had]
    assert not (dest/'.parts').exists() and len(ds.credits) == len(ds)
    assert 'half' not in (dest/'lists'/'train.outcomes.csv').read_text()

def test_a_full_disk(tmp_path, server, monkeypatch):
    publish(server, 30)
    left,replace = [8], os.replace
    def full(a, b):
        if str(b).endswith('.jpg'):
            if not left[0]: raise OSError(errno.ENOSPC, 'No space left on device')
            left[0] -= 1
        replace(a, b)
    monkeypatch.setattr(openimages.os, 'replace', full)
    with pytest.raises(CourseError, match=r'is full after \d+ photos .*make room'):
        get_all(tmp_path/'photos', server, workers=2)
    assert len(photos(tmp_path/'photos')) == 8
    left[0] = 10_000
    assert len(get_all(tmp_path/'photos', server)) == 87

def test_nobody_is_there(tmp_path, server, monkeypatch):
    monkeypatch.setattr(openimages, 'MOST_FAILED', 10)
    rows = list_photos('train', base=publish(server, 60).url)
    with pytest.raises(CourseError, match='10 photos in a row could not be fetched'):
        fetch_photos([dict(o, thumbnail='http://127.0.0.1:9/x.jpg') for o in rows], 'train', tmp_path, bucket='http://127.0.0.1:9')
    assert not photos(tmp_path)

def test_a_class_of_which_nothing_came(tmp_path, server):
    publish(server, 12)
    for o in list(server.files):
        if o.endswith('.jpg') and int(o[-18:-4][-14:], 16) % 3 == 0: del server.files[o]
    with pytest.raises(CourseError, match="None of the photos of 'cat' in train could be had"):
        get_all(tmp_path/'photos', server)

def test_addresses_that_are_none(tmp_path, server):
    rows = list_photos('train', base=publish(server, 12).url)
    for o,bad in zip(rows, ('nan', 'ftp://x/y.jpg', 'http://', '/etc/passwd', 'https://['), strict=False): o['thumbnail'] = bad
    count = fetch_photos(rows, 'train', tmp_path, bucket=f'{server.url}/bucket')
    assert (count['new'], count['bucket']) == (11, 6)  # one has no thumbnail anyway

TRICKS = ['404', '403', '410', 'redirect', 'page', '500 x1', '503 x2', '429 x1', 'cut x1', 'cut', 'stall x1', '500']

def trouble(server, seed):
    "A random trick, or none, for every picture"
    rng = random.Random(seed)
    pictures = [o for o in server.files if o.endswith('.jpg')]
    for o in pictures: server.tricks[o] = rng.choice(['']*6 + TRICKS)

@pytest.mark.parametrize('seed,n', [(0, 12)] + [pytest.param(o, 60, marks=pytest.mark.slow) for o in range(20)])
def test_random_trouble_ends_well(tmp_path, server, seed, n):
    publish(server, n)
    trouble(server, seed)
    def get():
        try: return get_all(tmp_path/'photos', server, workers=8)
        except CourseError as e: pytest.fail(str(e))
    get()
    for o in list(server.tricks):
        if server.tricks[o] in ('500', 'cut'): del server.tricks[o]  # the server has recovered
    ds = get()
    gone = {'404', '403', '410', 'redirect', 'page'}
    def refused(path): return server.tricks.get(path) in gone
    rows = [(part, o) for part in ds.parts for o in list_photos(part, base=server.url)]
    def lost(part, o):
        thumbnail = o['thumbnail'].removeprefix(server.url+'/')
        return (not thumbnail or refused(thumbnail)) and refused(f"bucket/{part}/{o['id']}.jpg")
    assert {Path(n).stem for n in ds.names} == {o['id'] for part,o in rows if not lost(part, o)}
    for n in ds.names: open_picture(ds.path/n)

def test_the_command_line(tmp_path, server):
    base = publish(server, 12).url
    def run(name, *args):
        command = [sys.executable, '-m', name, tmp_path/'photos', '--base', base, '--bucket', f'{base}/bucket', *args]
        return subprocess.run(command, capture_output=True, text=True)
    wrong = run('transfer_course.openimages', '--release', 'v9') # by its older name
    assert (wrong.returncode, wrong.stdout) == (2, '')
    told,error = wrong.stderr.splitlines()
    assert 'transfer_course.data.openimages' in told and error.startswith("There is no release of Open Images 'v9'")
    shutil.rmtree(tmp_path/'photos')
    right = run('transfer_course.data.openimages', '--limit', '2')
    assert right.returncode == 0 and 'own:photos: 18 pictures in 3 classes (bird 6, cat 6, dog 6)' in right.stdout
