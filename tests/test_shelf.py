"A shelf is filled, interrupted, damaged and mended; a class works from it without a network."
import errno, json, os, shutil, signal, socket, subprocess, sys, zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from transfer_course import data, shelf
from transfer_course.core import CourseError, read_json, sha256, write_json
from transfer_course.data.sets import get_data
from transfer_course.data.synthetic import make_pictures
from transfer_course.shelf import check_shelf, fill_shelf, look, shelved_items

SHELF = os.environ.get('TRANSFER_COURSE_MIRROR', '')
SETS = dict(stars=dict(title='Stars', page='', licence='none', photos=6, archive='stars.zip', kaggle='ann/stars'),
            match=dict(title='Circles against squares', page='', licence='none', photos=8, archive='match.zip', competition='match', layout='names', label=r'train/(\w+)\.\d+\.jpg', credits='who.csv', credits_licence='CC0'))

@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "Runs in a temporary folder, no shelf, no weights in any cache, and these two data sets alone"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    for module in (data, shelf): monkeypatch.setattr(module, 'data_sets', lambda: SETS)
    monkeypatch.setattr(shelf, 'cached_weights', lambda: [])

@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    "An archive a data set: folders of classes; and, as a competition's, a zip in a zip with the class in the name"
    tmp = tmp_path_factory.mktemp('packed')
    make_pictures(tmp/'a'/'stars', 6, ['red-star', 'blue-star'], size=24)
    flat = make_pictures(tmp/'b', 8, ['red-circle', 'red-square'], size=24)
    with zipfile.ZipFile(tmp/'train.zip', 'w') as z:
        for o in sorted(flat.glob('*/*.jpg')): z.write(o, f"train/{o.parent.name.split('-')[1]}.{int(o.stem)}.jpg")
    with zipfile.ZipFile(tmp/'match.zip', 'w') as z: z.write(tmp/'train.zip', 'train.zip')
    return dict(stars=Path(shutil.make_archive(tmp/'stars', 'zip', tmp/'a')), match=tmp/'match.zip')

@pytest.fixture
def downloads(tmp_path, packed):
    "Both archives, as if they had been downloaded"
    folder = tmp_path/'runs'/'data'/'archives'
    folder.mkdir(parents=True)
    for name,path in packed.items():
        shutil.copy(path, folder)
        write_json(folder/f'{name}.json', dict(archive=path.name, sha256=sha256(path), source='kaggle'))
    return folder

def files(folder): return {o.relative_to(folder).as_posix(): o.stat().st_mtime_ns for o in folder.rglob('*') if o.is_file() and o.suffix != '.lock'}
BOTH = ['archives/stars.zip', 'archives/match.zip']

def test_a_class_works_from_it_without_a_network(tmp_path, monkeypatch, downloads):
    said = []
    assert fill_shelf(tmp_path/'shelf', said.append) == BOTH
    assert any('stars: 6 photos, all of them; downloaded' in o for o in said) and said[3].startswith('To copy: 2 files, ')
    about = read_json(tmp_path/'shelf'/'archives'/'match.json')
    assert about == dict(archive='match.zip', sha256=sha256(downloads/'match.zip'), photos=8, stands_for='kaggle competition match', source_photos=8, complete=True, recoded=None, part=None)
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'pupil'))
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path/'shelf'))
    def no_network(*args): raise AssertionError('a network was asked')
    monkeypatch.setattr(socket.socket, 'connect', no_network)
    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    for name,classes in dict(stars=['blue-star', 'red-star'], match=['circle', 'square']).items():
        ds = get_data(name, 'full')
        assert (ds.classes, ds.info['source'], ds.info['complete']) == (classes, 'shelf', True)
    assert not (tmp_path/'pupil'/'data'/'archives').exists()

def test_the_same_line_again_changes_nothing(tmp_path, downloads):
    fill_shelf(tmp_path/'shelf')
    before = files(tmp_path/'shelf')
    assert fill_shelf(tmp_path/'shelf') == []
    assert files(tmp_path/'shelf') == before

