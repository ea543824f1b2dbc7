"""Golden runs: one tiny training for each way through the code, on one thread with the kernels of AVX2, in seconds.

`python tests/golden.py OUT.json [ROAD …]` writes their numbers. `test_golden.py` compares them with `golden.json`, which is written anew
only when `TRAINING_VERSION` is raised. `--gpu` pretends that there is a GPU. Needs no mirror and no network."""
# ruff: noqa: E402 (kernels and threads are set before torch is imported)
import os
import sys
import tempfile

TMP = tempfile.TemporaryDirectory(prefix='golden-')
if __name__ == '__main__': # before torch is imported
    os.environ.update(ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2', MKL_CBWR='AVX2')
    os.environ.update(CUDA_VISIBLE_DEVICES='', TRANSFER_COURSE_RUNS=TMP.name)
    os.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), '1'))
    for o in 'TRANSFER_COURSE_MIRROR', 'TRANSFER_COURSE_SHELF', 'TRANSFER_COURSE_SCALE': os.environ.pop(o, None)
import contextlib
import json
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

warnings.filterwarnings('ignore')
import timm
import torch
from fastai.vision.all import nn
from pretend_gpu import pretended_gpu
from safetensors.torch import save_file

from transfer_course.core import get_device, seed_everything
from transfer_course.data.captchas import DIGITS, CaptchaStyle
from transfer_course.data.sets import get_data
from transfer_course.data.splits import Split, split_sample
from transfer_course.results.config import Phase, Schedule
from transfer_course.results.provenance import TRAINING_VERSION
from transfer_course.train.callbacks import BatchNormEval, EpochLog, FlipBatch
from transfer_course.train.chars import captcha_data, split_texts
from transfer_course.train.loop import Experiment
from transfer_course.train.models import picture_loaders, test_loader, transfer_learner
from transfer_course.train.numerics import Numerics

NET, FILE = 'timm:test_efficientnet', f'{TMP.name}/golden-net.safetensors'
BF16 = Numerics('bf16', 'bf16', True)

def write_weights():
    "Weights in a file, so that pretrained ones are loaded too, without a network"
    torch.manual_seed(7)
    net = timm.create_model('test_efficientnet')
    for m in net.modules():
        if not isinstance(m, nn.BatchNorm2d): continue
        m.running_mean.normal_(0, .05)
        m.running_var.uniform_(.8, 1.2)
        m.weight.data.uniform_(.9, 1.1)
    save_file(net.state_dict(), FILE)

def few_of(ds, train=(8,)*5, valid=4, test=4):
    "A few photos of the sample's own split; `train`: how many of each class"
    s = split_sample(ds)
    def few(names, ns): return [n for c, k in zip(ds.classes, ns, strict=True) for n in [o for o in names if ds.labels[o] == c][:k]]
    return Split(few(s.train, train), few(s.valid, (valid,)*5), few(s.test, (test,)*5), 'golden')

def timeless(row): return {k: v for k, v in row.items() if 'seconds' not in k and v is not None}

# --- Runs of an experiment ---

def experiment(variant, schedule, arm='random', data='flowers', split=few_of, **settings):
    usual = dict(arch=NET, scale='sample', size=32, bs=8, weights='random', head='avg')
    return Experiment('golden', data, split, (arm,), (0,), schedule=schedule, variant=variant, **usual | settings)

class Stop(BaseException): pass

def train(exp, stop_after=None):
    "A run to its end; stopped after some epochs and resumed, if asked"
    def quiet(run, row): pass
    def stop(run, row):
        if row.epoch+1 == stop_after: raise Stop
    if stop_after:
        try: exp.run_one(*exp.arms, 0, log=stop)
        except Stop: pass
        else: raise AssertionError('it was to stop')
    run = exp.run_one(*exp.arms, 0, resume=bool(stop_after), log=quiet)
    return exp.evaluate_test([run])[0]

def numbers(run):
    rows = run.predictions()
    sums = {c: float(rows[c].sum()) for c in rows.columns if c.startswith('p_')}
    scores = {part: dict(acc=getattr(run, part).acc, loss=getattr(run, part).loss, n=getattr(run, part).n) for part in ('valid', 'test')}
    return dict(epochs=[timeless(asdict(e)) for e in run.epochs], **scores, best_epoch=run.best_epoch, kept_epoch=run.kept_epoch,
                parameters=run.parameters, split=run.data.split.fingerprint, predictions=sums)

def road(exp, resume=1):
    "Numbers of an experiment's run; with `resume` once more, stopped after so many epochs: the same to the bit"
    got = numbers(run := train(exp))
    if resume:
        again = train(exp.replace(variant=f'{exp.config.variant}-resumed'), resume)
        assert numbers(again) == got and again.predictions().equals(run.predictions()), f'{exp.config.variant}: resumed, it ends elsewhere'
    return got

# --- Plain learners ---

