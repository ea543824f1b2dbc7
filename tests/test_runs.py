"""Runs that are killed, met by two processes, or found damaged; learners that load in a fresh process; the command line's errors."""
import os, signal, subprocess, sys
import pytest
from safetensors.torch import load, save
from transfer_course.core import CourseError
from transfer_course.data.splits import split_by_hash
from transfer_course.results.config import Schedule
from transfer_course.results.store import load_runs, read_run
from transfer_course.train.predict import load_learner_of
from transfer_course.train.loop import Experiment

# An experiment that trains in a second: pictures made by program, two phases, the smallest net with packaged weights.
EXPERIMENT = """
import sys, torch
torch.set_num_threads(1)
from transfer_course.data.splits import split_by_hash
from transfer_course.stats import *
from transfer_course.results.config import *
from transfer_course.results.store import *
from transfer_course.train.loop import *
from transfer_course.train.predict import *
exp = Experiment('own', sys.argv[1], lambda ds: split_by_hash(ds, .25, .25), 'tf_efficientnet_lite0', Schedule.fine_tune(2), scale='sample', size=32, bs=8, seeds=(0,))
"""
RUN = "print('ready', flush=True)\nexp.run_one('pretrained', 0, resume=True, say=lambda run, row: (print(row['epoch'], flush=True), sys.stdin.readline()))"


def process(folder, runs, code=RUN):
    env = dict(os.environ, TRANSFER_COURSE_RUNS=str(runs), OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', EXPERIMENT+code, str(folder)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(p, n=9):
    out, err = p.communicate('\n'*n, timeout=300)
    assert p.returncode == 0, err
    return out


def epochs(run): return [{k: v for k, v in e.items() if 'seconds' not in k} for e in run.epochs]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    from transfer_course.data.synthetic import make_pictures
    folder = tmp_path_factory.mktemp('pictures')/'shapes'
    make_pictures(folder, n=48, size=40)
    return folder


@pytest.fixture(scope='module')
def through(shapes, tmp_path_factory):
    "A run that nobody disturbed"
    runs = tmp_path_factory.mktemp('through')
    finish(process(shapes, runs))
    return read_run(next((runs/'own').glob('*.json')))


def test_killed_after_each_epoch_it_ends_alike(shapes, through, tmp_path):
    for last in ('0', '1'):
        p = process(shapes, tmp_path)
        while (line := p.stdout.readline().strip()) != last: assert line or p.poll() is None, p.stderr.read()
        p.send_signal(signal.SIGKILL); p.wait()
        stopped = read_run(next((tmp_path/'own').glob('*.json')))
        assert stopped.status == 'running' and len(stopped.epochs) == int(last)+1
    finish(process(shapes, tmp_path))
    again = read_run(stopped.path)
    assert epochs(again) == epochs(through)
    assert again.answers().equals(through.answers())
    assert again.weights_path.read_bytes() == through.weights_path.read_bytes()


def test_fresh_forgets_every_run_before_the_first_begins(shapes, monkeypatch, tmp_path):
    "Else, stopped and gone on with, it would take an old seed for a new one"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    exp = Experiment('own', shapes, lambda ds: split_by_hash(ds, .25, .25), 'tf_efficientnet_lite0', Schedule.one_cycle(1), scale='sample', size=32, bs=8, arms=('random',), seeds=(0, 1))
    trained = []
    def say(run, row): trained.append(run.seed)
    def stop(run, row): raise KeyboardInterrupt
    exp.run(say=say)
    exp.run(say=say)
    assert trained == [0, 1]
    with pytest.raises(KeyboardInterrupt): exp.run(fresh=True, say=stop)
    exp.run(resume=True, say=say)
    assert trained == [0, 1, 1] # seed 0 had ended its one epoch
    with pytest.raises(CourseError, match='say one of them'): exp.run(resume=True, fresh=True)


def test_weights_that_are_not_the_runs_own(through):
    whole = through.weights_path.read_bytes()
    try:
        through.weights_path.write_bytes(save(load(whole), dict(classes='["cat", "dog"]')))
        with pytest.raises(CourseError, match='cat, dog apart, and .* belongs to another run'): load_learner_of(through)
        through.weights_path.write_bytes(whole[:1000])
        with pytest.raises(CourseError, match='is damaged'): load_learner_of(through)
        through.weights_path.unlink()
        with pytest.raises(CourseError, match=r'run --data FOLDER --scale sample --arch tf_efficientnet_lite0 --epochs 2 --fresh'): load_learner_of(through)
    finally: through.weights_path.write_bytes(whole)


def test_two_processes_on_one_run(shapes, tmp_path):
    first = process(shapes, tmp_path)
    while first.stdout.readline().strip() != '0': assert first.poll() is None, first.stderr.read()
    second = process(shapes, tmp_path)
    _, err = second.communicate('\n'*9, timeout=300)
    assert 'Another process is working on the run' in err
    finish(first)


def test_a_run_cut_short_is_told_by_name(through, tmp_path):
    p = tmp_path/'own'/'cut.json'
    p.parent.mkdir()
    p.write_text(through.path.read_text()[:500])
    with pytest.raises(CourseError, match='cut.json is damaged'): read_run(p)
    p.write_text('[]')
    with pytest.raises(CourseError, match='no run of this course'): read_run(p)


def test_a_damaged_run_does_not_hide_the_others(through, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(through.path.parent.parent))
    bad = through.path.with_name('bad.json')
    bad.write_text('{')
    with pytest.warns(UserWarning, match='bad.json is damaged'): assert through.name in [r.name for r in load_runs('own', committed=False)]
    bad.unlink()


def test_a_run_cut_short_goes_on_from_its_checkpoint(shapes, through, tmp_path):
    p = process(shapes, tmp_path)
    while p.stdout.readline().strip() != '0': assert p.poll() is None, p.stderr.read()
    p.kill(); p.wait()
    run = next((tmp_path/'own').glob('*.json'))
    run.write_text(run.read_text()[:300])
    finish(process(shapes, tmp_path))
    assert epochs(read_run(run)) == epochs(through)


def test_a_run_of_two_versions_of_the_code_is_in_no_commit(shapes, tmp_path):
    import torch
    p = process(shapes, tmp_path)
    while p.stdout.readline().strip() != '0': assert p.poll() is None, p.stderr.read()
    p.kill(); p.wait()
    path = next((tmp_path/'own').glob('*.checkpoint.pth'))
    state = torch.load(path, weights_only=False)
    state['run']['code'].update(modules=dict(state['run']['code']['modules'], models='000000000000'), dirty=False)
    torch.save(state, path)
    exam = path.with_name(path.name.replace('checkpoint.pth', 'exam.csv.gz'))
    exam.write_bytes(b'of other weights')
    finish(process(shapes, tmp_path))
    run = read_run(next((tmp_path/'own').glob('*.json')))
    assert run.code['dirty'] and run.code['modules']['models'] != '000000000000'
    assert not exam.exists()


def test_other_photos_under_the_same_names_are_other_photos(shapes, through, monkeypatch, tmp_path):
    from transfer_course.data.synthetic import make_pictures
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(through.path.parent.parent))
    make_pictures(tmp_path/'shapes', n=48, size=40, seed=1)
    exp = Experiment('own', str(tmp_path/'shapes'), lambda ds: split_by_hash(ds, .25, .25), 'tf_efficientnet_lite0', Schedule.fine_tune(2), scale='sample', size=32, bs=8, seeds=(0,))
    with pytest.raises(CourseError, match='another set of photos'): exp.run_one('pretrained', 0)


