"The pets chapter's module: what the command line relies on, and what a page can't show."
import subprocess, sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest

from transfer_course.results.claims import read_claims

from fastai.vision.all import load_counts
from transfer_course.core import CourseError, write_json
from transfer_course.data.sets import own_data
from transfer_course.data.splits import Split
from transfer_course.stats import stable_after
from transfer_course.results.config import Schedule
from transfer_course.stats import noise_of
from transfer_course.chapters.flowers import experiment, experiments
from transfer_course.chapters.pets import _listed_facts, clue_accuracy, correct_prior, estimate_prior, recalls, source_clues, stopped_early
from fastai.vision.all import epochs_to_converge
from transfer_course.data.synthetic import make_pictures

PUBLISHED = np.array([87.41, 90.90, 93.83, 93.69, 91.64, 89.91, 91.75, 96.47, 91.85, 83.49])/100

def test_the_three_scales():
    sample, quick, full = (experiment(o) for o in ('sample', 'quick', 'full'))
    assert (sample.size, sample.seeds, quick.size, quick.seeds) == (64, (0,), 100, (0, 1, 2))
    assert (full.arch, full.size, full.bs, full.schedule.epochs, len(full.seeds)) == ('legacy_xception', 100, 16, 30, 5)
    for e in (sample, quick, full): assert (e.head, e.augment, e.class_weights, e.keep, e.wd, e.bs) == ('max', 'flip', True, 'best', 0., 16)
    assert experiment('quick', schedule=Schedule.plateau(3)).schedule.epochs == 3
    with pytest.raises(CourseError, match='no scale'): experiment('quik')

def test_full_without_open_images_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    with pytest.raises(CourseError, match='python -m transfer_course.openimages'): experiment('full').dataset

def test_lists_that_were_fetched_are_counted(tmp_path):
    assert _listed_facts(tmp_path) == {}
    write_json(tmp_path/'lists'/'counts.json', dict(train=dict(labelled=7, gone=1), validation=dict(labelled=2), test=dict(labelled=3)))
    assert {k: o['value'] for k,o in _listed_facts(tmp_path).items()} == dict(open_images_train_labelled=7, open_images_test_labelled=3)

def test_the_articles_own_net_trains(tmp_path, monkeypatch):
    "Xception from random weights: an epoch over a few drawings, in the article's recipe"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    drawings = make_pictures(tmp_path/'drawings', 40)
    run, = replace(experiment('full'), data=drawings, arms=('random',), schedule=Schedule.plateau(1), seeds=(0,)).run()
    assert run.net == 'legacy_xception' and len(run.epochs) == 1 and np.isfinite(run.epochs[0]['train_loss'])

def test_runs_of_the_course_have_names_of_their_own():
    names = [e.name(arm, seed) for e in experiments() for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names)) and {e.scale for e in experiments()} == {'quick'}

def test_the_published_curve_is_never_stable():
    assert stable_after(PUBLISHED) is None and epochs_to_converge(PUBLISHED, 2835) is None
    assert epochs_to_converge(PUBLISHED[:8], 2835) == 8  # a curve is always near its own end

@pytest.mark.parametrize('n,acc', [(472, .93), (2835, .95), (100, .6), (40, 1.)])
def test_a_still_net_is_called_still(n, acc):
    rng = np.random.default_rng(1)
    curves = rng.binomial(n, acc, (400, 30))/n
    assert np.mean([epochs_to_converge(o, n) == 1 for o in curves]) > .94

def test_a_jump_above_the_noise_is_seen():
    curve = [.5]*9 + [.93]*21
    assert (stable_after(curve), epochs_to_converge(curve, 472)) == (10, 10)
    assert noise_of(.9, 472) < noise_of(.9, 472, 30) < noise_of(.9, 100, 30)

def test_early_stopping_at_its_edges():
    run = lambda *losses: SimpleNamespace(epochs=[dict(valid_loss=l, valid_acc=1-l) for l in losses])
    assert stopped_early(run(.5, .4, .3), 1) == dict(stopped=3, saved=0, kept=.7, best=.7)
    assert stopped_early(run(.3, .4, .5), 1)['stopped'] == 2
    assert stopped_early(run(.3), 5)['stopped'] == 1

