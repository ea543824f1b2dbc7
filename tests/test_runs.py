"""Runs that are stopped, met by two processes, or found damaged; learners that load in a fresh process; the command line's errors."""
import errno
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from fastai.callback.progress import CSVLogger
from safetensors.torch import load, save
from test_store import damaged_json

from transfer_course.core import CourseError, write_json
from transfer_course.data.splits import split_by_hash
from transfer_course.results.config import Schedule
from transfer_course.results.store import commit, load_runs, read_run
from transfer_course.train.loop import Experiment, load_learner_of, log_epoch
from transfer_course.train.models import (
    _count_features,
    create_model,
    find_weights,
    load_weights,
    make_body,
    read_tensors,
    stage_split,
)

def quiet(run, row): pass

def experiment(folder, **changes):
    "It trains in a second: pictures made by program, the smallest net with packaged weights"
    usual = dict(arch='tf_efficientnet_lite0', schedule=Schedule.one_cycle(1), scale='sample', size=32, bs=8, seeds=(0,))
    return Experiment('own', str(folder), lambda ds: split_by_hash(ds, .25, .25), **dict(usual, arms=('pretrained',)) | changes)

@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    from transfer_course.data.synthetic import make_pictures
    return make_pictures(tmp_path_factory.mktemp('pictures')/'shapes', n=48, size=40)

@pytest.fixture
def runs(monkeypatch, tmp_path):
    "A folder of runs for one test"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    return tmp_path

@pytest.fixture(scope='module')
def through(shapes, tmp_path_factory):
    "A finished run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path_factory.mktemp('runs')))
        run = experiment(shapes, schedule=Schedule.fine_tune(2)).run_one('pretrained', 0, log=quiet)
        return read_run(run.path)

@pytest.fixture
def beside(through, monkeypatch):
    "The folder of runs with the finished one"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(through.path.parent.parent))
    return through

# --- Stopped ---

@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    if not hasattr(os, 'fork'): pytest.skip('this system has no fork')
    args = [sys.executable, '-W', 'ignore', str(Path(__file__).with_name('stopped.py')), str(tmp_path_factory.mktemp('stopped'))]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

def test_killed_after_each_epoch_it_ends_alike(stopped):
    "Its JSON was cut short on the way: the checkpoint knows all"
    assert stopped['stopped'] == [['running', 1], ['running', 2]]
    assert stopped['killed'] == stopped['through'] # epochs, predictions and weights, to the byte

def test_a_second_process_is_refused(stopped): assert 'Another process is working on the run' in stopped['second']

def test_a_run_of_two_versions_of_the_code_is_in_no_commit(stopped): assert stopped['dirty']

def test_the_same_twice_and_external_tests_of_other_weights_go(stopped):
    assert stopped['again'] == stopped['through'] and stopped['external_tests'] == 0

def test_fresh_forgets_every_run_before_the_first_begins(shapes, runs):
    "Else, stopped and gone on with, it would take an old seed for a new one"
    exp, trained = experiment(shapes, arms=('random',), seeds=(0, 1)), []
    def log(run, row): trained.append(run.seed)
    def stop(run, row): raise KeyboardInterrupt
    exp.run(log=log)
    assert trained == [0, 1]
    with pytest.raises(KeyboardInterrupt): exp.run(fresh=True, log=stop)
    exp.run(resume=True, log=log)
    assert trained == [0, 1, 1] # seed 0 had ended its one epoch

def test_the_test_part_is_opened_once(shapes, runs, monkeypatch):
    exp = experiment(shapes, arms=('linear_probe',))
    run, = exp.run(log=quiet)
    assert run.test.n == len(exp.split_for(0).test) and run.test.opened
    import transfer_course.train.loop as loop
    monkeypatch.setattr(loop, 'load_learner_of', lambda run: pytest.fail('opened again'))
    assert exp.run(log=quiet) == [run]
    stale = replace(run, test=None) # as another process may hold it
    assert exp.evaluate_test([stale]) == [run]

