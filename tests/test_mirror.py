"A mirror is filled, interrupted, damaged and mended; a class works from it without a network."
import errno
import hashlib
import os
import shutil
import signal
import socket
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load, save

from tools import mirror
from tools.mirror import check_mirror, fill_mirror, look
from transfer_course.core import CourseError, read_json, sha256, write_json
from transfer_course.data import check, fetch, sets
from transfer_course.data.sets import get_data
from transfer_course.data.synthetic import make_pictures
from transfer_course.train.models import find_weights, make_body

REAL = os.environ.get('TRANSFER_COURSE_MIRROR', '')
NAMES = dict(layout='names', label=r'train/(\w+)\.\d+\.jpg', credits='who.csv', credits_licence='CC0')
SETS = dict(stars=dict(title='Stars', page='', licence='none', photos=6, archive='stars.zip', kaggle='ann/stars'),
            match=dict(title='Circles', page='', licence='none', photos=8, archive='match.zip', competition='match', **NAMES))
BOTH = ['archives/stars.zip', 'archives/match.zip']

@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "Runs in a temporary folder, no mirror, no weights in any cache, and these two data sets alone"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    for module in (check, fetch, sets, mirror): monkeypatch.setattr(module, 'data_sets', lambda: SETS)
    for o in ('_torchvision_files', '_timm_files'): monkeypatch.setattr(mirror, o, lambda: [])
    monkeypatch.setattr(mirror, '_PACKAGES', {})

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

@pytest.fixture
def there(tmp_path): return tmp_path/'mirror'

def files(folder):
    found = (o for o in folder.rglob('*') if o.is_file() and o.suffix != '.lock')
    return {o.relative_to(folder).as_posix(): o.stat().st_mtime_ns for o in found}

def test_a_class_works_from_it_without_a_network(tmp_path, monkeypatch, downloads, there):
    lines = []
    assert fill_mirror(there, lines.append) == BOTH
    assert any('stars: 6 photos, all of them; downloaded' in o for o in lines) and lines[3].startswith('To copy: 2 files, ')
    about = dict(archive='match.zip', sha256=sha256(downloads/'match.zip'), photos=8, stands_for='kaggle competition match')
    assert read_json(there/'archives'/'match.json') == about | dict(source_photos=8, complete=True, reencoded=None, part=None)
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'pupil'))
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(there))
    def no_network(*args): raise AssertionError('a network was asked')
    monkeypatch.setattr(socket.socket, 'connect', no_network)
    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    for name,classes in dict(stars=['blue-star', 'red-star'], match=['circle', 'square']).items():
        ds = get_data(name, 'full')
        assert (ds.classes, ds.info['source'], ds.info['complete']) == (classes, 'mirror', True)
    assert not (tmp_path/'pupil'/'data'/'archives').exists()

def test_the_same_line_again_changes_nothing(downloads, there):
    fill_mirror(there)
    before = files(there)
    assert fill_mirror(there) == []
    assert files(there) == before

def test_a_part_is_called_a_part(tmp_path, monkeypatch, downloads, there):
    monkeypatch.setitem(SETS['stars'], 'photos', 60)
    fill_mirror(there)
    about = read_json(there/'archives'/'stars.json')
    assert (about['complete'], about['part'], about['photos'], about['source_photos']) == (False, '6 of 60', 6, 60)
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(there))
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'pupil'))
    assert not get_data('stars', 'quick').info['complete']
    with pytest.raises(CourseError, match='a part only'): get_data('stars', 'full')

def copy_slowly(folder, told):
    "In a child: stop in the middle of the second archive, and tell"
    whole = mirror._blocks
    def slow(path):
        for block in whole(path):
            yield block
            if path.name == 'match.zip' and 'archives' in str(path):
                os.write(told, b'x')
                time.sleep(600)
    mirror._blocks = slow
    try: fill_mirror(folder)
    finally: os._exit(1)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
def test_killed_it_goes_on_where_it_was(downloads, there):
    read,write = os.pipe()
    if not (child := os.fork()): copy_slowly(there, write)
    os.close(write)
    assert os.read(read, 1) == b'x' # empty if the child ended
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    left = files(there)
    assert {'archives/stars.zip', 'archives/stars.json'} <= set(left) and 'archives/match.zip' not in left
    assert any('.part' in o for o in left)
    assert fill_mirror(there) == ['archives/match.zip']
    again = files(there)
    assert again['archives/stars.zip'] == left['archives/stars.zip'] and not any('.part' in o for o in again)

def test_an_archive_that_was_copied_by_hand(downloads, there):
    fill_mirror(there)
    (there/'archives'/'stars.json').unlink()
    assert fill_mirror(there) == ['archives/stars.zip']
    assert look(there/'archives'/'stars.zip')[0] == 'ok'

def test_a_full_disk(monkeypatch, downloads, there):
    whole = mirror._blocks
    def full(path):
        if path.name == 'match.zip': raise OSError(errno.ENOSPC, 'No space left on device')
        return whole(path)
    monkeypatch.setattr(mirror, '_blocks', full)
    words = r'No space left on device\). 1 of 2 files finished and kept: make room, and run'
    with pytest.raises(CourseError, match=words): fill_mirror(there)
    assert set(files(there)) == {'archives/stars.zip', 'archives/stars.json'}
    monkeypatch.setattr(mirror, '_blocks', whole)
    assert fill_mirror(there) == ['archives/match.zip']

