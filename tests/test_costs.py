"Memory of a training step: what `estimate_memory` says, beside what a process of its own takes."
import subprocess
import sys

import pytest

MEASURE = '''
import ctypes, gc, re, sys, warnings
from pathlib import Path
warnings.filterwarnings('ignore')
import torch
from transfer_course.all import *
from transfer_course.train.costs import _half
from transfer_course.train.norms import _as_in_training
arch, frozen, bs = sys.argv[1], sys.argv[2], int(sys.argv[3])
ds = get_data('flowers', 'sample')
own = dict(weights='random', load=False) if arch == 'resnet18' else {}
learn = transfer_learner(picture_loaders(ds, split_sample(ds), 128, 8), arch, head='avg', scale='sample', **own)
learn.unfreeze()
if frozen != 'nothing': freeze_body(learn, frozen)
libc = ctypes.CDLL('libc.so.6') # the course keeps freed memory for speed, which makes the peak a matter of luck
for k, v in ((-4, 65536), (-1, 131072), (-3, 131072)): libc.mallopt(k, v)
said = estimate_memory(learn, bs)
_as_in_training(learn)
net, params = learn.model, [p for p in learn.model.parameters() if p.requires_grad]
def now(key): return int(re.search(key + r':\\s*(\\d+)', Path('/proc/self/status').read_text())[1])*1024
def loss(x):
    with _half(learn): return net(x).float().logsumexp(-1).sum()
loss(torch.randn(2, 3, 64, 64)).backward() # the libraries load what they need
net.zero_grad()
gc.collect()
release_memory()
before = now('VmRSS') - sum(o.numel()*o.element_size() for o in (*net.parameters(), *net.buffers()))
Path('/proc/self/clear_refs').write_text('5')
opt, x = torch.optim.Adam(params, 1e-3), torch.randn(bs, 3, 128, 128)
for _ in range(3):
    loss(x).backward()
    opt.step()
    opt.zero_grad(set_to_none=False)
print(said/(now('VmHWM')-before))
'''

CASES = [('tf_efficientnet_lite0', 'nothing', 16, .06)]
MORE = [('tf_efficientnet_lite0', 'rest', 64, .1), ('tf_efficientnet_lite0', 'nothing', 64, .06),
        ('tf_efficientnet_lite0', 'learn', 64, .06),
        ('tf_efficientnet_lite0', 'rest', 16, .15),
        ('resnet18', 'nothing', 64, .06), ('resnet18', 'learn', 64, .1)]

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="reads Linux' own figures")
@pytest.mark.parametrize(('arch', 'frozen', 'bs', 'off'), [*CASES, *(pytest.param(*o, marks=pytest.mark.slow) for o in MORE)])
def test_a_step_takes_what_was_said(arch, frozen, bs, off):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', MEASURE, arch, frozen, str(bs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert abs(float(done.stdout.split()[-1])-1) < off, done.stdout