def test_patience_stops_and_the_best_epoch_is_kept(shapes, runs):
    schedule = Schedule.one_cycle(5, lr=1e-12) # nothing is learned, so no epoch after the first is better
    run = experiment(shapes, schedule=schedule, checkpoint='best', patience=2).run_one('pretrained', 0, log=quiet)
    assert len(run.epochs) == run.best_epoch+3 <= 5 and run.kept_epoch == run.best_epoch
    assert run.valid.acc == pytest.approx(max(e.valid_acc for e in run.epochs))
    assert not list(run.path.parent.glob('*.best.*')) and not list(run.path.parent.glob('*.checkpoint.*'))

def test_a_run_that_cannot_train_leaves_nothing_behind(shapes, runs):
    bad = (dict(bs=1), 'batch of one photo'), (dict(arch='vit_tiny_patch16_224', weights='random'), 'pictures of 32 × 32 pixels')
    for changes,says in bad:
        exp = experiment(shapes, arms=('random',), **changes)
        with pytest.raises(CourseError, match=says): exp.run_one('random', 0)
    assert not list((runs/'own').glob('[!.]*-s0.*'))

def test_training_goes_on_when_nobody_reads_the_lines(through, monkeypatch, capsys):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, 'w') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        for row in through.epochs: log_epoch(through, row)
    assert 'training goes on' in capsys.readouterr().err

def test_callbacks_of_fastais(shapes, runs):
    "Each run has its own copy and its own folder; the course's results take none of these runs"
    exp = experiment(shapes, arms=('frozen', 'random'), schedule=Schedule.fine_tune(1), cbs=CSVLogger(append=True))
    for run in exp.run(log=quiet):
        text = (run.path.with_name(f'{run.name}.callbacks')/'history.csv').read_text()
        assert run.callbacks == ('CSVLogger',) and text.count('\n') == 2*2 and text.startswith('epoch,train_loss')
        with pytest.raises(CourseError, match='callbacks of its own .CSVLogger'): commit(run)
    with pytest.raises(CourseError, match='another set of callbacks'): exp.replace(cbs=()).run_one('random', 0)

STEPS = [2, 5, 9, *(pytest.param(o, marks=pytest.mark.slow) for o in (1, 3, 4, 6, 7, 8, 10, 11, 12))]

@pytest.mark.parametrize('step', STEPS)
def test_a_full_disk_loses_nothing_that_was_finished(shapes, through, runs, monkeypatch, step):
    exp, count, replace_file = experiment(shapes, schedule=Schedule.fine_tune(2)), iter(range(1, 99)), os.replace
    def full(*args):
        if next(count) >= step: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(*args)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter('ignore') # that no cache is kept
        patch.setattr(os, 'replace', full)
        with pytest.raises(OSError, match='No space left'): exp.run_one('pretrained', 0, log=quiet)
    run = exp.run_one('pretrained', 0, resume=True, log=quiet)
    assert run.predictions().equals(through.predictions()) and not list(runs.rglob('*.part*'))

# --- Damaged, or another's ---

class Program:
    "What unpickling executes"
    def __reduce__(self): return os.mkdir, (os.environ['TRANSFER_COURSE_RUNS'] + '/executed',)

def test_a_checkpoint_is_data_and_is_read_to_resume(shapes, runs):
    exp = experiment(shapes, arms=('random',), schedule=Schedule.one_cycle(3, lr=1e-12), checkpoint='best')
    def stop(run, row): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): exp.run_one('random', 0, log=stop)
    checkpoint, = (runs/'own').glob('*.checkpoint.safetensors')
    whole = checkpoint.read_bytes()
    for body in (pickle.dumps(Program()), whole[:1000], whole[:-1] + bytes([whole[-1]^1])): # the last: one bit of a tensor
        checkpoint.write_bytes(body)
        with pytest.raises(CourseError, match='was stopped after 1 of 3 epochs: --resume'): exp.run_one('random', 0)
        with pytest.raises(CourseError, match='checkpoint.safetensors is damaged .*--fresh'): exp.run_one('random', 0, resume=True)
    assert not (runs/'executed').exists()
    checkpoint.write_bytes(whole)
    next((runs/'own').glob('*.best.safetensors')).unlink() # no later epoch is better
    with pytest.raises(CourseError, match='best.safetensors is damaged .*--fresh'): exp.run_one('random', 0, resume=True, log=quiet)