def test_priors():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([.3]*3, 1000)
    assert np.allclose(correct_prior(p, [1/3]*3, [1/3]*3), p)
    assert np.allclose(correct_prior(p, [.2, .3, .5], [.6, .1, .3]).sum(1), 1)
    back = correct_prior(correct_prior(p.clip(1e-6), [.2, .3, .5], [.6, .1, .3]), [.6, .1, .3], [.2, .3, .5])
    assert np.allclose(back, p.clip(1e-6)/p.clip(1e-6).sum(1, keepdims=True), atol=1e-9)
    truth = rng.choice(3, 20_000, p=[.7, .2, .1])
    x = rng.normal(np.array([0., 2, 4])[truth], 1)
    likelihood = np.exp(-(x[:, None]-np.array([0, 2, 4]))**2/2)
    posterior = likelihood/likelihood.sum(1, keepdims=True)  # of a net that was trained on thirds
    assert np.allclose(estimate_prior(posterior, [1/3]*3), [.7, .2, .1], atol=.02)

def test_recalls_know_no_mixture():
    rows = pd.DataFrame(dict(target=['a']*90+['b']*10, pred=['a']*90+['a']*5+['b']*5))
    assert recalls(rows) == dict(a=1., b=.5, balanced=.75)

def test_a_class_hidden_in_the_source_is_found(tmp_path):
    "Two classes of noise, one saved at another quality and in another shape: no object could tell them, the source does"
    from PIL import Image
    rng = np.random.default_rng(0)
    for label,size,quality in (('a', (40, 30), 90), ('b', (30, 40), 40)):
        (tmp_path/label).mkdir()
        for i in range(60): Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path/label/f'{i:02}.jpg', quality=quality)
    ds = own_data(tmp_path)
    split = Split(ds.names[:40]+ds.names[60:100], [], ds.names[40:60]+ds.names[100:])
    clues = source_clues(ds)
    found = clue_accuracy(ds, split, clues)
    assert found['size'] == found['bytes'] == (40, 40)
    assert {len(v) for v in clues.values()} == {120}

def test_nothing_is_found_where_nothing_hides(tmp_path):
    ds = own_data(make_pictures(tmp_path/'p', 120, ['red-circle', 'red-square'], size=32))
    split = Split([n for i,n in enumerate(ds.names) if i%2], [], [n for i,n in enumerate(ds.names) if not i%2])
    right,n = clue_accuracy(ds, split, source_clues(ds))['size']
    assert .2 < right/n < .8

def test_a_validation_part_smaller_than_a_batch(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    pictures = make_pictures(tmp_path/'p', 30, ['red-circle', 'blue-square', 'green-star'], size=32)
    split = lambda ds: Split([n for i,n in enumerate(ds.names) if i%10 > 2], [n for i,n in enumerate(ds.names) if i%10 == 1], [n for i,n in enumerate(ds.names) if i%10 in (0, 2)])
    e = experiment('sample', size=32, schedule=Schedule.plateau(2))
    e.data,e.split = str(pictures), split
    run, = e.evaluate_test([e.run_one('random', 0, say=lambda *o: None)])
    assert (run.valid['n'], run.test['n'], len(run.epochs)) == (3, 6, 2)

def test_a_weight_for_an_empty_class(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    pictures = make_pictures(tmp_path/'p', 12, ['red-circle', 'blue-square', 'green-star'], size=32)
    e = experiment('sample', size=32)
    e.data = str(pictures)
    e.split = lambda ds: Split([n for n in ds.names if 'star' not in n], [n for n in ds.names if 'star' in n])
    with pytest.raises(CourseError, match="no training photo of 'green-star'"): e.run_one('random', 0, say=lambda *o: None)

def test_committed_facts_answer_the_claims():
    facts = load_counts('pets').get('facts')
    if not facts: pytest.skip('nothing was counted yet')
    asked = {c.quantity for c in read_claims() if c.article == 'pets' and c.rule == 'count' and not c.missing}
    assert asked <= set(facts)

def test_listing_the_runs_needs_no_torch():
    code = "import sys; from transfer_course.pets import experiments; experiments(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
