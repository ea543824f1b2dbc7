"""Work that is killed at random moments, goes on, and must end where undisturbed work ends: `python tests/kills.py run 100`.

One process imports everything once and forks a child for each attempt; the child is killed with SIGKILL. Forking is safe
while the parent has one thread: it never computes, and OpenMP gets one thread. A job says
what the work is, what must be whole at any moment, and what the end is."""
# ruff: noqa: E402, F401, B023 (threads are set before torch is imported; a child would import it all)
import os

for o in 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS': os.environ[o] = '1'
import gzip
import hashlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

def forked(work, seconds=None):
    "Do `work` in a child and kill it after so many seconds; True if it was killed, False if it had ended well before"
    if os.path.exists('/proc/self/task'): assert len(os.listdir('/proc/self/task'))==1, 'a parent with several threads must not fork'
    sys.stdout.flush()
    pid = os.fork()
    if pid==0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL) # a child that has ended is still there until it is waited for
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status)==signal.SIGKILL: return True
    assert status==0, f'the work ended with {os.waitstatus_to_exitcode(status)}'
    return False

def content(root):
    "Name to bytes of every file below, locks left out"
    return {o.relative_to(root).as_posix(): o.read_bytes() for o in sorted(root.rglob('*')) if o.is_file() and not o.name.endswith('.lock')}

def left(found): return [o for o in found if '.part' in o]

# --- Jobs ---

class Runs:
    "Two arms, two phases, the best epoch kept, then the test part"
    def __init__(self, stuff):
        import fastai.vision.all
        import filelock
        import pandas
        import safetensors.torch
        import sklearn.linear_model  # all that a child would import
        import timm

        from transfer_course.data.splits import split_by_hash
        from transfer_course.data.synthetic import make_pictures
        from transfer_course.results.config import Schedule
        from transfer_course.train.loop import Experiment
        pictures = make_pictures(stuff/'shapes', 40, size=40)
        settings = dict(arch='tf_efficientnet_lite0', schedule=Schedule.fine_tune(1), scale='sample', size=32, bs=8, checkpoint='best')
        self.experiment = lambda: Experiment('own', str(pictures), lambda ds: split_by_hash(ds, .25, .25), seeds=(0,), **settings)

    def work(self, root):
        os.environ['TRANSFER_COURSE_RUNS'] = str(root)
        self.experiment().run(resume=True, log=lambda *args: None)

    def _tell(self, text):
        "JSON without clock and memory"
        def still(o):
            moving = 'peak_memory_mb', 'opened', 'made', 'commit', 'dirty'
            if isinstance(o, dict): return {k: still(v) for k,v in o.items() if 'seconds' not in k and k not in moving}
            return [still(v) for v in o] if isinstance(o, list) else o
        d = json.loads(text)
        if 'checks' in d: del d['fingerprint'] # of the cache, the time when it was made included
        return still(d)

    def end(self, root): return {o: self._tell(b) if o.endswith('.json') else b for o,b in content(root).items()}

    def look(self, root, end, before):
        "Where it was struck; fails if something finished is gone or damaged. `before`: runs that had finished"
        found,at = content(root), 'before the first epoch'
        for name,b in found.items():
            if '.part' in name: continue
            if name.endswith('.gz'): gzip.decompress(b)
            if not name.endswith('.json'):
                if name in end: assert b==end[name] or name.endswith('.gz'), f'{name} differs' # answers grow when the test part is opened
                continue
            d = self._tell(b)
            if 'status' not in d: assert d==end[name], f'{name} differs'
            elif d['status']=='finished':
                before.add(name)
                assert d | dict(test=None) == end[name] | dict(test=None), f'{name} differs'
                at = 'between runs, or in the test part'
            elif d['epochs']: at = 'in a later epoch, or at the end'
        for o in before: assert json.loads(found[o])['status']=='finished', f'{o} had finished and has not any more'
        return f"writing {left(found)[-1].rpartition('.part')[2]}" if left(found) else at

