"The pets chapter's module: what the command line relies on, and what a page can't show."
import numpy as np
import pytest
from PIL import Image

from transfer_course.chapters.pets import _listed_counts, chapter, clue_accuracy, source_clues
from transfer_course.core import CourseError, write_json
from transfer_course.data.sets import own_data
from transfer_course.data.splits import Split
from transfer_course.data.synthetic import make_pictures
from transfer_course.results.config import Schedule
from transfer_course.results.store import load_counts
from transfer_course.stats import epochs_to_converge, noise_of, stable_after

@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    return tmp_path/'runs'

def test_full_without_open_images_says_what_to_do(runs):
    with pytest.raises(CourseError, match='openimages'): _ = chapter.experiment('full').dataset

def test_lists_that_were_fetched_are_counted(runs):
    kept = {k for k in load_counts('pets') if k.startswith('open_images')}
    assert set(_listed_counts()) == kept  # what another machine counted stays
    lists = dict(train=dict(labelled=7, gone=1), validation=dict(labelled=2), test=dict(labelled=3))
    write_json(runs/'data'/'open-images-pets'/'lists'/'counts.json', lists)
    assert {k: o.value for k, o in _listed_counts().items()} == dict(open_images_train_labelled=7, open_images_test_labelled=3)

def test_the_articles_own_net_trains(runs, tmp_path):
    "Xception from random weights: an epoch over a few drawings, in the article's recipe"
    drawings = str(make_pictures(tmp_path/'drawings', 24))
    exp = chapter.experiment('full', data=drawings, arms=('random',), schedule=Schedule.plateau(1), seeds=(0,))
    run, = exp.run(log=lambda *o: None)
    assert run.net == 'legacy_xception' and len(run.epochs) == 1 and np.isfinite(run.epochs[0].train_loss)

def test_a_validation_part_smaller_than_a_batch(runs, tmp_path):
    pictures = make_pictures(tmp_path/'p', 30, ['red-circle', 'blue-square', 'green-star'], size=32)
    def split(ds):
        tenth = [[n for i, n in enumerate(ds.names) if i % 10 in part] for part in (range(3, 10), (1,), (0, 2))]
        return Split(*tenth)
    exp = chapter.experiment('sample', size=32, schedule=Schedule.plateau(2), data=str(pictures), split=split)
    run, = exp.evaluate_test([exp.run_one('random', 0, log=lambda *o: None)])
    assert (run.valid.n, run.test.n, len(run.epochs)) == (3, 6, 2)

def test_a_weight_for_an_empty_class(runs, tmp_path):
    pictures = make_pictures(tmp_path/'p', 12, ['red-circle', 'blue-square', 'green-star'], size=32)
    def split(ds): return Split([n for n in ds.names if 'star' not in n], [n for n in ds.names if 'star' in n])
    exp = chapter.experiment('sample', size=32, data=str(pictures), split=split)
    with pytest.raises(CourseError, match="no training photo of 'green-star'"): exp.run_one('random', 0, log=lambda *o: None)

@pytest.mark.parametrize('n,acc', [(472, .93), (2835, .95), (100, .6), (40, 1.)])
def test_a_still_net_is_called_still(n, acc):
    curves = np.random.default_rng(1).binomial(n, acc, (400, 30))/n
    assert np.mean([epochs_to_converge(o, n) == 1 for o in curves]) > .94

def test_a_jump_above_the_noise_is_seen():
    curve = [.5]*9 + [.93]*21
    assert (stable_after(curve), epochs_to_converge(curve, 472)) == (10, 10)
    assert noise_of(.9, 472) < noise_of(.9, 472, 30) < noise_of(.9, 100, 30)

def test_a_class_hidden_in_the_source_is_found(tmp_path):
    "Two classes of noise, one saved at another quality and in another shape: no object could tell them, the source does"
    rng = np.random.default_rng(0)
    for label, size, quality in (('a', (40, 30), 90), ('b', (30, 40), 40)):
        (tmp_path/label).mkdir()
        for i in range(60):
            noise = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path/label/f'{i:02}.jpg', quality=quality)
    ds = own_data(tmp_path)
    clues = source_clues(ds)
    found = clue_accuracy(ds, Split(ds.names[:40]+ds.names[60:100], [], ds.names[40:60]+ds.names[100:]),
                          {k: clues[k] for k in ('size', 'bytes')})
    assert found['size'] == found['bytes'] == (40, 40)
    assert {len(v) for v in clues.values()} == {120}

def test_nothing_is_found_where_nothing_hides(tmp_path):
    ds = own_data(make_pictures(tmp_path/'p', 120, ['red-circle', 'red-square'], size=32))
    right, n = clue_accuracy(ds, Split(ds.names[1::2], [], ds.names[::2]), {'size': source_clues(ds)['size']})['size']
    assert .2 < right/n < .8
