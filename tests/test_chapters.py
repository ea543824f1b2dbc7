"The chapters' modules: what the command line and the board rely on, each chapter's settings, and bad input."
import pytest
import torch

from transfer_course.chapters import captcha, dogs_vs_cats, flowers, pets
from transfer_course.cli import find_chapter, main
from transfer_course.core import CourseError, short_arch
from transfer_course.results.claims import read_claims
from transfer_course.results.config import Schedule
from transfer_course.results.store import load_counts

CHAPTERS = [o.chapter for o in (flowers, dogs_vs_cats, pets, captcha)]

def scales(chapter): return [chapter.experiment(o) for o in ('sample', 'quick', 'full')]

@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda o: o.name)
def test_runs_of_the_course_have_names_of_their_own(chapter):
    todo = chapter.experiments()
    names = [e.name(arm, seed) for e in todo for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names))
    assert {e.config.scale for e in todo} == ({'quick', 'sample'} if chapter.name == 'captcha' else {'quick'})
    assert chapter.experiment('quick').name(chapter.experiment('quick').arms[0], 0) in names

@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda o: o.name)
def test_committed_counts_answer_the_claims(chapter):
    wanted = {c.quantity for c in read_claims() if c.article == chapter.name and c.rule == 'count' and not c.missing}
    assert wanted and wanted <= set(load_counts(chapter.name))

@pytest.mark.parametrize('chapter', CHAPTERS, ids=lambda o: o.name)
def test_an_unknown_scale(chapter):
    with pytest.raises(CourseError, match="no scale 'quik'.*did you mean 'quick'"): chapter.experiment('quik')

def test_the_scales_of_flowers():
    sample, quick, full = scales(flowers.chapter)
    assert (sample.config.size, sample.seeds, sample.config.weights) == (96, (0,), 'imagenet')
    assert (quick.config.arch, quick.config.size, quick.config.schedule) == ('tf_efficientnet_lite0', 128, Schedule.fine_tune(3))
    assert (full.config.arch, full.config.size, full.config.bs, full.config.weights) == ('resnet18', 192, 64, 'imagenet')
    assert quick.seeds == full.seeds == (0, 1, 2)

def test_the_scales_of_dogs_vs_cats():
    sample, quick, full = scales(dogs_vs_cats.chapter)
    same = {(e.config.head, e.config.opt, e.config.wd, e.config.checkpoint, e.arms) for e in (sample, quick, full)}
    assert same == {('avg-1024', 'adam', 0, 'best', ('frozen', 'random'))}
    assert (quick.config.arch, quick.config.size, quick.seeds) == ('tf_efficientnet_lite0', 128, (0, 1, 2))
    f = full.config
    assert (f.arch, f.size, f.bs, f.schedule, f.weights) == ('inception_v3', 224, 64, Schedule.constant(100), 'imagenet')
    assert quick.config.schedule.with_epochs(100) == f.schedule

def test_the_scales_of_pets():
    sample, quick, full = scales(pets.chapter)
    assert (sample.config.size, sample.seeds, quick.config.size, quick.seeds) == (64, (0,), 100, (0, 1, 2))
    assert (full.config.arch, full.config.size, full.config.schedule.epochs, len(full.seeds)) == ('legacy_xception', 100, 30, 5)
    for c in (sample.config, quick.config, full.config):
        assert (c.head, c.augment, c.class_weights, c.checkpoint, c.wd, c.bs) == ('max', 'flip', True, 'best', 0., 16)

def test_changes_win_and_another_net_brings_its_size():
    assert flowers.chapter.experiment('sample', size=64, seeds=(3,)).seeds == (3,)
    assert pets.chapter.experiment('quick', schedule=Schedule.plateau(3)).config.schedule.epochs == 3
    def size(o, arch, **changes): return o.chapter.experiment('quick', arch=arch, **changes).config.size
    assert (size(flowers, 'inception_v3'), size(flowers, 'inception_v3', size=224)) == (192, 224)
    assert (size(dogs_vs_cats, 'inception_v3'), size(dogs_vs_cats, 'tf_efficientnet_lite1')) == (224, 128)
    with pytest.raises(CourseError, match="a size can't be asked for"): captcha.chapter.experiment('sample', size=96)

def test_near_weights_are_taken_only_from_a_mirror_and_announced(monkeypatch, tmp_path, capsys):
    def weights(**changes): return flowers.chapter.experiment('quick', arch='resnet18', **changes).config.weights
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

def test_a_chapter_by_either_name(capsys):
    def listed(name):
        assert main(['runs', name]) == 0
        return capsys.readouterr().out
    assert listed('dogs-vs-cats') == listed('dogs_vs_cats')

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
