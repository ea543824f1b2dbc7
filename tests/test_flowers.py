"""The first chapter's module: what the command line relies on, and what a page can't show."""
import subprocess, sys

import pytest

from transfer_course.results.claims import read_claims

from fastai.vision.all import load_counts
from transfer_course.core import CourseError
from transfer_course.data.sets import own_data
from transfer_course.data.splits import Split
from transfer_course.results.config import Schedule
from transfer_course.chapters.flowers import article_folders, experiment, experiments, nearest_photos
from transfer_course.data.synthetic import make_pictures


def test_the_three_scales():
    sample, quick, full = (experiment(o) for o in ('sample', 'quick', 'full'))
    assert (sample.size, sample.seeds, sample.weights) == (96, (0,), 'imagenet')
    assert (quick.arch, quick.size, quick.schedule, quick.seeds) == ('tf_efficientnet_lite0', 128, Schedule.fine_tune(3), (0, 1, 2))
    assert (full.arch, full.size, full.bs, full.weights) == ('resnet18', 192, 64, 'imagenet')


def test_changes_win_and_another_net_brings_its_size():
    assert experiment('sample', size=64, seeds=(3,)).seeds == (3,)
    assert experiment('quick', arch='inception_v3').size == 192
    assert experiment('quick', arch='inception_v3', size=224).size == 224
    with pytest.raises(CourseError, match='no scale'): experiment('sampel')


def test_near_weights_are_taken_only_from_a_shelf_and_announced(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    assert experiment('quick', arch='resnet18').weights == 'imagenet'
    assert experiment('quick', arch='resnet18', weights='random').weights == 'random'
    (tmp_path/'weights').mkdir()
    (tmp_path/'weights'/'resnet18.near-imagenet.safetensors').write_bytes(b'')
    (tmp_path/'weights'/'resnet18.near-imagenet.json').write_text(
        '{"arch": "resnet18", "library": "torchvision", "genuine": false, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path))
    capsys.readouterr()
    assert experiment('quick', arch='resnet18').weights == 'near-imagenet'
    assert 'close to them and not equal' in capsys.readouterr().out


def test_runs_of_the_course_have_names_of_their_own():
    names = [e.name(arm, seed) for e in experiments() for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names))
    assert names[0] == 'quick-tf_efficientnet_lite0-128px-fine_tune3-pretrained-s0'
    assert {e.scale for e in experiments()} == {'quick'}


def test_the_articles_folders(tmp_path):
    ds = own_data(make_pictures(tmp_path/'pictures', 12, ['red-star', 'blue-disc'][:1] + ['blue-circle'], size=16))
    split = Split(ds.names[:6], ds.names[6:9], ds.names[9:])
    path = article_folders(ds, split, tmp_path/'flowers')
    assert own_data(path).names == sorted(split.train+split.valid)
    assert len(list((path/'..'/'test').resolve().glob('*/*.jpg'))) == 3
    assert article_folders(ds, split, tmp_path/'flowers') == path  # a second call leaves them alone


def test_nearest_photos_leave_the_photo_itself_out():
    import numpy as np
    f = np.array([[1, 0], [2, .1], [0, 1], [-1, 0]], float)
    assert nearest_photos(f, 0, 2) == [1, 2]
    assert 0 not in nearest_photos(f, 0, 3)


def test_committed_facts_answer_the_claims():
    facts = load_counts('flowers')['facts']
    asked = {c.quantity for c in read_claims() if c.article == 'flowers' and c.rule == 'count'}
    assert asked <= set(facts)
    assert all(facts[f'photos_{c}']['value'] for c in ('daisy', 'dandelion', 'rose', 'sunflower', 'tulip'))


def test_listing_the_runs_needs_no_torch():
    code = "import sys; from transfer_course.flowers import experiments; experiments(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