def fit(work, numerics=None, head='avg', flip=False, load=True):
    "Numbers of what `work(learner, log)` trains"
    ds = get_data('flowers', 'sample')
    split = few_of(ds)
    seed_everything(0)
    dls = picture_loaders(ds, split, 32, 8, device=get_device(), batch_tfms=[FlipBatch()] if flip else None).decoded()
    learn = transfer_learner(dls, NET, FILE, load, head, numerics or Numerics(), 'sample')
    log = EpochLog()
    with learn.no_bar(), learn.no_logging():
        work(learn, log)
        probs, targets = learn.get_preds()
        test, _ = learn.get_preds(dl=test_loader(learn.dls, ds, split.test))
    loss = float(-probs.clamp_min(1e-7).log()[range(len(targets)), targets].mean())
    valid = dict(acc=float((probs.argmax(1) == targets).float().mean()), loss=loss)
    sums = dict(zip(ds.classes, test.double().sum(0).tolist(), strict=True))
    return dict(epochs=[timeless(o) for o in log.rows], valid=valid, predictions=sums)

def frozen_fit(how='fit', views=None, **kwargs):
    def work(learn, log):
        learn.freeze()
        getattr(learn.precompute(views=views), how)(2, 3e-3, cbs=log)
    return fit(work, **kwargs)

ONE = Schedule.one_cycle(2, 3e-3)
SIX = CaptchaStyle(length=6, alphabet=DIGITS, width=96, height=32, font_size=18)
UNEVEN = partial(few_of, train=(4, 6, 8, 10, 12))

ROADS = dict(
    free=lambda: road(experiment('free', ONE)),
    constant_sgd=lambda: road(experiment('sgd', Schedule.constant(2, 1e-2), opt='sgd', wd=.01, head='avg-16', bs=10)),
    fine_tune=lambda: road(experiment('tune', Schedule.fine_tune(2), 'pretrained', weights=FILE, head='fastai'), 2),
    frozen=lambda: road(experiment('frozen', ONE, 'random-frozen')),
    frozen_file=lambda: road(experiment('frozen_file', Schedule.constant(2), 'frozen', weights=FILE, head='avg-16', wd=0)),
    plateau=lambda: road(experiment('plateau', Schedule('plateau4', (Phase(4, 3e-3, policy='plateau', patience=1),)), wd=0.), 2),
    six_heads=lambda: road(experiment('six', Schedule.one_cycle(2), data=partial(captcha_data, dict(train=48, valid=16, test=16), SIX),
                                      split=split_texts, size=(32, 96), bs=16, head='max', target='text')),
    ema=lambda: road(experiment('ema', ONE, ema=.9)),
    best=lambda: road(experiment('best', Schedule.constant(6, 2e-3), checkpoint='best', patience=2), 2),
    weighted=lambda: road(experiment('weighted', Schedule.constant(2), split=UNEVEN, class_weights=True, smoothing=.1, augment='flip')),
    crop=lambda: road(experiment('crop', Schedule.one_cycle(1), method='crop'), 0),
    few=lambda: road(experiment('few', Schedule.one_cycle(2), per_class=4), 0),
    linear_probe=lambda: road(experiment('probe', Schedule.one_cycle(1), 'random-linear_probe', split=partial(few_of, train=(16,)*5)), 0),
    precompute=lambda: frozen_fit('fit_one_cycle', head='avg-16'),
    precompute_at=lambda: fit(lambda learn, log: learn.precompute(at='blocks.2').fit(2, 1e-3, cbs=log)),
    precompute_views=lambda: frozen_fit(views=2, flip=True),
    precompute_fine_tune=lambda: fit(lambda learn, log: learn.fine_tune(1, precompute=True, cbs=log), head='fastai'),
    bf16=lambda: fit(lambda learn, log: learn.fit_one_cycle(2, 1e-3, cbs=log), numerics=BF16, load=False),
    bf16_precompute=lambda: frozen_fit(numerics=BF16, head='avg-16'),
    batch_norm_eval=lambda: fit(lambda learn, log: learn.fit(2, 1e-3, cbs=[log, BatchNormEval(learn.model[0])])))

def brief(o):
    "Numbers with nine digits"
    if isinstance(o, dict): return {k: brief(v) for k, v in o.items()}
    if isinstance(o, (list, tuple)): return [brief(v) for v in o]
    return float(f'{o:.9g}') if isinstance(o, float) else o

if __name__ == '__main__':
    torch.set_num_threads(1)
    write_weights()
    gpu, names = '--gpu' in sys.argv, [o for o in sys.argv[2:] if o != '--gpu']
    with pretended_gpu() if gpu else contextlib.nullcontext(): found = {k: brief(ROADS[k]()) for k in names or ROADS}
    lines = [f'"training_version": {TRAINING_VERSION}', *(f'"{k}": {json.dumps(v)}' for k, v in found.items())]
    Path(sys.argv[1]).write_text('{' + ',\n'.join(lines) + '}\n')
