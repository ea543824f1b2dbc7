"""Through the cache, losses are those of the same training without one: to the bit, where a kernel does not depend on the batch."""
import os
import platform
import subprocess
import sys

import pytest

BOTH_WAYS = """
import sys, torch
torch.set_num_threads(1)
from fastai.vision.all import *
from transfer_course.core import *
from transfer_course.data.sets import get_data
from transfer_course.data.splits import Split, split_sample
from transfer_course.train.callbacks import *
from transfer_course.train.models import *
from transfer_course.train.numerics import *
from transfer_course.train.precompute import *
assert processor_kind() == 'plain'
ds = get_data('flowers', 'sample')
whole = split_sample(ds)
split = Split(whole.train[::3][:48], whole.valid[:24], [], 'few') # full batches: in smaller ones some kernels give other bits

class TwoHeads(nn.Module):
    "Kind of flower, and whether it is a rose"
    def __init__(self, nf):
        super().__init__()
        self.kind,self.rose = nn.Linear(nf, 5),nn.Linear(nf, 2)
    def forward(self, x):
        x = x.mean((2, 3))
        return self.kind(x), self.rose(x)

def learner(name):
    seed_everything(0)
    dls = picture_loaders(ds, split, dict(inception_v3=96).get(name, 64), bs=16, device='cpu')
    arch = name if name != 'two heads' else 'tf_efficientnet_lite0'
    learn = transfer_learner(dls, arch, 'random' if 'lite0' not in arch else 'imagenet', scale='sample', numerics=Numerics())
    if name == 'two heads':
        def loss(p, y): return F.cross_entropy(p[0], y) + F.cross_entropy(p[1], (y == 2).long())
        model = nn.Sequential(learn.model[0], TwoHeads(1280))
        learn = Learner(learn.dls, model, loss, splitter=default_split, cbs=UseNumerics(Numerics()))
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
    nets = 'tf_efficientnet_lite0', 'resnet18', 'inception_v3', 'two heads'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', BOTH_WAYS, *nets], env=os.environ | pinned, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]

def test_the_pass_holds_a_batch_or_two_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    import gc

    import torch

    from transfer_course.data.sets import get_data
    from transfer_course.data.splits import split_sample
    from transfer_course.train.models import picture_loaders
    from transfer_course.train.precompute import _outputs
    ds = get_data('flowers', 'sample')
    dl = picture_loaders(ds, split_sample(ds), 32, bs=8, device='cpu').decoded().train
    def alive(): return sum(isinstance(o, torch.Tensor) and o.shape == (8, 3, 32, 32) for o in gc.get_objects())
    seen = [alive() for _ in _outputs(torch.nn.Identity(), dl, 1, torch.device('cpu'))]
    assert len(seen) > 10 and max(seen) <= 2*seen[0]

# --- What can't be cached says so, and what is cached is what the loaders give ---

@pytest.fixture
def flowers(monkeypatch, tmp_path):
    "Paths of the sample's flowers, caches in a folder of their own"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    import transfer_course.train.precompute  # noqa: F401
    from transfer_course.data.sets import get_data
    ds = get_data('flowers', 'sample')
    return [ds.path/o for o in ds.names]

def block_of(target=None, y=None, item_tfms=(), batch_tfms=None):
    "A data block of flowers at 32 px"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, Resize, parent_label
    items = [Resize(32, method='squish'), *item_tfms]
    return DataBlock((ImageBlock, target or CategoryBlock), get_y=y or parent_label, item_tfms=items, batch_tfms=batch_tfms)

def refused(f, words):
    from transfer_course.core import CourseError
    with pytest.raises(CourseError, match=words): f()

def test_points_move_with_the_picture_and_are_refused(flowers):
    from fastai.vision.all import PointBlock
    block = block_of(target=PointBlock, y=lambda o: [[10., 20.]])
    refused(lambda: block.dataloaders(flowers, bs=8).decoded(), 'changes the targets')

def test_a_target_that_a_transform_changes_is_refused(flowers):
    from fastai.vision.all import TensorCategory, Transform
    class Shift(Transform):
        def encodes(self, y:TensorCategory): return TensorCategory(y + 1)
    for kw in (dict(item_tfms=[Shift()]), dict(batch_tfms=[Shift()])):
        dls = block_of(**kw).dataloaders(flowers, bs=8)
        refused(dls.decoded, 'changes the targets')

def test_loaders_that_draw_their_own_way_go_on_doing_so(flowers):
    import fastai.callback.data  # noqa: F401  patches weighted_dataloaders and partial_dataloaders in
    import numpy as np
    from fastai.vision.all import Resize, ToTensor

    from transfer_course.core import seed_everything
    dsets = block_of().datasets(flowers)
    kw = dict(bs=8, after_item=[Resize(32, method='squish'), ToTensor()], num_workers=0)
    weights = np.zeros(len(dsets.train))
    weights[:3] = 1
    for plain in (dsets.weighted_dataloaders(weights, **kw), dsets.partial_dataloaders(20, **kw)):
        cached = plain.decoded()
        assert len(cached.train) == len(plain.train)
        seed_everything(0)
        a = [(x, y) for x,y in plain.train]
        seed_everything(0)
        b = [(x, y) for x,y in cached.train]
        assert len(a) == len(b) and all((p == q).all() for s,t in zip(a, b, strict=True) for p,q in zip(s, t, strict=True))
        assert len(cached.train.new(shuffle=False)) == -(-len(dsets.train)//8) # for predictions: each once

def test_a_transform_with_dice_of_its_own_is_refused(flowers):
    import random

    import numpy as np
    from fastai.vision.all import PILImage, Transform
    class Shade(Transform):
        def encodes(self, x:PILImage): return PILImage.create((np.array(x)*random.random()).astype('uint8'))
    block = block_of(item_tfms=[Shade()])
    refused(block.dataloaders(flowers, bs=8).decoded, 'its code says random')

def test_layers_that_look_at_the_whole_batch_are_refused(flowers):
    from fastai.vision.all import Learner, Normalize, params
    from torch import nn
    block = block_of(batch_tfms=[Normalize.from_stats([.5]*3, [.5]*3, cuda=False)])
    drop = type('Drop', (nn.Module,), dict(forward=lambda self, x: nn.functional.dropout(x, training=True)))()
    for odd in (nn.BatchNorm2d(4, track_running_stats=False), drop):
        body = nn.Sequential(nn.Conv2d(3, 4, 3), odd, nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        learn = Learner(block.dataloaders(flowers, bs=8, device='cpu'), nn.Sequential(body, nn.Linear(4, 5)), nn.CrossEntropyLoss(),
                        splitter=lambda m: [params(m[0]), params(m[1])])
        learn.freeze()
        refused(learn.precompute, 'other things about a picture')

def test_another_forward_pass_is_another_net():
    import torch
    from torch import nn

    from transfer_course.train.precompute import _weights_hash
    def net(forward, **attributes):
        m = type('Bend', (nn.Module,), dict(forward=forward))()
        for k,v in attributes.items(): setattr(m, k, v)
        graph = torch.fx.Graph()
        graph.output(graph.call_module('0', (graph.placeholder('x'),)))
        return torch.fx.GraphModule(nn.Sequential(m), graph)
    def times(self, x): return x*self.k
    nets = net(lambda self, x: x.relu()), net(lambda self, x: x.sigmoid()), net(times, k=2), net(times, k=3)
    hashes = [_weights_hash(o) for o in nets]
    assert len(set(hashes)) == 4 and _weights_hash(net(lambda self, x: x.relu())) == hashes[0]

SCALE = 2

def test_what_a_function_reads_is_part_of_its_name(monkeypatch):
    from functools import partial

    import numpy as np
    from fastai.vision.all import Transform

    from transfer_course.train.precompute import describe
    def times(x, by): return x*by
    assert describe(Transform(partial(times, by=2))) != describe(Transform(partial(times, by=3)))
    def inner(x): return (lambda o: o*SCALE)(x)
    before = describe(Transform(inner))
    monkeypatch.setitem(globals(), 'SCALE', 3)
    assert describe(Transform(inner)) != before
    class Table(Transform):
        def __init__(self, x): self._x = x
        def encodes(self, x): return x
    x = np.zeros(5000)
    same,y = x.copy(), x.copy()
    y[2500] = 1
    assert describe(Table(x)) == describe(Table(same)) != describe(Table(y))

def test_a_new_optimizer_does_not_thaw(flowers):
    from transfer_course.train.models import transfer_learner
    from transfer_course.train.precompute import _frozen
    block = block_of()
    learn = transfer_learner(block.dataloaders(flowers, bs=8, device='cpu'), 'resnet18', 'random', scale='sample')
    learn.freeze()
    before = _frozen(learn)
    learn.create_opt()
    assert _frozen(learn) == before

def test_predictions_on_decoded_loaders_are_normalised(flowers):
    "A learner's Normalize comes after the decoding, and counts for other pictures too"
    import torch

    from transfer_course.train.models import transfer_learner
    block = block_of()
    preds = []
    for decoded in (False, True):
        dls = block.dataloaders(flowers, bs=8, device='cpu')
        torch.manual_seed(0)
        learn = transfer_learner(dls.decoded() if decoded else dls, 'timm:test_efficientnet', 'random', scale='sample')
        with learn.no_bar(): preds.append(learn.get_preds(dl=learn.dls.test_dl(flowers[:8]))[0])
    assert torch.equal(*preds)
