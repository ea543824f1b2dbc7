"""Fill a mirror: a folder that answers the course's downloads, for a class without a network.

    python tools/mirror.py DIR              # copy the archives and weights that this machine has
    python tools/mirror.py DIR --check      # compare every file with its JSON

A mirror holds `archives/` and `weights/`, and beside each file a JSON that says what it is. A class sets TRANSFER_COURSE_MIRROR=DIR.
"""
import errno
import hashlib
import os
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import timm
import torch
import torchvision
from fastcore.script import call_parse
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from transfer_course.core import CourseError, atomic, locked, progress, read_json, runs_path, sweep, write_json
from transfer_course.data.fetch import data_sets
from transfer_course.data.sets import get_data
from transfer_course.train.models import _PACKAGES, find_arch, find_weights, load_weights, published_sha256, read_tensors

BLOCK = 1<<20 # bytes

@dataclass
class Item:
    "One file for a mirror, and what it is made of"
    name:str # Below the mirror, such as 'archives/flowers-recognition.zip'
    source:Path # The file on this machine
    what:str # In words: what it is, and where it came from
    about:dict # The JSON beside it
    sha256:str='' # Of the source, whole or its beginning; '' where nobody published one
    arch:str='' # Of weights, which are written anew; '' copies the source

    @property
    def size(self) -> int: return self.source.stat().st_size

def show_bytes(n):
    "A size for people, such as '46.8 MB', in powers of ten as disks are sold"
    for unit in ('bytes', 'kB', 'MB', 'GB'):
        if n < 999.5 or unit == 'GB': return f"{n:{',.0f' if n > 99 else '.3g'}} {unit}"
        n /= 1000

# --- What this machine has ---

@contextmanager
def _no_mirror():
    "Look away from the mirror in use"
    kept = {k: os.environ.pop(k) for k in ('TRANSFER_COURSE_MIRROR', 'TRANSFER_COURSE_SHELF') if k in os.environ}
    try: yield
    finally: os.environ.update(kept)

def _stands_for(entry):
    "Where an archive comes from, as its JSON says it"
    words = dict(kaggle='kaggle dataset ', competition='kaggle competition ', url='')
    return next((f'{v}{entry[k]}' for k,v in words.items() if k in entry), None)

def _archive_words(name, about):
    "An archive, for people"
    if not about.get('photos'): return name
    part = 'all of them' if about.get('complete') else 'a part'
    return f"{name}: {about['photos']:,} photos, {part}" + (', re-encoded' if about.get('reencoded') else '')

def _downloaded(name, entry, path):
    "The item of an archive that `get_data` downloaded"
    with _no_mirror(): info = get_data(name, 'quick').info
    noted = path.with_suffix('.json')
    sha = read_json(noted)['sha256'] if noted.exists() else info['sha256'] # as it was when it arrived
    about = dict(archive=path.name, sha256=sha, photos=info['photos'], stands_for=info['stands_for'] or _stands_for(entry),
                 source_photos=entry['photos'], complete=info['complete'], reencoded=info['reencoded'],
                 part=None if info['complete'] else f"{info['photos']:,} of {entry['photos']:,}")
    return Item(f'archives/{path.name}', path, f'{_archive_words(name, about)}; downloaded', about, sha)

def downloaded_archives(leave_out):
    "Items of the archives that `get_data` downloaded before; `leave_out` is called with what is wrong with one"
    items = []
    for name,entry in data_sets().items():
        path = runs_path('data', 'archives', entry['archive'])
        if not path.exists(): continue
        try: items.append(_downloaded(name, entry, path))
        except CourseError as e: leave_out(e)
    return items

def known_files() -> dict: # Name below a mirror to the data set
    "The archives that the course looks for"
    return {f"archives/{entry['archive']}": name for name,entry in data_sets().items()}

def _torchvision_files():
    "Nets to the files that torchvision may have downloaded"
    folder = Path(torch.hub.get_dir(), 'checkpoints')
    for o in torchvision.models.list_models(module=torchvision.models):
        url = torchvision.models.get_model_weights(o).DEFAULT.url
        yield f'torchvision:{o}', folder/url.rpartition('/')[2]

def _timm_files():
    "Nets to the files that timm may have downloaded"
    for arch in timm.list_models():
        cfg = timm.get_pretrained_cfg(arch)
        if not cfg or not cfg.hf_hub_id: continue
        repo,_,revision = cfg.hf_hub_id.partition('@')
        for file in ('pytorch_model.bin', 'model.safetensors'): # where both are, the second counts
            path = try_to_load_from_cache(repo, file, revision=revision or None)
            if isinstance(path, str): yield f'timm:{arch}', Path(path)