def test_patience_stops_and_the_best_epoch_is_kept(shapes, monkeypatch, tmp_path):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    schedule = Schedule.one_cycle(5, lr=1e-12) # nothing is learned, so no epoch after the first is better
    exp = Experiment('own', str(shapes), lambda ds: split_by_hash(ds, .25, .25), 'tf_efficientnet_lite0', schedule, scale='sample', size=32, bs=8, seeds=(0,), keep='best', patience=2)
    run = exp.run_one('pretrained', 0, say=lambda *a: None)
    best = max(e['valid_acc'] for e in run.epochs)
    assert len(run.epochs) == run.best_epoch+3 <= 5 and run.kept_epoch == run.best_epoch
    assert run.valid['acc'] == pytest.approx(best)
    assert not list(run.path.parent.glob('*.best.*')) and not list(run.path.parent.glob('*.checkpoint.*'))


def test_an_exported_learner_loads_in_a_fresh_process(shapes, through, monkeypatch, tmp_path):
    from transfer_course.train.predict import export
    photo = sorted(shapes.glob('*/*'))[0]
    pkl = export(through, tmp_path/'net.pkl')
    code = f"from fastai.learner import load_learner; print(load_learner({str(pkl)!r}).predict({str(photo)!r})[0])"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert out.stdout.strip() in through.settings['classes'], out.stderr


def cli(*args, **env):
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', 'import sys; from transfer_course.cli import main; sys.exit(main())', *map(str, args)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1', **env))
    assert 'Traceback' not in out.stderr, out.stderr
    return out


@pytest.mark.parametrize('args, says', [
    (['run', 'flours'], "did you mean 'flowers'"),
    (['run', 'flowers', '--scale', 'smple'], "did you mean 'sample'"),
    (['run', 'flowers', '--scale', 'sample', '--arch', 'resnet81'], "did you mean 'resnet18'"),
    (['run', 'flowers', '--scale', 'sample', '--arch', 'resnet50'], "asks no network"),
    (['run', 'flowers', '--scale', 'sample', '--weights', 'imagnet'], "There are no weights 'imagnet'"),
    (['run', 'flowers', '--seeds', 'x'], 'names no seeds'),
    (['run', '--data', 'no/such/folder'], 'no folder'),
    (['data', 'flwers'], "did you mean 'flowers'"),
    (['predict', 'nothing', 'a.jpg'], "There is no run 'nothing'"),
])
def test_errors_are_sentences(args, says, tmp_path):
    out = cli(*args, TRANSFER_COURSE_RUNS=str(tmp_path))
    assert out.returncode == 2 and says in out.stderr
    assert out.stderr.count('\n') == 1


def test_predict_and_export_by_name(through, shapes, tmp_path):
    env = dict(TRANSFER_COURSE_RUNS=str(through.path.parent.parent))
    photo = sorted(shapes.glob('*/*'))[0]
    out = cli('predict', through.name, photo, **env)
    assert out.returncode == 0 and str(photo) in out.stdout, out.stderr
    (tmp_path/'torn.jpg').write_bytes(photo.read_bytes()[:60])
    out = cli('predict', through.name, tmp_path/'torn.jpg', **env)
    assert out.returncode == 2 and 'torn.jpg' in out.stderr

def test_a_stopped_run_hides_no_finished_one(tmp_path, monkeypatch):
    from transfer_course.core import read_json, write_json
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    r = load_runs('flowers', own=False, status='finished')[0]
    write_json(tmp_path/'flowers'/f'{r.name}.json', read_json(r.path) | dict(status='running'))
    assert r.name in [o.name for o in load_runs('flowers', status='finished')]