def test_a_part_is_called_a_part(tmp_path, monkeypatch, downloads):
    monkeypatch.setitem(SETS['stars'], 'photos', 60)
    fill_shelf(tmp_path/'shelf')
    about = read_json(tmp_path/'shelf'/'archives'/'stars.json')
    assert (about['complete'], about['part'], about['photos'], about['source_photos']) == (False, '6 of 60', 6, 60)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path/'shelf'))
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'pupil'))
    assert not get_data('stars', 'quick').info['complete']
    with pytest.raises(CourseError, match='a part only'): get_data('stars', 'full')

KILLED = """
import sys, time
from transfer_course import data, shelf
for m in (data, shelf): m.data_sets = lambda: {sets!r}
shelf.cached_weights = lambda: []
whole = shelf._blocks
def slow(path):
    for block in whole(path):
        yield block
        if path.name == 'match.zip' and 'archives' in str(path): print('copying', flush=True); time.sleep(600)
shelf._blocks = slow
shelf.fill_shelf(sys.argv[1])
"""

def test_killed_it_goes_on_where_it_was(tmp_path, downloads):
    p = subprocess.Popen([sys.executable, '-c', KILLED.format(sets=SETS), str(tmp_path/'shelf')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while 'copying' not in (line := p.stdout.readline()): assert line or p.poll() is None, p.stderr.read()
    p.send_signal(signal.SIGKILL); p.wait()
    left = files(tmp_path/'shelf')
    assert {'archives/stars.zip', 'archives/stars.json'} <= set(left) and 'archives/match.zip' not in left
    assert any('.part' in o for o in left)
    assert fill_shelf(tmp_path/'shelf') == ['archives/match.zip']
    again = files(tmp_path/'shelf')
    assert again['archives/stars.zip'] == left['archives/stars.zip'] and not any('.part' in o for o in again)

def test_an_archive_that_was_copied_by_hand(tmp_path, downloads):
    fill_shelf(tmp_path/'shelf')
    (tmp_path/'shelf'/'archives'/'stars.json').unlink()
    assert fill_shelf(tmp_path/'shelf') == ['archives/stars.zip']
    assert look(tmp_path/'shelf'/'archives'/'stars.zip')[0] == 'ok'

def test_a_full_disk(tmp_path, monkeypatch, downloads):
    whole = shelf._blocks
    def full(path):
        if path.name=='match.zip': raise OSError(errno.ENOSPC, 'No space left on device')
        return whole(path)
    monkeypatch.setattr(shelf, '_blocks', full)
    with pytest.raises(CourseError, match=r'No space left on device\). 1 of 2 files finished and kept: make room, and run'): fill_shelf(tmp_path/'shelf')
    assert {o for o in files(tmp_path/'shelf')} == {'archives/stars.zip', 'archives/stars.json'}
    monkeypatch.setattr(shelf, '_blocks', whole)
    assert fill_shelf(tmp_path/'shelf') == ['archives/match.zip']

def test_too_little_room_is_told_beforehand(tmp_path, monkeypatch, downloads):
    for o in SETS: get_data(o) # unpacked before
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: SimpleNamespace(free=99))
    with pytest.raises(CourseError, match='has room for 99 bytes, and .* are to come: nothing was copied'): fill_shelf(tmp_path/'shelf')
    assert not (tmp_path/'shelf').exists()

def test_a_damaged_download_stays_away(tmp_path, downloads):
    body = bytearray((downloads/'stars.zip').read_bytes())
    end = body.rindex(b'PK\5\6')
    body[end+20:] = b'\5\0other' # a comment at the end: the archive unpacks as before, and is another file
    (downloads/'stars.zip').write_bytes(body)
    said = []
    with pytest.raises(CourseError, match='lacks 1 of the files'): fill_shelf(tmp_path/'shelf', said.append)
    assert any('stars.zip has the SHA-256' in o and 'damaged since it was fetched' in o for o in said)
    assert set(files(tmp_path/'shelf')) == {'archives/match.zip', 'archives/match.json'}

def test_what_was_there_is_not_replaced(tmp_path, packed, downloads):
    there = tmp_path/'shelf'/'archives'
    there.mkdir(parents=True)
    shutil.copy(packed['match'], there/'stars.zip') # somebody's own, under this name
    with pytest.raises(CourseError, match='lacks 1 of the files'): fill_shelf(tmp_path/'shelf')
    assert sha256(there/'stars.zip') == sha256(packed['match'])
    write_json(there/'stars.json', dict(sha256=sha256(there/'stars.zip'), photos=8, complete=True)) # now something vouches for it
    assert fill_shelf(tmp_path/'shelf') == []
    assert sha256(there/'stars.zip') == sha256(packed['match'])

def test_check_tells_each_file(tmp_path, downloads):
    fill_shelf(tmp_path/'shelf')
    there = tmp_path/'shelf'/'archives'
    shutil.copy(there/'match.zip', there/'mtach.zip'); shutil.copy(there/'match.json', there/'mtach.json')
    (there/'note.txt').write_text('mine')
    (there/'gone.json').write_text('{}')
    (there/'.match.zip.lock').touch()
    with open(there/'stars.zip', 'r+b') as f: f.truncate(100)
    (tmp_path/'shelf'/'weights').mkdir()
    for name in ('whole', 'cut'):
        from safetensors.numpy import save_file
        import numpy as np
        save_file(dict(w=np.zeros((3, 3))), tmp_path/'shelf'/'weights'/f'{name}.imagenet.safetensors')
        write_json(tmp_path/'shelf'/'weights'/f'{name}.imagenet.json', dict(what='nine zeros'))
    with open(tmp_path/'shelf'/'weights'/'cut.imagenet.safetensors', 'r+b') as f: f.truncate(90)
    said = []
    with pytest.raises(CourseError, match='5 of 7 files on'): check_shelf(tmp_path/'shelf', said.append)
    found = {line[22:79].strip(): line[:11].strip() for line in said if line[:5] != 'Looking'}
    assert found == {'archives/stars.zip': 'damaged', 'archives/match.zip': 'ok', 'archives/mtach.zip': 'no data set', 'archives/note.txt': 'no JSON', 'archives/gone.json': 'missing',
                     'weights/whole.imagenet.safetensors': 'ok', 'weights/cut.imagenet.safetensors': 'damaged'}

def test_from_shelf_to_shelf(tmp_path, monkeypatch, downloads):
    first = tmp_path/'first'
    fill_shelf(first)
    (first/'weights').mkdir()
    (first/'weights'/'a.imagenet.safetensors').write_bytes(b'weights')
    (first/'weights'/'a.imagenet.json').write_text(json.dumps(dict(arch='a', library='timm', genuine=True)))
    (first/'weights'/'mystery.safetensors').write_bytes(b'weights')
    (first/'who.csv').write_text('file,author,source\n')
    shutil.rmtree(downloads)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(first))
    assert shelved_items(first) == []
    assert set(fill_shelf(tmp_path/'second')) == {*BOTH, 'weights/a.imagenet.safetensors', 'who.csv'}
    assert read_json(tmp_path/'second'/'weights'/'a.imagenet.json') == dict(arch='a', library='timm', genuine=True, sha256=sha256(first/'weights'/'a.imagenet.safetensors'))
    assert read_json(tmp_path/'second'/'archives'/'stars.json') == read_json(first/'archives'/'stars.json')
    assert fill_shelf(tmp_path/'second') == []