class Data:
    "A data set from a server: download, checksum, unpacking (an archive inside the archive too), the count of its pictures"
    def __init__(self, stuff):
        import filelock
        import requests

        from transfer_course.data import fetch, sets
        rng,inner = random.Random(0), io.BytesIO()
        def pack(to, names):
            with zipfile.ZipFile(to, 'w') as z:
                for o in names: z.writestr(o, rng.randbytes(20_000))
        pack(inner, [f'photos/{c}/{i}.jpg' for c in ('cat', 'dog') for i in range(350)])
        archive = stuff/'served'/'photos.zip'
        archive.parent.mkdir()
        pack(archive, [f'photos/{c}/{i+350}.jpg' for c in ('cat', 'dog') for i in range(350)])
        with zipfile.ZipFile(archive, 'a') as z: z.writestr('more.zip', inner.getvalue())
        entry = dict(title='Photos', page='', licence='none', photos=1400, archive='photos.zip',
                     url=f'http://127.0.0.1:{serve(archive.parent)}/photos.zip', sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
        fetch.data_sets = sets.data_sets = lambda: dict(photos=entry)
        self.get = sets.get_data

    def work(self, root):
        os.environ['TRANSFER_COURSE_RUNS'] = str(root)
        os.environ.pop('TRANSFER_COURSE_MIRROR', None)
        assert len(self.get('photos', 'full')) == 1400

    def end(self, root): return {o: hashlib.sha256(b).hexdigest() for o,b in content(root).items()}

    def look(self, root, end, before):
        found = content(root)
        for o,b in found.items():
            if '.part' in o: continue
            if o.endswith('.json'): json.loads(b)
            assert hashlib.sha256(b).hexdigest()==end[o], f'{o} differs'
        unpacked = [o for o in found if '/photos-' in o and '.part' not in o]
        assert not unpacked or len([o for o in unpacked if o.endswith('.jpg')])==1400, f'{len(unpacked)} files of 1400'
        for o in before: assert o in found, f'{o} was there and is not any more'
        before.update(o for o in found if '.part' not in o)
        if left(found): return 'unpacking' if any('photos-' in o for o in left(found)) else 'downloading'
        if unpacked: return 'after unpacking'
        return 'between download and unpacking' if 'data/archives/photos.zip' in found else 'before the first byte'

def serve(folder):
    "A web server in a child of its own; its port"
    import functools
    import http.server
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.HTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    if os.fork()==0:
        parent = os.getppid()
        server.timeout = 1
        while os.getppid()==parent: # ends with the one it serves
            try: server.handle_request()
            except Exception: pass # a client that was killed
        os._exit(0)
    server.socket.close()
    return server.server_port

class Workbook:
    "A reader's copies with answers in them, brought up to date"
    N = 12
    def __init__(self, stuff):
        import nbformat
        from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

        from transfer_course.workbook import make_workbook
        self.make,self.stuff = make_workbook,stuff
        def course(folder, text):
            folder.mkdir()
            for i in range(self.N):
                cells = [new_markdown_cell(text*50, id='text'), new_markdown_cell(f'**1. Exercise {i}.**', id='task'),
                         new_code_cell('### BEGIN SOLUTION\nx = 1\n### END SOLUTION', id='answer'),
                         new_code_cell("expect(lambda: x == 1, 'Not that.')", id='check'),
                         *[new_markdown_cell(f'more {text}', id='more')]*(text=='new')]
                nbformat.write(new_notebook(cells=cells), folder/f'{i:02}.ipynb')
        course(stuff/'old', 'old')
        course(stuff/'course', 'new')
        make_workbook(stuff/'copies', course=stuff/'old')
        for o in (stuff/'copies').glob('*.ipynb'): o.write_text(o.read_text().replace('...  # your answer', f'x = 1  # mine, {o.stem}'))
        assert 'mine, 03' in (stuff/'copies'/'03.ipynb').read_text()

    def work(self, root):
        if not (root/'copies').exists():
            shutil.copytree(self.stuff/'copies', root/f'copies.{os.getpid()}')
            os.replace(root/f'copies.{os.getpid()}', root/'copies')
        for o in root.glob('copies.*'): shutil.rmtree(o)
        done = self.make(root/'copies', course=self.stuff/'course')
        assert not [o for o in done.values() if o.left_alone]

    def end(self, root): return content(root)

    def look(self, root, end, before):
        copies = content(root/'copies') if (root/'copies').exists() else {}
        mine = {o: b for o,b in copies.items() if '/' not in o and o.endswith('.ipynb') and '.part' not in o}
        for name,b in mine.items():
            json.loads(b)
            assert f'mine, {name[:2]}'.encode() in b, f'the answer in {name} is lost'
            assert name not in before or b==end[f'copies/{name}'], f'{name} was up to date and is not any more'
        before.update(o for o,b in mine.items() if b==end[f'copies/{o}'])
        if not mine: return 'before the first copy'
        if half := left(content(root)): return f"writing {half[-1].rpartition('.part')[2]}"
        return f'{len(before)*3//self.N} thirds done'

class Cache:
    "Decoded pictures and what frozen layers said about them"
    def __init__(self, stuff):
        import fastai.vision.all
        import filelock
        import timm
        import torch

        import transfer_course.train.precompute
        from transfer_course.data.sets import own_data
        from transfer_course.data.splits import split_by_hash
        from transfer_course.data.synthetic import make_pictures
        from transfer_course.train.models import picture_loaders, transfer_learner
        from transfer_course.train.numerics import Numerics
        pictures = make_pictures(stuff/'shapes', 120, size=64)
        def learner():
            torch.manual_seed(0)
            ds = own_data(pictures)
            dls = picture_loaders(ds, split_by_hash(ds, .25), 64, bs=8, device='cpu')
            learn = transfer_learner(dls, 'tf_efficientnet_lite0', 'random', numerics=Numerics())
            learn.freeze()
            return learn
        self.learner = learner

    def work(self, root):
        os.environ['TRANSFER_COURSE_RUNS'] = str(root)
        with self.learner().no_bar() as learn: learn.precompute()

    def _told(self, name, b):
        if name.endswith('meta.json'): return {k: v for k,v in json.loads(b).items() if k not in ('made', 'fingerprint')}
        return hashlib.sha256(b).hexdigest()

    def end(self, root): return {o: self._told(o, b) for o,b in content(root).items()}

    def look(self, root, end, before):
        found = {o: b for o,b in content(root).items() if '.part' not in o}
        for o,b in found.items(): assert self._told(o, b)==end[o], f'{o} differs'
        for o in before: assert o in found, f'{o} was there and is not any more'
        before.update(found)
        made = sum(o.endswith('meta.json') for o in found)
        return f'building entry {made+1}' if left(content(root)) else f'{made} entries there'

JOBS = dict(run=Runs, data=Data, workbook=Workbook, cache=Cache)

# --- Kills ---

def stop_at(step):
    "In a child: die before that rename, removal or flush of a file; count them if `step` is None"
    count = [0]
    def counted(f):
        def inner(*args, **kw):
            count[0] += 1
            if count[0]==step: os.kill(os.getpid(), signal.SIGKILL)
            return f(*args, **kw)
        return inner
    for o in 'replace', 'rename', 'unlink', 'rmdir', 'fsync': setattr(os, o, counted(getattr(os, o)))
    return count

def main(job, kills, seed=0, steps=False):
    "`kills` at random moments; with `steps`, one more before each rename, removal and flush. Prints what came of it"
    t0,rng = time.perf_counter(), random.Random(seed)
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        job = JOBS[job](d)
        t1 = time.perf_counter()
        forked(lambda: job.work(d/'through')) # once to warm up, once for the clock and for the end
        shutil.rmtree(d/'through')
        t1 = time.perf_counter()
        forked(lambda: job.work(d/'through'))
        whole,end = time.perf_counter()-t1, job.end(d/'through')
        assert not left(end)
        phases,resumed = Counter(), 0
        def resume(root):
            forked(lambda: job.work(root))
            again = job.end(root)
            assert again.keys()==end.keys(), f'after a kill {phases}: too many {again.keys()-end.keys()}, too few {end.keys()-again.keys()}'
            for o in end: assert again[o]==end[o], f'{o} differs after kills'
            shutil.rmtree(root)
        while sum(phases.values()) < kills:
            root,before = d/'killed', set()
            root.mkdir()
            for _ in range(rng.choice([1, 1, 2, 3])): # what goes on may be killed again
                if not forked(lambda: job.work(root), rng.uniform(0, whole)): break
                phases[job.look(root, end, before)] += 1
            resume(root)
            resumed += 1
        by_step = 0
        if steps:
            def count():
                n = stop_at(None)
                job.work(d/'counted')
                (d/'steps').write_text(str(n[0]))
            forked(count)
            for step in range(1, int((d/'steps').read_text())+1):
                root = d/'killed'
                root.mkdir()
                def die():
                    stop_at(step)
                    job.work(root)
                if forked(die):
                    job.look(root, end, set())
                    by_step += 1
                resume(root)
    minutes = round((time.perf_counter()-t0)/60, 1)
    print(json.dumps(dict(kills=sum(phases.values()), at_steps=by_step, resumed=resumed+by_step, lost=0, phases=dict(phases.most_common()),
                          undisturbed_seconds=round(whole, 2), minutes=minutes)))

if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0, len(sys.argv) > 4)
