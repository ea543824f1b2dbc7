"""How fast, beside plain fastai and beside what is possible: ratios measured in one run, on the same files.

    python tools/bench.py [NAME ...] [--commit]     # all of BENCHES if none is named; `make bench`

Each side of a comparison runs in a process of its own, so that its peak memory is its own, and sides take turns, so that
a slow minute of the machine hits both. Nothing else should run meanwhile. `--commit` writes into the course's results.
"""
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from fastai.vision import all as fv
from fastcore.script import Param, call_parse
from PIL import Image

from transfer_course.core import CourseError, course_path, get_device, processor_kind, runs_path, seed_everything, unknown, write_json
from transfer_course.data.captchas import DIGITS, CaptchaStyle, draw_texts, render, render_package
from transfer_course.data.pictures import open_picture
from transfer_course.data.sets import get_data, own_data
from transfer_course.data.splits import Split, held_out, split_by_hash
from transfer_course.data.synthetic import make_pictures
from transfer_course.results import store
from transfer_course.results.provenance import code_state, machine, versions
from transfer_course.stats import expected_calibration_error, paired_interval
from transfer_course.train import loop
from transfer_course.train.callbacks import EpochLog
from transfer_course.train.chars import CharsBlock, captcha_data, split_texts
from transfer_course.train.models import Photo, create_model, find_weights, make_body, picture_loaders, test_loader, transfer_learner
from transfer_course.train.numerics import Numerics, choose_numerics, keep_freed_memory, peak_memory_mb
from transfer_course.train.precompute import FrozenInEval
from transfer_course.train.recipe import own_experiment, run_own

NETS = {'torchvision:resnet18': 192, 'timm:tf_efficientnet_lite0': 128, 'timm:inception_v3': 224, 'timm:legacy_xception': 100}
RESNET,LITE = 'torchvision:resnet18', 'tf_efficientnet_lite0'
SIZE = 192 # pixels of ResNet-18's photos
SIDES = 'fastai', 'ours'

# --- Clocks and processes ---

def spread(values):
    "Smallest, middle and largest"
    return dict(min=round(min(values), 5), median=round(median(values), 5), max=round(max(values), 5))

def clock(f, *args, **kwargs):
    "What a call gives, and its seconds"
    t0 = time.perf_counter()
    res = f(*args, **kwargs)
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return res, time.perf_counter()-t0