def test_weights_are_data(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    net = timm.create_model('test_resnet')
    wrapped = {f'module.{k}': v for k,v in net.state_dict().items()}
    torch.save(dict(state_dict=wrapped, args=Namespace(lr=.1, out=tmp_path), best=np.float64(.9)), tmp_path/'net.pth')
    w = find_weights('timm:test_resnet', str(tmp_path/'net.pth'))
    assert not w.official and torch.equal(make_body('timm:test_resnet', w).model.conv1[0].weight, net.conv1[0].weight)
    beside = (dict(kwargs=dict(checkpoint_path='x.pth')), 'checkpoint_path'), (dict(sha256='0'*64), 'another file'), ([], 'array')
    for about,says in beside:
        write_json(tmp_path/'net.json', about)
        with pytest.raises(CourseError, match=says): find_weights('timm:test_resnet', str(tmp_path/'net.pth'))
    torch.save(dict(state_dict=wrapped, hook=Program()), tmp_path/'net.pth')
    with pytest.raises(CourseError, match='wants to execute'): read_tensors(tmp_path/'net.pth')
    assert not (tmp_path/'executed').exists()

@pytest.mark.parametrize(('change', 'says'), [
    (lambda v: v*float('nan'), 'no finite numbers'), (lambda v: v.to(torch.int8), 'another architecture'),
    (lambda v: v.to_sparse(), 'more than tensors'), (lambda v: v.to('meta'), 'more than tensors')])
def test_weights_that_are_no_weights(change, says, tmp_path):
    net = timm.create_model('test_resnet')
    own = net.state_dict()
    torch.save(dict(ema=dict(model=own)), tmp_path/'net.pth')
    assert load_weights(net, read_tensors(tmp_path/'net.pth')) == len(own)
    torch.save({k: change(v) if v.is_floating_point() else v for k,v in own.items()}, tmp_path/'net.pth')
    with pytest.raises(CourseError, match=says): load_weights(net, read_tensors(tmp_path/'net.pth'))

@pytest.mark.parametrize('arch', ['timm:test_vit', 'timm:swin_tiny_patch4_window7_224'])
def test_stages_of_transformers(arch):
    "Of one width, of a fixed size, with channels last"
    model = create_model(arch, 2, find_weights(arch, 'random'), head='stages')
    stages = model[0]
    widths = {o['module']: o['num_chs'] for o in stages.body.model.feature_info}
    assert stages.features == sum(widths[o] for o in stages.names) + _count_features(stages.body) and len(stages.names) == 2
    assert all(map(len, stage_split(model)))

def test_stages_of_other_nets():
    "Of nets that are one chain of layers, and of those that do not tell how their maps lie"
    for arch in 'torchvision:vgg11', 'torchvision:squeezenet1_1', 'timm:vgg11':
        model = create_model(arch, 2, find_weights(arch, 'random'), head='stages')
        assert all(map(len, stage_split(model))) and model.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 2)
    with pytest.raises(CourseError, match='channels last'):
        create_model('torchvision:swin_t', 2, find_weights('torchvision:swin_t', 'random'), head='stages')

def test_a_download_is_held_against_its_published_hash(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    name = torchvision.models.get_model_weights('squeezenet1_1').DEFAULT.url.rpartition('/')[2]
    (tmp_path/'hub'/'checkpoints').mkdir(parents=True)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path/'hub'/'checkpoints'/name)
    w = find_weights('torchvision:squeezenet1_1')
    with pytest.raises(CourseError, match='SHA-256 is .*its name says'): make_body('torchvision:squeezenet1_1', w)

