"""Golden runs: the numbers of one tiny training for each way through the code are what they were, within what another processor changes."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from transfer_course.results.provenance import TRAINING_VERSION

HERE = Path(__file__).parent
KNOWN = json.loads((HERE/'golden.json').read_text())
ROADS = [o for o in KNOWN if o != 'training_version']
NEXT = ("raise TRAINING_VERSION in nbs/lib/21_results.provenance.ipynb with the roads it concerns, run those results again, "
        "and write tests/golden.json anew: python tests/golden.py tests/golden.json")

def golden(out, *args):
    "Numbers of today, from a process of their own"
    done = subprocess.run([sys.executable, '-W', 'ignore', str(HERE/'golden.py'), str(out), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())

@pytest.fixture(scope='module')
def now(tmp_path_factory): return golden(tmp_path_factory.mktemp('golden')/'golden.json')

def flat(o, at=''):
    if isinstance(o, dict): return {k: v for name, part in o.items() for k, v in flat(part, f'{at}/{name}').items()}
    if isinstance(o, list): return {k: v for i, part in enumerate(o) for k, v in flat(part, f'{at}[{i}]').items()}
    return {at: o}

def differs(key, old, new, half):
    "Other processors change losses by 1e-4 (bfloat16: 1e-2), and an accuracy by one photo at most"
    if not isinstance(old, float): return old != new
    if key.endswith('acc'): return abs(old-new) > .051
    return abs(old-new) > (.03 if half else 1e-3)*max(abs(old), abs(new))

def test_the_numbers_belong_to_this_version(): assert KNOWN['training_version'] == TRAINING_VERSION, NEXT

@pytest.mark.parametrize('road', ROADS)
def test_the_numbers_are_what_they_were(road, now):
    old, new = flat(KNOWN[road]), flat(now[road])
    assert old.keys() == new.keys(), f'{road} has other numbers ({sorted(old.keys() ^ new.keys())[:5]}): {NEXT}'
    moved = {k: (v, new[k]) for k, v in old.items() if differs(k, v, new[k], 'bf16' in road)}
    assert not moved, f'{road} moved {dict(list(moved.items())[:5])}: {NEXT}'

SAME_ON_A_GPU = 'free', 'frozen_file', 'six_heads', 'ema', 'linear_probe', 'precompute_at' # random crops are drawn in another order there

def test_nothing_is_left_on_another_device(now, tmp_path):
    "Where a GPU would fail, the pretended one does; what it computes is the same to the bit"
    found = golden(tmp_path/'gpu.json', '--gpu', *SAME_ON_A_GPU)
    assert {k: found[k] for k in SAME_ON_A_GPU} == {k: now[k] for k in SAME_ON_A_GPU}