def in_process(f, *args):
    "Call a function of this module in a process of its own; arguments and result are what JSON can hold"
    code = f'import json; from tools import bench; print("RESULT" + json.dumps(bench.{f.__name__}(*{args!r})))'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=course_path(), capture_output=True, text=True)
    if done.returncode: raise CourseError(f"The bench stopped: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    res = json.loads(done.stdout.rpartition('RESULT')[2])
    print(f.__name__, *args, {k: v for k,v in res.items() if k != 'right' and not isinstance(v, dict)}, flush=True)
    return res

@contextmanager
def empty_caches():
    "Caches in a folder of their own, which goes afterwards"
    before = os.environ.get('TRANSFER_COURSE_RUNS')
    with tempfile.TemporaryDirectory(dir=runs_path()) as d:
        os.environ['TRANSFER_COURSE_RUNS'] = d
        try: yield Path(d)
        finally:
            if before is None: del os.environ['TRANSFER_COURSE_RUNS']
            else: os.environ['TRANSFER_COURSE_RUNS'] = before

# --- Photos and learners ---

def bench_photos(n=1000, n_test=500):
    "Flowers by hash, each class alike, none of the article's held-out 250: four fifths of n to train on, a fifth to validate"
    ds,held = get_data('flowers', 'quick'), set(held_out())
    k,v,t = (o//len(ds.classes) for o in (n, n//5, n_test))
    parts = [], [], []
    for c in ds.classes:
        names = sorted((o for o in ds.names if ds.labels[o] == c and o not in held), key=lambda o: hashlib.sha256(o.encode()).hexdigest())
        for part,chosen in zip(parts, (names[v:k], names[:v], names[k:k+t]), strict=True): part += chosen
    return ds, Split(*map(sorted, parts), name='bench')

def photo_dls(ds, split, block, item_tfms, batch_tfms=None):
    "Loaders as fastai makes them, in this process"
    names = [*split.train, *split.valid]
    block = fv.DataBlock((block, fv.CategoryBlock), splitter=fv.IndexSplitter(range(len(split.train), len(names))), get_y=fv.parent_label,
                      item_tfms=item_tfms, batch_tfms=batch_tfms)
    return block.dataloaders([ds.path/o for o in names], num_workers=0, device=torch.device(get_device()))

def near_imagenet(): return find_weights(RESNET, 'near-imagenet')

def fastai_learner(ds, split, size, load):
    "Plain fastai, as the article prints it; weights and `Normalize` are put in by hand, since the article's come from a hub"
    dls = photo_dls(ds, split, fv.ImageBlock, [fv.Resize(size, method='squish')], [fv.Normalize.from_stats(*fv.imagenet_stats)])
    learn = fv.vision_learner(dls, torchvision.models.resnet18, metrics=fv.accuracy, pretrained=False)
    if load: learn.model[0].load_state_dict(make_body(RESNET, near_imagenet()).state_dict())
    return learn

def make_learner(side, ds, split, size=SIZE, load=True, seed=0):
    "ResNet-18 by plain fastai or through this package"
    seed_everything(seed)
    if side != 'ours': return fastai_learner(ds, split, size, load)
    return transfer_learner(picture_loaders(ds, split, size), 'resnet18', near_imagenet(), load)

def fit(learn, method, *args, **kwargs):
    "Train by one of the learner's methods; a row an epoch, each with its end in seconds from the start"
    rows,t0 = [], time.perf_counter()
    log = EpochLog(lambda learn, row: rows.append(dict(row, at=time.perf_counter()-t0)))
    with learn.no_bar(), learn.no_logging(): getattr(learn, method)(*args, cbs=log, **kwargs)
    return rows

def right(learn, ds, names):
    "1 or 0 for each test photo"
    with learn.no_bar(): probs = learn.get_preds(dl=test_loader(learn.dls, ds, names))[0]
    return [int(learn.dls.vocab[int(i)] == ds.labels[o]) for i,o in zip(probs.argmax(1), names, strict=True)]

# --- Which precision pays ---

def bare_steps(net, x, y, train='fp32', evaluate='fp32', n=5):
    "Seconds a picture of steps with nothing around them: no loader, no callbacks, no metrics; two more run before the clock"
    opt = torch.optim.Adam(net.parameters(), fused=True)
    def autocast(precision): return torch.autocast(x.device.type, torch.bfloat16, enabled=precision == 'bf16')
    def step():
        with autocast(train): out = net(x)
        F.cross_entropy(out.float(), y).backward()
        opt.step()
        opt.zero_grad()
    def predict():
        with torch.inference_mode(), autocast(evaluate): net(x)
    def timed(f): return spread([clock(f)[1]/len(x) for _ in range(n+2)][2:])
    net.train()
    trained = timed(step)
    net.eval()
    return dict(train=trained, evaluate=timed(predict))

def layout(channels_last): return torch.channels_last if channels_last else torch.contiguous_format

def time_steps(arch, size, precision, channels_last, bs=64, n=5):
    "Bare steps of a net with a linear head on pictures of noise"
    seed_everything(0)
    keep_freed_memory()
    device = torch.device(get_device())
    net = create_model(arch, 5, find_weights(arch, 'random'), head='avg').to(device, memory_format=layout(channels_last))
    x,y = torch.randn(bs, 3, size, size, device=device), torch.randint(0, 5, (bs,), device=device)
    return bare_steps(net, x, y, precision, precision, n)

def fastest(options):
    "Precision of training and evaluation, and one memory format for both: an epoch trains on three times as many photos as it validates"
    def best(step, c): return min((o[step]['median'], p) for (p,last),o in options.items() if last == c)
    c = min((False, True), key=lambda c: 3*best('train', c)[0] + best('evaluate', c)[0])
    return dict(train=best('train', c)[1], evaluate=best('evaluate', c)[1], channels_last=c)

def bench_numerics(nets=NETS):
    "Fastest precision and memory format of training and evaluation, net by net: the table of `choose_numerics`"
    choices,rows = {}, []
    for arch,size in nets.items():
        precisions = ('fp32',) if processor_kind() == 'plain' else ('fp32', 'bf16')
        options = {(p,c): time_steps(arch, size, p, c) for p,c in product(precisions, (False, True))}
        rows += [dict(arch=arch, size=size, precision=p, channels_last=c, **{f'ms_{k}': 1e3*v['median'] for k,v in o.items()})
                 for (p,c),o in options.items()]
        choices[arch] = fastest(options)
        print(arch, choices[arch], flush=True)
    return dict(choices=choices, measured=rows)

# --- The flowers article's lines, and ours ---

def bare(learn):
    "Bare steps of the net that was just trained, on one of its batches: they meet the machine in the mood of its epochs"
    x,y = (o.as_subclass(torch.Tensor) for o in learn.dls.train.one_batch())
    numerics = choose_numerics(RESNET, processor_kind(x.device.type))
    x = x.contiguous(memory_format=layout(numerics.channels_last))
    return x, numerics, bare_steps(learn.model, x, y, numerics.train, numerics.evaluate, 10)

def time_side(side, load, seed, precompute=False):
    "`fine_tune(3)` of one side, from files on disk; 'fastai, memory kept' shows what keeping freed memory alone is worth"
    ds,split = bench_photos()
    if side.endswith('memory kept'): keep_freed_memory()
    learn = make_learner(side, ds, split, load=load, seed=seed)
    with empty_caches(): rows,total = clock(fit, learn, 'fine_tune', 3, **(dict(precompute=True) if precompute else {}))
    res = dict(frozen=rows[0]['seconds'], unfrozen=[r['seconds'] for r in rows[1:]], total=total, valid_acc=rows[-1]['valid_acc'],
               right=right(learn, ds, split.test), peak_memory_mb=peak_memory_mb())
    if side != 'ours' or precompute: return res
    loaders = sum(clock(list, dl)[1] for dl in learn.dls.loaders)
    steps = {k: o['median'] for k,o in bare(learn)[2].items()}
    bound = steps['train']*len(learn.dls.train)*learn.dls.bs + steps['evaluate']*len(split.valid) + loaders
    return dict(res, steps=steps, bound=bound)

def _side(rows):
    "One side over its seeds"
    timed = {k: spread([r[k] for r in rows]) for k in ('frozen', 'total', 'peak_memory_mb')}
    return dict(timed, unfrozen=spread([o for r in rows for o in r['unfrozen']]), valid_acc=[r['valid_acc'] for r in rows],
                test_acc=[fmean(r['right']) for r in rows])

def difference(a, b): return paired_interval(*([o['right'] for o in rows] for rows in (a, b)))

def _compared(rows):
    "Both sides, our share of the bound, and the difference in accuracy"
    side = {k: _side(rs) for k,rs in rows.items()}
    bound = median(r['bound'] for r in rows['ours'])
    times = {k: round(side['fastai'][k]['median']/side['ours'][k]['median'], 2) for k in ('frozen', 'unfrozen', 'total')}
    steps = {k: round(1e3*median(r['steps'][k] for r in rows['ours']), 2) for k in ('train', 'evaluate')}
    share = round(bound/side['ours']['unfrozen']['median'], 3)
    return dict(side, bare_step_ms=steps, bound_unfrozen=round(bound, 3), share_of_bound=share, times_faster=times,
                test_acc_difference=difference(rows['ours'], rows['fastai']))

def bench_flowers(seeds=(0, 1, 2)):
    "Plain fastai beside this package, and both beside a bare step and a bare loader"
    arms = {}
    for arm in ('pretrained', 'random'):
        load,rows = arm == 'pretrained', {side: [] for side in SIDES}
        for seed,side in product(seeds, SIDES): rows[side].append(in_process(time_side, side, load, seed))
        if load: rows['fastai, memory kept'] = [in_process(time_side, 'fastai, memory kept', load, seeds[0])]
        arms[arm] = _compared(rows)
    return dict(photos=1000, size=SIZE, seeds=list(seeds), numerics=vars(choose_numerics(RESNET)), arms=arms)

# --- Frozen layers once ---

def time_limit(n=1000, times=5):
    "What can't be avoided: decode each photo once, and one bare pass of ResNet-18's body; a bare step too"
    ds,split = bench_photos(n)
    def decode(name): return np.asarray(open_picture(ds.path/name).resize((SIZE, SIZE), Image.BILINEAR))
    def decode_all():
        with ThreadPoolExecutor(os.cpu_count()) as pool: list(pool.map(decode, split.train + split.valid))
    learn = make_learner('ours', ds, split)
    x,numerics,steps = bare(learn)
    body = learn.model[0].eval()
    def forward():
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=numerics.evaluate == 'bf16'): body(x)
    forward()
    passes = -(-n//len(x))
    return dict(decode=[clock(decode_all)[1] for _ in range(times)], **{k: o['median'] for k,o in steps.items()},
                forward=[sum(clock(forward)[1] for _ in range(passes))*n/(passes*len(x)) for _ in range(times)])

def time_head(side, epochs=23):
    "Train a head on ResNet-18's frozen body; ours with empty caches (cold), then with full ones (warm)"
    ds,split = bench_photos()
    def one():
        learn = make_learner(side, ds, split)
        t0 = time.perf_counter()
        learn.freeze()
        rows = fit(learn if side == 'fastai' else learn.precompute(), 'fit', epochs)
        return dict(total=time.perf_counter()-t0, epochs=[r['seconds'] for r in rows], valid_acc=rows[-1]['valid_acc'])
    if side == 'fastai': return one()
    with empty_caches(): return dict(cold=one(), warm=one())

def lite_halves(model):
    "fastai's splitter: EfficientNet-Lite0 up to `blocks.3`, and the rest"
    net,ps = model[0].model, fv.params(model)
    n = sum(len(fv.params(o)) for o in (net.conv_stem, net.bn1, *net.blocks[:4]))
    return fv.L(ps[:n], ps[n:])

def time_half(side, arch, epochs=3):
    "Train the upper half of a net: seconds of each epoch, and before the first"
    ds,split = bench_photos()
    ours,lite = side == 'ours', arch == LITE
    if ours and lite: learn = transfer_learner(picture_loaders(ds, split, 128), arch, find_weights(f'timm:{arch}', 'imagenet', 'sample'))
    else: learn = make_learner(side, ds, split, 128 if lite else SIZE, load=not lite)
    if lite and not ours: learn = fv.vision_learner(learn.dls, arch, pretrained=False, splitter=lite_halves)
    with empty_caches():
        t0 = time.perf_counter()
        if not (lite and ours): learn.freeze_to(-1 if lite else -2)
        if ours: learn = learn.precompute(at='blocks.3' if lite else None)
        before = time.perf_counter()-t0
        return dict(before=before, epochs=[r['seconds'] for r in fit(learn, 'fit', epochs)])

def anonymous_mb():
    "Memory of this process that is no file's, in MiB (Linux; 0 elsewhere)"
    status = Path('/proc/self/status')
    rows = status.read_text().splitlines() if status.exists() else []
    return next((int(o.split()[1])/1024 for o in rows if o.startswith('RssAnon')), 0)

def time_many(n, epochs=(1, 5, 23)):
    "Train a head through `precompute` on n pictures by program; most memory meanwhile"
    seen,done = [], threading.Event()
    def watch():
        while not done.wait(.1): seen.append(anonymous_mb())
    with empty_caches() as folder:
        ds = own_data(make_pictures(folder/'pictures', n, size=SIZE))
        learn = transfer_learner(picture_loaders(ds, split_by_hash(ds, .2), SIZE), 'resnet18', near_imagenet())
        watcher = threading.Thread(target=watch)
        watcher.start()
        t0 = time.perf_counter()
        learn.freeze()
        learn = learn.precompute()
        before,rows = time.perf_counter()-t0, fit(learn, 'fit', max(epochs))
        done.set()
        watcher.join()
    return dict(pictures=n, seconds={e: before+rows[e-1]['at'] for e in epochs}, anonymous_mb=max(seen))

def _limit(limits):
    "What is possible, in seconds for all photos and for one; a step that something disturbed is no bound"
    part = {k: spread([o for d in limits for o in d[k]]) for k in ('decode', 'forward')}
    step = {k: min(d[k] for d in limits) for k in ('train', 'evaluate')}
    seconds = sum(o['median'] for o in part.values())
    return seconds, step, dict(part, seconds=round(seconds, 3), bare_step_ms={k: round(1e3*o, 2) for k,o in step.items()})

def _head(fastai, ours, limit):
    "A frozen body's head: fastai's epochs beside ours"
    both = {k: spread([o[k]['total'] for o in ours]) for k in ('cold', 'warm')}
    return dict(epochs=len(fastai['epochs']), fastai=round(fastai['total'], 2), fastai_epoch=spread(fastai['epochs']), ours=both,
                times_the_limit=round(both['cold']['median']/limit, 2),
                times_faster={k: round(fastai['total']/o['median'], 1) for k,o in both.items()},
                valid_acc=dict(fastai=fastai['valid_acc'], ours=sorted(o[k]['valid_acc'] for o in ours for k in o)))

def _fine_tune(rows, bound):
    "`fine_tune(3)` of both sides beside a bare loader and bare steps"
    total = {k: spread([o['total'] for o in v]) for k,v in rows.items()}
    fastai,ours = (total[k]['median'] for k in SIDES)
    return dict(total, bound=round(bound, 2), share_of_bound=round(bound/ours, 3), times_faster=round(fastai/ours, 2),
                test_acc={k: [fmean(o['right']) for o in v] for k,v in rows.items()},
                test_acc_difference=difference(rows['ours'], rows['fastai']))

def _half(rows):
    "The upper half of a net, both sides"
    both = {side: spread(o['epochs']) for side,o in rows.items()}
    return dict(both, before=rows['ours']['before'], times_faster=round(both['fastai']['median']/both['ours']['median'], 2))

def bench_precompute(n=1000, times=5, seeds=(0, 1), many=(1000, 4000, 20_000)):
    "Plain fastai beside frozen layers that run once, and both beside the limit; only the curve's fastai is multiplied up"
    limits = [in_process(time_limit)]
    ours,fastai = [in_process(time_head, 'ours') for _ in range(times)], in_process(time_head, 'fastai')
    tuned = {side: [] for side in SIDES}
    for seed,side in product(seeds, SIDES): tuned[side].append(in_process(time_side, side, True, seed, side == 'ours'))
    limits.append(in_process(time_limit)) # once at each end: the machine may have another mood
    half = {arch: _half({side: in_process(time_half, side, arch) for side in SIDES}) for arch in ('resnet18', LITE)}
    rows = [in_process(time_many, k) for k in many]
    limit,step,possible = _limit(limits)
    epoch,memory = median(fastai['epochs']), [o['anonymous_mb'] for o in rows]
    curve = [dict(pictures=k, ours=o['seconds'], limit=limit/n*k, fastai={e: epoch/n*k*int(e) for e in o['seconds']})
             for k,o in zip(many, rows, strict=True)]
    return dict(photos=n, size=SIZE, limit=possible, head=_head(fastai, ours, limit), half=half, curve=curve,
                fine_tune=_fine_tune(tuned, limit + 3*n*(.8*step['train'] + .2*step['evaluate'])),
                memory_mb=dict(zip(map(str, many), memory, strict=True), growth=round(memory[-1]-memory[0], 1)))

# --- What a frozen body's views and batch norms are worth ---

def time_views(views, seed, epochs=12):
    "Train a head on random crops: k cached views of each photo, or (None) other crops in every epoch"
    ds,split = bench_photos()
    seed_everything(seed)
    dls = photo_dls(ds, split, fv.ImageBlock(Photo), [fv.RandomResizedCrop(96, min_scale=.35), fv.FlipItem()])
    learn = transfer_learner(dls, LITE, scale='sample')
    learn.freeze()
    with empty_caches():
        t0 = time.perf_counter()
        if views: learn = learn.precompute(views=views)
        else: learn.add_cb(FrozenInEval(learn.model[0]))
        rows = fit(learn, 'fit', epochs)
        total = time.perf_counter()-t0
        with learn.no_bar(): probs,y = learn.get_preds()
    return dict(total=total, train_acc=rows[-1]['train_acc'], right=(probs.argmax(1) == y).int().tolist())

def bench_views(views=(1, 2, 4, 8, None), seeds=(0, 1, 2)):
    "What caching k views costs in accuracy beside endless ones (the last), and saves in seconds"
    runs = {k: [in_process(time_views, k, seed) for seed in seeds] for k in views}
    rows = [dict(views=k, valid_acc=[fmean(o['right']) for o in rs], train_acc=[o['train_acc'] for o in rs],
                 seconds=spread([o['total'] for o in rs]), less_endless=difference(rs, runs[None])) for k,rs in runs.items()]
    return dict(photos=1000, epochs=12, seeds=list(seeds), rows=rows)

def unseen(kind):
    "Loaders of pictures like ImageNet's (1,000 flowers), or unlike them (1,200 CAPTCHAs); about 2,000 answers to check"
    if kind == 'flowers':
        ds,split = bench_photos(1000, 2000)
        return picture_loaders(ds, Split(split.train + split.valid, split.test, name='bench'), 96, 64)
    style = CaptchaStyle(length=4, alphabet=DIGITS, width=96, height=48, font_size=26)
    ds = captcha_data(dict(train=1200, valid=300, test=300), style)
    split = split_texts(ds)
    split = Split(split.train, split.valid + split.test, name='bench')
    return picture_loaders(ds, split, (48, 96), 32, target=CharsBlock(DIGITS, 4))

def time_batch_norms(way, kind, seed, lr=4e-3, epochs=8):
    "Train a head on EfficientNet-Lite0's frozen body: 'fastai', where the body's batch norms learn, or 'precomputed'"
    seed_everything(seed)
    learn = transfer_learner(unseen(kind), LITE, scale='sample')
    learn.freeze()
    with empty_caches():
        t0 = time.perf_counter()
        if way == 'precomputed': learn = learn.precompute()
        fit(learn, 'fit_one_cycle', epochs, lr)
        total = time.perf_counter()-t0
        with learn.no_bar(): probs,y = learn.get_preds()
    return dict(total=total, right=(probs.argmax(-1) == y).float().reshape(len(y), -1).mean(1).tolist())

def bench_batch_norms(kinds=('flowers', 'captchas'), rates=(1e-3, 4e-3), seeds=(0, 1, 2)):
    "What a frozen body's batch norms gain by learning, and cost; at two rates, since a gain may be the rate's"
    rows = []
    for kind,lr in product(kinds, rates):
        runs = {way: [in_process(time_batch_norms, way, kind, seed, lr) for seed in seeds] for way in ('fastai', 'precomputed')}
        acc = {way: [fmean(o['right']) for o in rs] for way,rs in runs.items()}
        seconds = {way: spread([o['total'] for o in rs]) for way,rs in runs.items()}
        rows.append(dict(kind=kind, lr=lr, pictures=len(runs['fastai'][0]['right']), acc=acc, seconds=seconds,
                         less_fastai=difference(runs['precomputed'], runs['fastai'])))
    return dict(flowers=1000, epochs=8, seeds=list(seeds), rows=rows)

def bench_captchas(n=1000, times=5):
    "Pictures a second on one core, ours and the `captcha` package's, taking turns"
    torch.set_num_threads(1)
    codes = draw_texts(CaptchaStyle(), 'train', range(n))
    for draw in (render, render_package): draw(codes[:64])
    rates = [[n/clock(draw, codes)[1] for draw in (render, render_package)] for _ in range(times)]
    ours,package = zip(*rates, strict=True)
    return dict(n=n, ours=spread(ours), package=spread(package), times_faster=spread([a/b for a,b in rates]))

# --- The recipe for own photos ---

# Cheapest first: data set and photos a class, training and validation together; None: all
RECIPE_CELLS = [('flowers', 10), ('dogs-vs-cats', 20), ('pets-cat-dog-bird', 20), ('captcha-digits', 20), ('flowers', 50),
                ('dogs-vs-cats', 200), ('pets-cat-dog-bird', 200), ('captcha-digits', 100), ('stanford-cars', 20),
                ('stanford-cars', None), ('dogs-vs-cats', 1000), ('flowers', None)]
RIVALS = 'probe', 'fastai'

def captcha_digits():
    "1,600 pictures of one digit, a folder for each"
    folder,style = runs_path('bench', 'captcha-digits'), CaptchaStyle(length=1, alphabet=DIGITS, width=48, height=48, font_size=34)
    codes = draw_texts(style, 'train', range(1600))
    for i,(code,x) in enumerate(zip(codes, render(codes, style=style), strict=True)):
        path = folder/DIGITS[int(code[0])]/f'{i:04}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists(): Image.fromarray(x.permute(1, 2, 0).numpy()).save(path)
    return own_data(folder)

def recipe_photos(name, n, seed, most=400):
    "Photos by lot, n a class, a fifth of them to validate; and the test part: `most` of a fifth by hash, which no choice has seen"
    ds = captcha_digits() if name == 'captcha-digits' else get_data(name, 'quick')
    def unit(o, salt): return int(hashlib.sha256(f'{salt}:{o}'.encode()).hexdigest()[:8], 16)
    names = [o for o in ds.names if name != 'stanford-cars' or o.startswith('train/')] # its own test part is for a chapter to come
    test = [o for o in names if unit(o, 'bench-test') < .2*2**32]
    rest = sorted(set(names) - set(test), key=lambda o: unit(o, f'draw-{seed}'))
    drawn = [[o for o in rest if ds.labels[o] == c][:n] for c in ds.classes]
    k = [round(len(o)/5) for o in drawn]
    valid = [o for part,i in zip(drawn, k, strict=True) for o in part[:i]]
    train = [o for part,i in zip(drawn, k, strict=True) for o in part[i:]]
    split = Split(train, valid, sorted(test, key=lambda o: unit(o, 'order'))[:most], name=f'bench-{n}-{seed}')
    names = sorted(split.train + split.valid + split.test)
    return replace(ds, names=names, labels={o: ds.labels[o] for o in names}), split

def answer(ds, split, classes, probs):
    "What is kept of a side: which test photos were right, and the calibration error"
    y = np.array([list(classes).index(ds.labels[o]) for o in split.test])
    return dict(right=(probs.argmax(1) == y).astype(int).tolist(), calibration_error=expected_calibration_error(probs, y))

def fastai_lines(ds, split, size, seed):
    "fastai's documented lines on a folder of the same photos; a smaller batch, since 64 would make no step"
    with tempfile.TemporaryDirectory(dir=runs_path()) as folder:
        for o in split.train + split.valid:
            link = Path(folder)/ds.labels[o]/o.replace('/', '-')
            link.parent.mkdir(exist_ok=True)
            link.symlink_to((ds.path/o).resolve())
        n = len(split.train)+len(split.valid)
        dls = fv.ImageDataLoaders.from_folder(folder, valid_pct=.2, seed=seed, item_tfms=fv.Resize(size), batch_tfms=fv.aug_transforms(),
                                              bs=max(1, min(64, n//4)), num_workers=0)
        weights = find_weights(f'timm:{LITE}')
        dls.add_tfms([fv.Normalize.from_stats(weights.mean, weights.std, cuda=False)], 'after_batch')
        learn = fv.vision_learner(dls, LITE, metrics=fv.accuracy, pretrained=False)
        learn.model[0].load_state_dict(make_body(f'timm:{LITE}', weights).state_dict())
        with learn.no_bar(), learn.no_logging():
            _,seconds = clock(learn.fine_tune, 5)
            probs = learn.get_preds(dl=dls.test_dl([ds.path/o for o in split.test]))[0].numpy()
        return dict(answer(ds, split, dls.vocab, probs), seconds=seconds)

def our_side(ds, split, size, seed, side):
    "The course's linear probe as its chapters have it, or the recipe"
    settings = dict(size=size, seeds=(seed,), split=lambda _: split)
    if side == 'probe':
        settings |= dict(arms=('linear_probe',), head='avg', augment='none', folds=1)
    (runs,chosen),seconds = clock(lambda: run_own(own_experiment(ds, **settings), log=lambda *_: None))
    rows = chosen.predictions().query("part == 'test'").set_index('name').loc[split.test]
    found = answer(ds, split, chosen.classes, rows[[f'p_{c}' for c in chosen.classes]].to_numpy())
    return dict(found, seconds=seconds, chosen=chosen.arm, held_out={r.arm: r.valid.acc for r in runs},
                peak_memory_mb=max(r.peak_memory_mb for r in runs))

def recipe_cell(name, n, seed):
    "All sides on one draw, in single precision"
    seed_everything(seed)
    loop.choose_numerics = lambda *_: Numerics()
    ds,split = recipe_photos(name, n, seed)
    size = 160 if name == 'stanford-cars' else SIZE
    res = dict(photos=len(split.train)+len(split.valid), fastai=fastai_lines(ds, split, size, seed))
    for side in ('probe', 'recipe'):
        with empty_caches(): res[side] = our_side(ds, split, size, seed, side)
    return res

def recipe_row(name, n, draws):
    "One line of the table: the recipe beside the better rival"
    acc = {side: fmean(fmean(d[side]['right']) for d in draws) for side in (*RIVALS, 'recipe')}
    better = max(RIVALS, key=acc.get)
    gain = difference([d['recipe'] for d in draws], [d[better] for d in draws])
    errors = [max(1-acc[side], .5/len(draws[0]['recipe']['right'])) for side in ('recipe', better)]
    return dict(data=name, per_class=n, photos=draws[0]['photos'], acc=acc, better=better, gain=gain, errors=errors[0]/errors[1],
                chosen=[d['recipe']['chosen'] for d in draws], peak_memory_mb=max(d['recipe']['peak_memory_mb'] for d in draws),
                calibration_error={side: fmean(d[side]['calibration_error'] for d in draws) for side in acc},
                seconds={side: spread([d[side]['seconds'] for d in draws]) for side in acc})

def bench_recipe(minutes=None, seeds=(0, 1, 2)):
    "The recipe for own photos beside fastai's lines and the linear probe; what is done is kept, and after `minutes` no draw is begun"
    kept,end,rows = runs_path('bench', 'recipe.json'), time.time() + 60*(minutes or 1e9), []
    done = json.loads(kept.read_text()) if kept.exists() else {}
    for name,n in RECIPE_CELLS:
        for seed in seeds:
            key = f'{name} {n} {seed}'
            if key in done or time.time() > end: continue
            done[key] = in_process(recipe_cell, name, n, seed)
            write_json(kept, done)
        draws = [done[k] for seed in seeds if (k := f'{name} {n} {seed}') in done]
        if draws: rows.append(recipe_row(name, n, draws))
    gains,errors = [r['gain']['diff'] for r in rows], [r['errors'] for r in rows]
    photos = [r['gain']['diff'] for r in rows if not r['data'].startswith('captcha')]
    return dict(seeds=list(seeds), size=SIZE, rows=rows, mean=fmean(gains), median=median(gains), mean_photos=fmean(photos or gains),
                errors=float(np.exp(np.log(errors).mean())), worst_errors=max(errors),
                missing=[f'{name} {n or "all"}' for name,n in RECIPE_CELLS if f'{name} {n} {seeds[-1]}' not in done])

# --- All of them ---

BENCHES = dict(numerics=bench_numerics, flowers=bench_flowers, precompute=bench_precompute, views=bench_views,
               batch_norms=bench_batch_norms, captchas=bench_captchas, recipe=bench_recipe)

@call_parse
def main(
    names:Param('Which; all if none', str, opt=False, nargs='*')=None,
    commit:bool=False, # Write into the course's results, else into your own runs
    minutes:float=None, # `recipe` begins nothing new after so many; the same command goes on
):
    "Measure speed, as ratios in one run, with nothing else running"
    try:
        for o in names or []:
            if o not in BENCHES: raise unknown('bench', o, BENCHES)
        for o in names or BENCHES:
            record = store.Bench(o, processor_kind(), BENCHES[o](*[minutes]*(o == 'recipe')), machine(), versions(), code_state())
            path = store.save(record)
            print(store.commit(record) if commit else path)
    except CourseError as e: sys.exit(str(e))
