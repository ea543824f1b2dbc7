"""The first chapter's module: what the command line relies on, and what a page can't show."""
import pytest
import torch

from transfer_course.chapters.flowers import chapter
from transfer_course.cli import find_chapter
from transfer_course.core import CourseError, short_arch
from transfer_course.results.claims import read_claims
from transfer_course.results.config import Schedule
from transfer_course.results.store import load_counts

def test_the_three_scales():
    sample, quick, full = (chapter.experiment(o) for o in ('sample', 'quick', 'full'))
    assert (sample.config.size, sample.seeds, sample.config.weights) == (96, (0,), 'imagenet')
    assert (quick.config.arch, quick.config.size, quick.config.schedule) == ('tf_efficientnet_lite0', 128, Schedule.fine_tune(3))
    assert (full.config.arch, full.config.size, full.config.bs, full.config.weights) == ('resnet18', 192, 64, 'imagenet')
    assert quick.seeds == full.seeds == (0, 1, 2)


def test_changes_win_and_another_net_brings_its_size():
    assert chapter.experiment('sample', size=64, seeds=(3,)).seeds == (3,)
    assert chapter.experiment('quick', arch='inception_v3').config.size == 192
    assert chapter.experiment('quick', arch='inception_v3', size=224).config.size == 224
    with pytest.raises(CourseError, match='no scale'): chapter.experiment('sampel')


def test_near_weights_are_taken_only_from_a_mirror_and_announced(monkeypatch, tmp_path, capsys):
    def weights(**changes): return chapter.experiment('quick', arch='resnet18', **changes).config.weights
    for name in ('TRANSFER_COURSE_MIRROR', 'TRANSFER_COURSE_SHELF'): monkeypatch.delenv(name, raising=False)
    assert weights() == 'imagenet'
    assert weights(weights='random') == 'random'
    file = tmp_path/'weights'/'resnet18.near-imagenet.safetensors'
    file.parent.mkdir()
    file.write_bytes(b'')
    file.with_suffix('.json').write_text('{"arch": "resnet18", "library": "torchvision", "genuine": false, "official": false, '
                                         '"mean": [0, 0, 0], "std": [1, 1, 1]}')
    monkeypatch.setenv('TRANSFER_COURSE_MIRROR', str(tmp_path))
    capsys.readouterr()
    assert weights() == 'near-imagenet'
    assert 'close to them and not equal' in capsys.readouterr().out


def test_runs_of_the_course_have_names_of_their_own():
    todo = chapter.experiments()
    names = [e.name(arm, seed) for e in todo for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names))
    assert names[0] == 'quick-tf_efficientnet_lite0-128px-fine_tune3-pretrained-s0'
    assert {e.config.scale for e in todo} == {'quick'}


def test_committed_counts_answer_the_claims():
    counts = load_counts('flowers')
    assert {c.quantity for c in read_claims() if c.article == 'flowers' and c.rule == 'count'} <= set(counts)
    assert all(counts[f'photos_{c}'].value for c in ('daisy', 'dandelion', 'rose', 'sunflower', 'tulip'))

def test_the_ledger_s_experiments_are_those_of_the_chapters():
    for name in {c.article for c in read_claims()}:
        article = next(c.experiment for c in read_claims() if c.article == name)
        settings = {k: v for k,v in find_chapter(name).experiment('full').config.conditions().items() if k in article}
        settings['arch'] = short_arch(settings['arch'])
        want = {k: short_arch(v) if k == 'arch' else v for k,v in article.items() if k in settings}
        assert settings == want, name

def test_numbers_that_rows_take_from_nets_and_names():
    from timm.data import ImageNetInfo
    from torchvision.models import resnet18
    with torch.device('meta'): net = resnet18()
    convs = [k for k,m in net.named_modules() if isinstance(m, torch.nn.Conv2d)]
    given = {c.id: c.given for c in read_claims()}
    assert given['flowers-4.5b'] == dict(convolutions=len(convs), on_shortcuts=sum('downsample' in k for k in convs), dense=1)
    name = [ImageNetInfo().index_to_description(i, detailed=False).split(',')[0] for i in range(1000)]
    assert (name[936], name[946], name[948], name[957]) == ('head cabbage', 'cardoon', 'Granny Smith', 'pomegranate')
    assert [name[i] for i in (916, 917, 918, 922)] == ['web site', 'comic book', 'crossword puzzle', 'menu']
    assert given['pets-0.8f'] == dict(vegetables=946-935, fruit=957-947)
