"""Through the cache, losses are those of the same training without one: to the bit, where a kernel's answer does not depend on the batch."""
import os, platform, subprocess, sys
import pytest

BOTH_WAYS = """
import sys, torch
torch.set_num_threads(1)
from fastai.vision.all import *
from transfer_course.core import *
from transfer_course.data import get_data, split_sample
from transfer_course.models import *
from transfer_course.precompute import *
assert processor_kind() == 'plain'
ds = get_data('flowers', 'sample')
split = split_sample(ds)

class TwoHeads(nn.Module):
    "Kind of flower, and whether it is a rose"
    def __init__(self, nf): super().__init__(); self.kind,self.rose = nn.Linear(nf, 5),nn.Linear(nf, 2)
    def forward(self, x): x = x.mean((2, 3)); return self.kind(x), self.rose(x)

def learner(name):
    seed_everything(0)
    dls = picture_loaders(ds, split, dict(inception_v3=96).get(name, 64), bs=16, device='cpu')
    arch = name if name != 'two heads' else 'tf_efficientnet_lite0'
    learn = transfer_learner(dls, arch, 'random' if 'lite0' not in arch else 'imagenet', scale='sample', numerics=Numerics())
    if name == 'two heads': learn = Learner(learn.dls, nn.Sequential(learn.model[0], TwoHeads(1280)), lambda p, y: F.cross_entropy(p[0], y) + F.cross_entropy(p[1], (y == 2).long()), splitter=default_split, cbs=UseNumerics(Numerics()))
    learn.remove_cb(ProgressCallback); learn.logger = noop
    learn.freeze()
    return learn

def losses(learn, cbs=None):
    seed_everything(1)
    learn.fit_one_cycle(2, 2e-3, cbs=cbs)
    return [o.tolist() for o in learn.recorder.losses], [list(o) for o in learn.recorder.values]

for name in sys.argv[1:]:
    each = learner(name)
    assert losses(each, FrozenInEval(each.model[0])) == losses(learner(name).precompute()), name
"""

@pytest.mark.skipif(platform.machine() not in ('x86_64', 'AMD64'), reason="pins the kernels of x86")
def test_to_the_bit_with_the_kernels_of_avx2(tmp_path):
    pinned = dict(ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2', OMP_NUM_THREADS='1', TRANSFER_COURSE_RUNS=str(tmp_path))
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', BOTH_WAYS, 'tf_efficientnet_lite0', 'resnet18', 'inception_v3', 'two heads'], env=os.environ | pinned, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]

def test_the_pass_holds_a_batch_or_two_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    import gc
    import torch
    from transfer_course.data import get_data, split_sample
    from transfer_course.models import picture_loaders
    from transfer_course.precompute import _outputs
    ds = get_data('flowers', 'sample')
    dl = picture_loaders(ds, split_sample(ds), 32, bs=8, device='cpu').decoded().train
    def alive(): return sum(isinstance(o, torch.Tensor) and o.shape == (8, 3, 32, 32) for o in gc.get_objects())
    seen = [alive() for _ in _outputs(torch.nn.Identity(), dl, 1, torch.device('cpu'))]
    assert len(seen) > 10 and max(seen) <= 2*seen[0]
