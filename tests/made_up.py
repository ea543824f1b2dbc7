"Runs that nobody trained, kept as the course keeps them: for tests of what reads, judges and draws results"
from dataclasses import replace

import numpy as np

from transfer_course.data.splits import Split
from transfer_course.results.config import Config, Schedule
from transfer_course.results.provenance import Code
from transfer_course.results.store import (
    DataInfo,
    Epoch,
    Normalization,
    Numerics,
    Run,
    Score,
    SplitInfo,
    WeightsInfo,
    prediction_rows,
    save,
    save_split,
)
from transfer_course.stats import wilson

CLASSES = 'daisy', 'rose'
RANDOM = WeightsInfo('random', 'random', False)
SPLIT = Split(*([f'{CLASSES[i%2]}/{part}{i}.jpg' for i in range(n)] for part,n in dict(train=40, valid=30, test=20).items()), 'article')

def a_score(acc, n): return Score(n, round(acc*n), round(acc*n)/n, wilson(round(acc*n), n))

def an_epoch(i=0, acc=.9, phase=0, seconds=10., loss=.5): return Epoch(i, phase, loss, acc, loss, acc, seconds, seconds*(i+1))

def a_run(acc=.9, seed=0, arm='pretrained', n=813, official=True, size=192, per_class=None, scale='quick', data=None, **changes):
    "A finished run, as the rules look at it; nothing is written"
    config = Config(scale=scale, arch='resnet18', size=size, schedule=Schedule.fine_tune(3), per_class=per_class)
    info = DataInfo(**dict(name='x', split=SplitInfo('article', 100, n, 50, '0'*12)) | (data or {}))
    d = dict(chapter='x', name=config.name(arm, seed), arm=arm, seed=seed, status='finished', config=config, arch='torchvision:resnet18',
             classes=CLASSES, weights=RANDOM if arm=='random' else WeightsInfo('imagenet', 'mirror', official),
             data=info, numerics=Numerics(), normalize=Normalization((.5,)*3, (.5,)*3), machine=dict(gpu=None),
             epochs=(an_epoch(seconds=9.), an_epoch(1, phase=1)), valid=a_score(acc, n), seconds=40., code=Code('0'*12, False, 1))
    return Run(**d | changes)

def rows(run, part):
    "Predictions; the pretrained arm errs less"
    rng,names = np.random.default_rng([run.seed, len(run.arm), len(part)]), getattr(SPLIT, part)
    rose = np.array([o.startswith('rose') for o in names])
    p = rng.random(len(names))**(3 if run.arm=='pretrained' else 1)
    p = np.where(rose, 1-p/1.2, p/1.2)
    return prediction_rows(part, names, [o.split('/')[0] for o in names], np.stack([1-p, p], 1), list(CLASSES))

def a_chapter(arms=('pretrained', 'random'), seeds=range(3), epochs=9, chapter='flowers'):
    "Finished runs with predictions and split, among the reader's own"
    runs = []
    info = DataInfo('flowers', split=SplitInfo('article', **SPLIT.sizes, fingerprint=SPLIT.fingerprint))
    save_split(chapter, SPLIT)
    for arm in arms:
        for seed in seeds:
            run = a_run(arm=arm, seed=seed, chapter=chapter, status='running', valid=None, seconds=None)
            run = replace(run, data=info, epochs=tuple(an_epoch(i) for i in range(epochs)))
            save(run)
            runs.append(run.finish(rows(run, 'valid')).add_test(rows(run, 'test')))
    return runs
