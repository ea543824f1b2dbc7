"""Work that is killed at random moments, goes on, and must end where undisturbed work ends: `python tests/kills.py run 100`.

One process imports everything once and forks a child for each attempt; the child is killed with SIGKILL. Forking is safe while the parent has one thread:
it never computes, and OpenMP gets one thread. A job says what the work is, what must be whole at any moment, and what the end is."""
import os
for o in 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS': os.environ[o] = '1'
import gzip, hashlib, io, json, random, shutil, signal, sys, tempfile, time, zipfile
from collections import Counter
from pathlib import Path

def forked(work, seconds=None):
    "Do `work` in a child and kill it after so many seconds; True if it was killed, False if it had ended well before"
    assert len(os.listdir('/proc/self/task'))==1 if os.path.exists('/proc/self/task') else True, 'a parent with several threads must not fork'
    sys.stdout.flush()
    pid = os.fork()
    if pid==0:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc(); sys.stderr.flush()
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
        from transfer_course import data, experiment
        import fastai.vision.all, filelock, pandas, safetensors.torch, timm, transfer_course.models # all that a child would import
        from transfer_course.pictures import make_pictures
        pictures = make_pictures(stuff/'shapes', 40, size=40)
        split = lambda ds: data.split_by_hash(ds, .25, .25)
        self.experiment = lambda: experiment.Experiment('own', str(pictures), split, 'tf_efficientnet_lite0', experiment.Schedule.fine_tune(1), scale='sample', size=32, bs=8, seeds=(0,), keep='best')

    def work(self, root):
        os.environ['TRANSFER_COURSE_RUNS'] = str(root)
        self.experiment().run(resume=True, say=lambda *args: None)

    def _tell(self, text):
        "JSON without clock and memory"
        def still(o):
            if isinstance(o, dict): return {k: still(v) for k,v in o.items() if 'seconds' not in k and k not in ('peak_memory_mb', 'opened', 'made')}
            return [still(v) for v in o] if isinstance(o, list) else o
        return still(json.loads(text))

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
        import filelock, pooch, requests
        from transfer_course import data
        rng,inner = random.Random(0), io.BytesIO()
        def pack(to, names):
            with zipfile.ZipFile(to, 'w') as z:
                for o in names: z.writestr(o, rng.randbytes(20_000))
        pack(inner, [f'photos/{c}/{i}.jpg' for c in ('cat', 'dog') for i in range(350)])
        archive = stuff/'served'/'photos.zip'
        archive.parent.mkdir()
        pack(archive, [f'photos/{c}/{i+350}.jpg' for c in ('cat', 'dog') for i in range(350)])
        with zipfile.ZipFile(archive, 'a') as z: z.writestr('more.zip', inner.getvalue())
        entry = dict(title='Photos', page='', licence='none', photos=1400, archive='photos.zip', url=f'http://127.0.0.1:{serve(archive.parent)}/photos.zip', sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
        data.data_sets = lambda: dict(photos=entry)
        self.get = data.get_data

    def work(self, root):
        os.environ['TRANSFER_COURSE_RUNS'] = str(root)
        os.environ.pop('TRANSFER_COURSE_SHELF', None)
        assert len(self.get('photos', 'full')) == 1400

    def end(self, root): return {o: hashlib.sha256(b).hexdigest() for o,b in content(root).items() if not o.endswith('checked.json')} # it remembers times

    def look(self, root, end, before):
        found = content(root)
        for o,b in found.items():
            if '.part' in o: continue
            if o.endswith('.json'): json.loads(b)
            if not o.endswith('checked.json'): assert hashlib.sha256(b).hexdigest()==end[o], f'{o} differs'
        unpacked = [o for o in found if '/photos-' in o and '.part' not in o]
        assert not unpacked or len([o for o in unpacked if o.endswith('.jpg')])==1400, f'{len(unpacked)} files of 1400'
        for o in before: assert o in found, f'{o} was there and is not any more'
        before.update(o for o in found if '.part' not in o)
        if left(found): return 'unpacking' if any('photos-' in o for o in left(found)) else 'downloading'
        return 'after unpacking' if unpacked else 'between download and unpacking' if 'data/archives/photos.zip' in found else 'before the first byte'

def serve(folder):
    "A web server in a child of its own; its port"
    import functools, http.server
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

JOBS = dict(run=Runs, data=Data)

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
                def die(): stop_at(step); job.work(root)
                if forked(die): job.look(root, end, set()); by_step += 1
                resume(root)
    print(json.dumps(dict(kills=sum(phases.values()), at_steps=by_step, resumed=resumed+by_step, lost=0, phases=dict(phases.most_common()), undisturbed_seconds=round(whole, 2), minutes=round((time.perf_counter()-t0)/60, 1))))

if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0, len(sys.argv) > 4)
