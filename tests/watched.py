"""Numbered cases, tried one by one in a process of their own: a crash, a hang or a gigabyte is told by the number of its case.

A module of cases has a function `attempt(number, folder)` that returns a word for what came out, and raises what should not.
`python tests/watched.py test_fuzz_pictures 1234` tries a single case here and shows the traceback."""
import importlib
import json
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parent
HANGS = 120 # seconds without a word from one case; the slowest take two or three
ROOM = 4<<30 # bytes that the process may ask for above what it starts with, so that a bomb does not take the machine along

@dataclass
class Outcome:
    number:int
    said:str # What `attempt` returned, or what went wrong
    fault:bool=False
    mb:int=0 # Peak memory above the start
    seconds:float=0.

def _peak_mb():
    "Peak memory since it was last asked, in MiB; since the start where the system can't forget (not Linux)"
    status = Path('/proc/self/status')
    if not status.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**(20 if sys.platform=='darwin' else 10)
    peak = int(re.search(r'VmHWM:\s*(\d+)', status.read_text())[1])/2**10
    Path('/proc/self/clear_refs').write_text('5')
    return peak

def _try_all(module, numbers):
    "In the child: a line before each case and one after"
    warnings.simplefilter('ignore') # Pillow's remarks on odd metadata
    attempt = importlib.import_module(module).attempt
    if sys.platform == 'linux':
        used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used+ROOM, used+ROOM))
    tell = lambda *args: os.write(3, (json.dumps(args)+'\n').encode())
    with tempfile.TemporaryDirectory() as d:
        _peak_mb()
        start = _peak_mb()
        for n in numbers:
            tell(n)
            t0 = time.perf_counter()
            try: said,fault = attempt(n, Path(d)), False
            except Exception as e: said,fault = f'{type(e).__name__}: {e}'[:300], True
            tell(n, said, fault, round(_peak_mb()-start), time.perf_counter()-t0)

def _lines(fd, seconds):
    "Lines from a pipe until it is closed; None when nothing came for so long"
    rest = b''
    while True:
        if not select.select([fd], [], [], seconds)[0]:
            yield None
            return
        block = os.read(fd, 1<<16)
        if not block: return
        *lines,rest = (rest+block).split(b'\n')
        for o in lines: yield json.loads(o)

def watch(
    module:str, # Name of a test module with `attempt`
    numbers, # Which cases
    hangs:float=HANGS, # Seconds without a word until a case counts as hung
) -> list: # Of `Outcome`, one a case
    "Try the cases; what ends or holds up the process is put down to its case, and the others go on"
    todo,out = list(numbers), []
    while todo:
        read,write = os.pipe()
        code = (f'import os, sys; os.dup2({write}, 3); sys.path.insert(0, {str(TESTS)!r}); '
                f'import watched; watched._try_all({module!r}, {todo!r})')
        p = subprocess.Popen([sys.executable, '-c', code], pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(write)
        done,at,hung = 0, None, False
        for line in _lines(read, hangs):
            if line is None: hung = True
            elif len(line)==1: at, = line
            else:
                out.append(Outcome(*line))
                done,at = done+1, None
        if hung: p.kill()
        err = p.communicate()[1].decode(errors='replace')
        os.close(read)
        if at is None and done < len(todo): raise RuntimeError(f'The cases of {module} could not be tried:\n{err[-2000:]}')
        if at is not None:
            what = f'no word for {hangs} seconds' if hung else f'the process ended with {p.returncode}: {err[-200:]}'
            out.append(Outcome(at, what, True))
            done += 1
        todo = todo[done:]
    return out

def judge(outcomes, mb=1024):
    "Print what came out, and fail with the numbers of what should not have"
    print(f'{len(outcomes)} cases: {dict(Counter(o.said.split(":")[0] for o in outcomes if not o.fault))}; '
          f'most memory {max(o.mb for o in outcomes)} MB, longest {max(o.seconds for o in outcomes):.1f} s')
    bad = [f'case {o.number}: {o.said}' for o in outcomes if o.fault] + [f'case {o.number}: {o.mb} MB' for o in outcomes if o.mb >= mb]
    assert not bad, f'{len(bad)} faults\n' + '\n'.join(bad[:20])

if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d:
        for n in sys.argv[2:]: print(n, importlib.import_module(sys.argv[1]).attempt(int(n), Path(d)))