def test_a_damaged_download_stays_away(downloads, there):
    body = bytearray((downloads/'stars.zip').read_bytes())
    end = body.rindex(b'PK\5\6')
    body[end+20:] = b'\5\0other' # a comment at the end: the archive unpacks as before, and is another file
    (downloads/'stars.zip').write_bytes(body)
    lines = []
    with pytest.raises(CourseError, match="lacks 1 of this machine's files"): fill_mirror(there, lines.append)
    assert any('stars.zip has the SHA-256' in o and 'damaged since it was fetched' in o for o in lines)
    assert set(files(there)) == {'archives/match.zip', 'archives/match.json'}

def test_what_was_there_is_not_replaced(packed, downloads, there):
    (there/'archives').mkdir(parents=True)
    shutil.copy(packed['match'], there/'archives'/'stars.zip') # somebody's own, under this name
    with pytest.raises(CourseError, match="lacks 1 of this machine's files"): fill_mirror(there)
    theirs = sha256(packed['match'])
    assert sha256(there/'archives'/'stars.zip') == theirs
    write_json(there/'archives'/'stars.json', dict(sha256=theirs, photos=8, complete=True)) # now something vouches for it
    assert fill_mirror(there) == []
    assert sha256(there/'archives'/'stars.zip') == theirs

def test_check_tells_each_file(downloads, there):
    fill_mirror(there)
    archives,weights = there/'archives', there/'weights'
    for o in ('zip', 'json'): shutil.copy(archives/f'match.{o}', archives/f'mtach.{o}')
    (archives/'note.txt').write_text('mine')
    (archives/'gone.json').write_text('{}')
    (archives/'.match.zip.lock').touch()
    with open(archives/'stars.zip', 'r+b') as f: f.truncate(100)
    weights.mkdir()
    body = save(dict(w=torch.zeros(3, 3)))
    for name,content in dict(whole=body, cut=body[:90]).items():
        (weights/f'{name}.imagenet.safetensors').write_bytes(content)
        write_json(weights/f'{name}.imagenet.json', dict(what='nine zeros'))
    lines = []
    with pytest.raises(CourseError, match='5 of 7 files on'): check_mirror(there, lines.append)
    found = {line[22:79].strip(): line[:11].strip() for line in lines}
    assert found == {'archives/stars.zip': 'damaged', 'archives/match.zip': 'ok', 'archives/mtach.zip': 'no data set',
                     'archives/note.txt': 'no JSON', 'archives/gone.json': 'missing',
                     'weights/whole.imagenet.safetensors': 'ok', 'weights/cut.imagenet.safetensors': 'damaged'}

def test_weights_from_the_caches(tmp_path, monkeypatch, there):
    "timm's are a file of the hub, named by its hash; torchvision's is not the file that was published; the package's are installed"
    monkeypatch.undo()
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'torch'))
    monkeypatch.setattr(mirror, 'try_to_load_from_cache', partial(mirror.try_to_load_from_cache, cache_dir=tmp_path/'hub'))
    torch.manual_seed(0)
    body = save(timm.create_model('test_resnet').state_dict())
    repo = tmp_path/'hub'/('models--' + timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--'))
    for o in ('blobs', 'refs', 'snapshots/abc'): (repo/o).mkdir(parents=True)
    (repo/'refs'/'main').write_text('abc')
    (repo/'blobs'/hashlib.sha256(body).hexdigest()).write_bytes(body)
    (repo/'snapshots'/'abc'/'model.safetensors').symlink_to(repo/'blobs'/hashlib.sha256(body).hexdigest())
    url = torchvision.models.get_model_weights('squeezenet1_1').DEFAULT.url
    (tmp_path/'torch'/'hub'/'checkpoints').mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path/'torch'/'hub'/'checkpoints'/url.rpartition('/')[2])

    lines = []
    with pytest.raises(CourseError, match='lacks 1 of'): fill_mirror(there, lines.append)
    assert any(o.startswith('to copy') and "timm:test_resnet; from timm's download" in o for o in lines)
    assert any('squeezenet1_1' in o and 'damaged since it was fetched' in o for o in lines)
    assert not list((there/'weights').glob('squeezenet*'))
    about = read_json(there/'weights'/'test_resnet.imagenet-timm.json')
    assert about['official'] and about['library'] == 'timm' and len(about['mean']) == 3

    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(there))
    w = find_weights('timm:test_resnet')
    assert (w.source, w.official) == ('mirror', True)
    got,want = make_body('timm:test_resnet', w).state_dict(), load(body)
    assert len(got) > 10 and all(torch.equal(v, want[k.removeprefix('model.')]) for k,v in got.items())
    (there/'weights'/'test_resnet.imagenet-timm.safetensors').write_bytes(save(timm.create_model('test_resnet').state_dict()))
    with pytest.raises(CourseError, match='another file: its SHA-256 is .*the JSON beside it says'): find_weights('timm:test_resnet')
    lite = 'timm:tf_efficientnet_lite0'
    a,b = (make_body(lite, find_weights(lite, scale=o)).state_dict() for o in ('quick', 'sample'))
    assert find_weights(lite).source == 'mirror' and all(torch.equal(a[k], b[k]) for k in b)

def test_the_command(downloads, there, capsys):
    mirror.main(there)
    mirror.main(there, check=True)
    assert '2 looked at, all well.' in capsys.readouterr().out
    (there/'archives'/'stars.zip').write_bytes(b'')
    with pytest.raises(SystemExit, match='1 of 2 files'): mirror.main(there, check=True)
    with pytest.raises(SystemExit, match='is no mirror'): mirror.main(there/'nothing', check=True)

@pytest.mark.skipif(not REAL, reason='no mirror here: set TRANSFER_COURSE_MIRROR')
def test_the_real_mirror(monkeypatch):
    monkeypatch.undo()
    assert {state for state,_ in check_mirror(REAL).values()} == {'ok'}