def _weights_item(arch, source, origin):
    "The item of a net's weights, written as safetensors: a `.pth` is a pickle, and a pickle from a stick is a program"
    library,name = arch.split(':')
    plain = find_weights(arch, 'random') # knows what the library normalises with
    about = dict(arch=name, library=library, official=True, dtype='float32', mean=plain.mean, std=plain.std,
                 what=f'ImageNet weights from {origin}, written as safetensors.')
    file = f'weights/{name}.imagenet-{library}.safetensors'
    return Item(file, source, f'{arch}; from {origin}', about, published_sha256(source), arch)

def _buildable(arch):
    "Does fastai know where to cut this net?"
    try: return bool(find_arch(arch))
    except CourseError: return False

def cached_weights() -> list: # Of `Item`
    "ImageNet weights in the libraries' caches and in packages, of nets that the course can build"
    found = {}
    for files,origin in ((_torchvision_files(), "torchvision's download"), (_timm_files(), "timm's download")):
        found |= {arch: (path, origin) for arch,path in files if path.exists()}
    for arch in _PACKAGES:
        try: w = find_weights(arch, 'imagenet', scale='sample')
        except CourseError: continue # this package is not installed
        found[arch] = w.path,w.source
    return [_weights_item(arch, *o) for arch,o in found.items() if _buildable(arch)]

# --- Looking at what is there ---

def _row(state, size, name, words):
    "A line of a table for the terminal"
    return f'{state:11} {show_bytes(size):>8}  {name:57}  {shorten(words, 90, placeholder=" …")}'.rstrip()

