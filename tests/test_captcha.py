"""Texts as targets: what the command line relies on, and what a page can't show."""
import subprocess, sys
from functools import partial

import pytest

from transfer_course.chapters.flowers import experiment, experiments
from transfer_course.data.captchas import CaptchaStyle, DIGITS, draw_texts, render, unique_texts, write_captchas
from transfer_course.results.claims import read_claims
from fastai.vision.all import load_counts
from transfer_course.core import CourseError
from transfer_course.results.config import Schedule
from transfer_course.results.store import read_run
from transfer_course.train.predict import predict
from transfer_course.train.loop import Experiment

TINY = CaptchaStyle(length=3, alphabet='0123456789ABCDEF', width=64, height=32, font_size=20)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "An experiment on a few tiny texts, in runs of its own"
    from transfer_course.train.chars import captcha_data, split_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path_factory.mktemp('runs')))
        data = partial(captcha_data, dict(train=40, valid=8, test=8), TINY)
        yield Experiment('captcha', data, split_texts, 'tf_efficientnet_lite0', Schedule.one_cycle(2), scale='sample', size=(32, 64), bs=8, head='max', target='text', seeds=(0,))


def test_a_run_that_reads_texts_resumes_to_the_same_end(tiny):
    def stop(run, row): raise KeyboardInterrupt
    want = tiny.run_one('random', 0, say=lambda *a: None)
    losses, answers = [e['valid_loss'] for e in want.epochs], want.answers()
    with pytest.raises(KeyboardInterrupt): tiny.run_one('random', 0, fresh=True, say=stop)
    with pytest.raises(KeyboardInterrupt): tiny.run_one('random', 0, resume=True, say=stop)
    again = tiny.run_one('random', 0, resume=True)
    assert [e['valid_loss'] for e in again.epochs] == losses
    assert again.answers().equals(answers)


def test_its_answers_are_characters_and_its_accuracies_agree_with_them(tiny):
    run, = tiny.evaluate_test([tiny.run_one('random', 0, say=lambda *a: None)])
    rows = read_run(run.path).answers()
    assert list(rows.columns) == ['part', 'name', 'place', 'target', 'pred', 'p_target', 'p_pred']
    for part, n in (('valid', 8), ('test', 8)):
        o, score = rows[rows.part == part], getattr(run, part)
        right = o.target == o.pred
        assert (score['n'], score['pictures'], score['correct']) == (3*n, n, right.sum())
        assert score['text']['correct'] == right.groupby(o.name).all().sum()
        assert score['places'] == pytest.approx(list(right.groupby(o.place).mean()))
    assert run.epochs[-1]['valid_acc'] == pytest.approx(run.valid['acc'])


def test_a_picture_is_read_with_a_confidence_for_each_character(tiny, tmp_path):
    from PIL import Image
    run = tiny.run_one('random', 0, say=lambda *a: None)
    name = run.split().valid[0]
    said, = predict(run, [tiny.dataset.path/name])
    assert len(said['pred']) == len(said['chars']) == 3 and all(0 < p <= 1 for _, p in said['chars'])
    Image.new('RGB', (50, 32)).save(tmp_path/'other.png')
    with pytest.raises(CourseError, match='50 × 32 pixels, and .* reads pictures of 64 × 32'): predict(run, [tmp_path/'other.png'])


@pytest.mark.parametrize('change, says', [
    (dict(alphabet='AAB'), "'A' twice"), (dict(alphabet='A'), 'two or more'), (dict(length=0), 'one or more'),
])
def test_styles_that_make_no_sense(change, says):
    with pytest.raises(CourseError, match=says): CaptchaStyle(**change)


def test_texts_and_numbers_that_do_not_fit(tmp_path):
    style = CaptchaStyle()
    with pytest.raises(CourseError, match='has 7 characters'): style.encode(['ABCDEFG'])
    with pytest.raises(CourseError, match="'é', which is not in the alphabet"): style.encode(['ABCDéA'])
    with pytest.raises(CourseError, match='Zero CAPTCHAs'): render([])
    with pytest.raises(CourseError, match='ask for fewer'): unique_texts(CaptchaStyle(length=2, alphabet=DIGITS), 'test', 50)
    with pytest.raises(CourseError, match='pixels wide on average'): render(draw_texts(style, 'train', [0]), style=CaptchaStyle(width=60))
    with pytest.raises(CourseError, match="has no '龍'"): render([[0, 1]], style=CaptchaStyle(length=2, alphabet='A龍'))
    write_captchas(tmp_path/'a', dict(train=3), TINY)
    with pytest.raises(CourseError, match='another style or seed'): write_captchas(tmp_path/'a', dict(train=3), TINY, seed=1)


def test_the_command_says_what_is_wrong():
    with pytest.raises(CourseError, match="no style 'digit'.*did you mean 'digits'"): experiment('sample', style='digit')
    with pytest.raises(CourseError, match="a size can't be asked for"): experiment('sample', size=96)


def test_runs_of_the_course_have_names_of_their_own():
    names = [e.name(arm, seed) for e in experiments() for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names))
    assert {e.name('pretrained', 0) for e in experiments()} >= {experiment('sample').name('pretrained', 0), experiment('quick').name('pretrained', 0)}


def test_committed_facts_answer_the_claims():
    facts = load_counts('captcha')['facts']
    assert {c.quantity for c in read_claims() if c.article == 'captcha' and c.rule == 'count' and not c.missing} <= set(facts)


def test_listing_the_runs_needs_no_torch():
    code = "import sys; from transfer_course.captcha import experiments; experiments(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