@pytest.mark.parametrize('damaged', [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_run_with_a_damaged_field_is_a_sentence_or_still_predicts(beside, damaged):
    whole = beside.path.read_bytes()
    try:
        for number in range(damaged):
            beside.path.write_bytes(damaged_json(random.Random(number), whole))
            try: load_learner_of(read_run(beside.path))
            except CourseError as e: assert len(str(e)) < 1000 and '\n' not in str(e), (number, str(e)[:300])
            except Exception as e: raise AssertionError(f'case {number}: {type(e).__name__}: {e}') from e
    finally: beside.path.write_bytes(whole)

def test_weights_that_are_not_the_runs_own(through):
    whole = through.weights_path.read_bytes()
    try:
        through.weights_path.write_bytes(save(load(whole), dict(classes='["cat", "dog"]')))
        with pytest.raises(CourseError, match='cat, dog apart, and .* belongs to another run'): load_learner_of(through)
        through.weights_path.write_bytes(whole[:1000])
        with pytest.raises(CourseError, match='is damaged'): load_learner_of(through)
        through.weights_path.unlink()
        with pytest.raises(CourseError, match=r'run --data FOLDER --scale sample --arch tf_efficientnet_lite0 --epochs 2 --fresh'):
            load_learner_of(through)
    finally: through.weights_path.write_bytes(whole)

def test_a_run_cut_short_is_told_by_name(through, tmp_path):
    p = tmp_path/'own'/'cut.json'
    p.parent.mkdir()
    p.write_text(through.path.read_text()[:500])
    with pytest.raises(CourseError, match='cut.json is damaged'): read_run(p)
    p.write_text('[]')
    with pytest.raises(CourseError, match='no run of this course'): read_run(p)

def test_a_damaged_run_does_not_hide_the_others(beside):
    bad = beside.path.with_name('bad.json')
    bad.write_text('{')
    with pytest.warns(UserWarning, match='bad.json is damaged'): assert beside.name in [r.name for r in load_runs('own', committed=False)]
    bad.unlink()

def test_a_stopped_run_hides_no_finished_one(runs):
    r = load_runs('flowers', own=False, status='finished')[0]
    write_json(runs/'flowers'/f'{r.name}.json', replace(r, status='running').to_dict())
    assert r.name in [o.name for o in load_runs('flowers', status='finished')]

def test_other_photos_under_the_same_names_are_other_photos(beside, tmp_path):
    from transfer_course.data.synthetic import make_pictures
    exp = experiment(make_pictures(tmp_path/'shapes', n=48, size=40, seed=1), schedule=Schedule.fine_tune(2))
    with pytest.raises(CourseError, match='another set of photos'): exp.run_one('pretrained', 0)

# --- In another process ---

def test_an_exported_learner_loads_in_a_fresh_process(shapes, through, tmp_path):
    from transfer_course.train.predict import export
    photo, pkl = sorted(shapes.glob('*/*'))[0], export(through, tmp_path/'net.pkl')
    code = f"from fastai.learner import load_learner; print(load_learner({str(pkl)!r}).predict({str(photo)!r})[0])"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.strip() in through.classes, out.stderr

ERRORS = [
    (['run', 'flours'], "did you mean 'flowers'"),
    (['run', 'flowers', '--scale', 'smple'], "did you mean 'sample'"),
    (['run', 'flowers', '--scale', 'sample', '--arch', 'resnet81'], "did you mean 'resnet18'"),
    (['run', 'flowers', '--scale', 'sample', '--arch', 'resnet50'], "asks no network"),
    (['run', 'flowers', '--scale', 'sample', '--weights', 'imagnet'], "There are no weights 'imagnet'"),
    (['run', 'flowers', '--seeds', 'x'], 'names no seeds'),
    (['run', 'flowers', '--resume', '--fresh'], 'give one of them'),
    (['run', '--data', 'no/such/folder'], 'no folder'),
    (['data', 'flwers'], "did you mean 'flowers'"),
    (['predict', 'nothing', 'a.jpg'], "There is no run 'nothing'")]

@pytest.mark.parametrize('args, says', ERRORS)
def test_errors_are_sentences(args, says, runs, capsys):
    from transfer_course.cli import main
    assert main(args) == 2
    err = capsys.readouterr().err
    assert says in err and err.count('\n') == 1

def test_the_command_ends_with_its_status(tmp_path):
    code = 'import sys; from transfer_course.cli import main; sys.exit(main())'
    env = dict(os.environ, TRANSFER_COURSE_RUNS=str(tmp_path))
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, 'run', 'flours'], capture_output=True, text=True, env=env)
    assert out.returncode == 2 and "did you mean 'flowers'" in out.stderr and 'Traceback' not in out.stderr

def test_predict_by_name(beside, shapes, tmp_path, capsys):
    from transfer_course.cli import main
    photo = sorted(shapes.glob('*/*'))[0]
    assert main(['predict', beside.name, str(photo)]) == 0
    assert str(photo) in capsys.readouterr().out
    (tmp_path/'torn.jpg').write_bytes(photo.read_bytes()[:60])
    assert main(['predict', beside.name, str(tmp_path/'torn.jpg')]) == 2
    assert 'torn.jpg' in capsys.readouterr().err