def _blocks(path):
    "A file in blocks, with a bar where somebody can see it"
    total = max(1, -(-path.stat().st_size//BLOCK))
    with open(path, 'rb') as f: yield from progress(iter(lambda: f.read(BLOCK), b''), total=total, comment=path.name)

def _hash(path, out=None):
    "SHA-256 of a file, which is copied to `out` on the way"
    h = hashlib.sha256()
    for block in _blocks(path):
        h.update(block)
        if out: out.write(block)
    return h.hexdigest()

def _opens(path):
    "Is it whole as far as its own table of contents tells?"
    if path.suffix != '.safetensors': return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    try:
        with safe_open(path, 'numpy'): return True
    except (OSError, SafetensorError): return False

def look(
    path:Path # In `archives` or `weights` of a mirror
) -> tuple: # 'ok', 'damaged', 'missing', 'no JSON' or 'no data set', and a sentence about it
    "Compare one file with the JSON beside it"
    beside,name = path.with_suffix('.json'), f'{path.parent.name}/{path.name}'
    if path == beside: return 'missing', 'the file that it describes is not here'
    if not beside.exists(): return 'no JSON', 'nothing says what it is, or what its SHA-256 should be'
    try: about = dict(read_json(beside))
    except (CourseError, TypeError, ValueError): return 'damaged', 'its JSON cannot be read'
    expected = about.get('sha256')
    if expected is None and not _opens(path): return 'damaged', 'it cannot be opened'
    if expected is not None and (found := _hash(path)) != expected:
        return 'damaged', f'its SHA-256 is {found[:12]}…, and its JSON says {str(expected)[:12]}…'
    known = known_files()
    if path.parent.name == 'archives' and name not in known: return 'no data set', 'whole, and under this name nothing looks for it'
    words = _archive_words(known[name], about) if name in known else str(about.get('what', ''))
    return 'ok', words if expected else f'opens; its JSON holds no SHA-256. {words}'

def check_mirror(
    folder:str|Path, # A mirror
    log=print # For a line a file
) -> dict: # Name below the mirror to what was found
    "Compare every file of a mirror with its JSON; a `CourseError` at the end if not all are well"
    folder = Path(folder).expanduser()
    if not any((folder/o).is_dir() for o in ('archives', 'weights')):
        raise CourseError(f"{folder} is no mirror: it has no archives/ or weights/ in it. `python tools/mirror.py {folder}` fills one.")
    files = [o for sub in ('archives', 'weights') for o in sorted((folder/sub).glob('[!.]*')) if o.is_file()]
    described = {o.with_suffix('.json') for o in files if o.suffix != '.json'}
    found = {}
    for path in (o for o in files if o not in described):
        name = path.relative_to(folder).as_posix()
        found[name] = look(path)
        log(_row(found[name][0], path.stat().st_size, name, found[name][1]))
    bad = [o for o,(state,_) in found.items() if state != 'ok']
    if bad: raise CourseError(f"{len(bad)} of {len(found)} files on {folder} are not as they should be: {', '.join(bad)}.")
    log(f'{len(found)} looked at, all well.')
    return found

# --- Filling ---

def _refuse_other(item, found):
    "A source that is not what it was published or noted as"
    if not found.startswith(item.sha256):
        raise CourseError(f"{item.source} has the SHA-256 {found[:12]}… and should have {item.sha256[:12]}…: "
                          "it was damaged since it was fetched. Remove it and fetch it again.")

def _as_safetensors(item):
    "The weights as bytes, each tensor under the name that its library knows"
    library,name = item.arch.split(':')
    net = timm.create_model(name) if library == 'timm' else torchvision.models.get_model(name)
    load_weights(net, read_tensors(item.source), f'The weights {item.source.name}')
    return save({k: v.contiguous() for k,v in net.state_dict().items()})

def _write(item, target):
    "Make the file; returns its SHA-256"
    if not item.arch:
        with open(target, 'wb') as out: found = _hash(item.source, out)
        _refuse_other(item, found)
        return found
    _refuse_other(item, _hash(item.source))
    body = _as_safetensors(item)
    target.write_bytes(body)
    return hashlib.sha256(body).hexdigest()

def _put(item, folder):
    "Put one item and its JSON into the mirror, the JSON first, so that no file is there unexplained"
    path = folder/item.name
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    with atomic(path) as tmp:
        found = _write(item, tmp)
        write_json(path.with_suffix('.json'), item.about | dict(sha256=found))

def _is_there(item, folder):
    "Is this in the mirror already, and right? A file of somebody's that no JSON vouches for is a `CourseError`"
    path = folder/item.name
    if not path.exists(): return False
    if path.with_suffix('.json').exists(): return look(path)[0] != 'damaged'
    if item.sha256 and _hash(path) == item.sha256: return False # copied by hand: the JSON is still to come
    raise CourseError(f"{path} has no JSON beside it and is not this machine's file: it was left alone. Move it to have it replaced.")

def _put_all(todo, folder, leave_out):
    "Put them there, one after the other; what is damaged is left out"
    done = []
    try:
        with locked(folder/'mirror', 'this mirror'):
            for item in todo:
                try: _put(item, folder)
                except CourseError as e: leave_out(e)
                else: done.append(item.name)
    except OSError as e:
        room = 'make room, and ' if e.errno in (errno.ENOSPC, errno.EDQUOT) else ''
        raise CourseError(f"{folder} could not be filled to the end ({e.strerror or e}). {len(done)} of {len(todo)} files finished "
                          f"and kept: {room}run the same line again, and it goes on.") from None
    return done

def _plan(items, folder, log, leave_out):
    "What is to be copied; each item is told"
    todo = []
    for item in items:
        try: there = _is_there(item, folder)
        except CourseError as e:
            leave_out(e)
            continue
        log(_row('there' if there else 'to copy', item.size, item.name, item.what))
        if not there: todo.append(item)
    log(f'To copy: {len(todo)} files, {show_bytes(sum(o.size for o in todo))}.')
    return todo

def fill_mirror(
    folder:str|Path, # Where to; made if it is not there
    log=print # For what comes, and what was left out
) -> list: # Names of the files that were written
    "Fill a mirror from what this machine has; what is there and right stays"
    folder,left = Path(folder).expanduser().absolute(), []
    def leave_out(why):
        left.append(why)
        log(f'left out: {why}')
    log('Looking for archives and weights on this machine.')
    items = [*downloaded_archives(leave_out), *cached_weights()]
    if not items and not left:
        raise CourseError("This machine has nothing yet that a mirror could hold: `transfer_course data flowers` fetches a data set.")
    todo = _plan(items, folder, log, leave_out)
    done = _put_all(todo, folder, leave_out)
    if left: raise CourseError(f"{folder} lacks {len(left)} of this machine's files, for the reasons above. The others are there.")
    for file,name in known_files().items():
        if any(o.name == file for o in items): log(f"Licence of {name}: {data_sets()[name]['licence']}.")
    log(f'A class works from it with TRANSFER_COURSE_MIRROR={folder}')
    return done

@call_parse
def main(
    folder:str, # Such as /media/stick/mirror
    check:bool=False, # Compare what is there with its JSON files, and copy nothing
):
    "Fill a folder with the archives and weights that this machine has"
    try: (check_mirror if check else fill_mirror)(folder)
    except CourseError as e: sys.exit(str(e))