WEIGHTS = """
import hashlib, os, sys
from pathlib import Path
import timm, torch, torchvision
from safetensors.torch import save
from transfer_course import shelf
cache, dest = map(Path, sys.argv[1:])
torch.manual_seed(0)

body = save(timm.create_model('test_resnet').state_dict()) # a tiny net, as the hub's cache would hold it
repo = cache/'hub'/('models--' + timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--'))
for o in ('blobs', 'refs', 'snapshots/abc'): (repo/o).mkdir(parents=True)
(repo/'refs'/'main').write_text('abc')
blob = repo/'blobs'/hashlib.sha256(body).hexdigest()
blob.write_bytes(body)
(repo/'snapshots'/'abc'/'model.safetensors').symlink_to(blob)

url = torchvision.models.get_model_weights('squeezenet1_1').DEFAULT.url # not the file that torchvision published
(cache/'torch'/'checkpoints').mkdir(parents=True)
torch.save(torchvision.models.squeezenet1_1().state_dict(), cache/'torch'/'checkpoints'/url.rpartition('/')[2])

try: shelf.fill_shelf(dest)
except shelf.CourseError as e: print('ENDED', e)
print('AGAIN')
try: shelf.fill_shelf(dest)
except shelf.CourseError as e: pass

from transfer_course.train.models import find_weights, make_body
os.environ['TRANSFER_COURSE_MIRROR'] = str(dest)
w = find_weights('timm:test_resnet')
assert (w.source, w.genuine) == ('shelf', True), w
own, got = timm.create_model('test_resnet'), make_body('timm:test_resnet', w).state_dict()
from safetensors.torch import load
want = load(body)
assert all(torch.equal(v, want[k.removeprefix('model.')]) for k,v in got.items()) and len(got) > 10
if find_weights('timm:tf_efficientnet_lite0').source == 'shelf':
    a, b = (make_body('timm:tf_efficientnet_lite0', o).state_dict() for o in (find_weights('timm:tf_efficientnet_lite0'), find_weights('timm:tf_efficientnet_lite0', scale='sample')))
    assert all(torch.equal(a[k], b[k]) for k in b)
    print('the packaged net too')
"""

def test_weights_from_the_caches(tmp_path):
    env = dict(os.environ, HF_HUB_CACHE=str(tmp_path/'cache'/'hub'), TORCH_HOME=str(tmp_path/'cache'), HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1')
    env['TORCH_HOME'] = str(tmp_path/'torch-home')
    (tmp_path/'torch-home'/'hub').mkdir(parents=True)
    (tmp_path/'cache').mkdir()
    (tmp_path/'cache'/'torch').symlink_to(tmp_path/'torch-home'/'hub')
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', WEIGHTS, str(tmp_path/'cache'), str(tmp_path/'shelf')], env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    first,again = out.stdout.split('AGAIN')
    assert 'squeezenet1_1' in first and 'damaged since it was fetched' in first and 'ENDED' in first
    assert "timm:test_resnet; from timm's download" in first and 'to copy' in first
    assert [o for o in again.splitlines() if o.startswith('to copy')] == [o for o in again.splitlines() if 'squeezenet1_1.imagenet' in o and o.startswith('to copy')]
    about = read_json(tmp_path/'shelf'/'weights'/'test_resnet.imagenet-timm.json')
    assert about['genuine'] and about['library'] == 'timm' and len(about['mean']) == 3
    assert not (tmp_path/'shelf'/'weights'/'squeezenet1_1.imagenet-torchvision.safetensors').exists()

def cli(*args):
    code = f"import sys; from transfer_course import cli, data, shelf\nfor m in (data, shelf): m.data_sets = lambda: {SETS!r}\nshelf.cached_weights = lambda: []\nsys.exit(cli.main())"
    out = subprocess.run([sys.executable, '-c', code, 'shelf', *map(str, args)], capture_output=True, text=True)
    assert 'Traceback' not in out.stderr, out.stderr
    return out

def test_the_command(tmp_path, downloads):
    out = cli(tmp_path/'shelf')
    assert out.returncode == 0 and 'archives/stars.zip' in out.stdout, out.stderr
    out = cli(tmp_path/'shelf', '--check')
    assert out.returncode == 0 and '2 looked at, all well.' in out.stdout
    (tmp_path/'shelf'/'archives'/'stars.zip').write_bytes(b'')
    out = cli(tmp_path/'shelf', '--check')
    assert out.returncode == 2 and '1 of 2 files' in out.stderr and out.stderr.count('\n') == 1
    out = cli(tmp_path/'nothing', '--check')
    assert out.returncode == 2 and 'is no shelf' in out.stderr

@pytest.mark.skipif(os.geteuid()==0 if hasattr(os, 'geteuid') else True, reason='root may write anywhere; other systems have no such modes')
def test_a_folder_that_may_not_be_written(tmp_path, downloads):
    (tmp_path/'shelf').mkdir(mode=0o500)
    with pytest.raises(CourseError, match='could not be filled to the end'): fill_shelf(tmp_path/'shelf')

@pytest.mark.skipif(not SHELF, reason='no shelf here: set TRANSFER_COURSE_MIRROR')
def test_the_real_shelf(monkeypatch):
    monkeypatch.undo()
    assert {state for state,_ in check_shelf(SHELF).values()} == {'ok'}
