"""Texts as targets: what the command line relies on, and what a page can't show."""
from functools import partial

import pytest

from transfer_course.chapters.captcha import pictures_of
from transfer_course.core import CourseError
from transfer_course.data.captchas import DIGITS, CaptchaStyle, _unique_texts, draw_texts, render, write_captchas
from transfer_course.results.config import Schedule
from transfer_course.results.store import read_run
from transfer_course.train.loop import Experiment
from transfer_course.train.predict import predict

TINY = CaptchaStyle(length=3, alphabet='0123456789ABCDEF', width=64, height=32, font_size=20)

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "An experiment on a few tiny texts, in runs of its own"
    from transfer_course.train.chars import captcha_data, split_texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path_factory.mktemp('runs')))
        data = partial(captcha_data, dict(train=40, valid=8, test=8), TINY)
        config = dict(arch='tf_efficientnet_lite0', schedule=Schedule.one_cycle(2), scale='sample', size=(32, 64), bs=8, head='max',
                      target='text')
        yield Experiment('captcha', data, split_texts, seeds=(0,), **config)

def test_a_run_that_reads_texts_resumes_to_the_same_end(tiny):
    def stop(run, row): raise KeyboardInterrupt
    want = tiny.run_one('random', 0, log=lambda *a: None)
    losses, answers = [e.valid_loss for e in want.epochs], want.predictions()
    with pytest.raises(KeyboardInterrupt): tiny.run_one('random', 0, fresh=True, log=stop)
    with pytest.raises(KeyboardInterrupt): tiny.run_one('random', 0, resume=True, log=stop)
    again = tiny.run_one('random', 0, resume=True)
    assert [e.valid_loss for e in again.epochs] == losses
    assert again.predictions().equals(answers)

def test_its_answers_are_characters_and_its_accuracies_agree_with_them(tiny):
    run, = tiny.evaluate_test([tiny.run_one('random', 0, log=lambda *a: None)])
    rows = read_run(run.path).predictions()
    assert list(rows.columns) == ['part', 'name', 'place', 'target', 'pred', 'p_target', 'p_pred']
    for part, n in (('valid', 8), ('test', 8)):
        o, score = rows[rows.part == part], getattr(run, part)
        right = o.target == o.pred
        assert (score.n, score.pictures, score.correct) == (3*n, n, right.sum())
        assert score.text.correct == right.groupby(o.name).all().sum()
        assert list(score.places) == pytest.approx(list(right.groupby(o.place).mean()))
    assert run.epochs[-1].valid_acc == pytest.approx(run.valid.acc)

def test_a_picture_is_read_with_a_confidence_for_each_character(tiny, tmp_path):
    from PIL import Image
    run = tiny.run_one('random', 0, log=lambda *a: None)
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
    with pytest.raises(CourseError, match='ask for fewer'): _unique_texts(CaptchaStyle(length=2, alphabet=DIGITS), 'test', 50)
    with pytest.raises(CourseError, match='pixels wide on average'): render(draw_texts(style, 'train', [0]), style=CaptchaStyle(width=60))
    with pytest.raises(CourseError, match="has no '龍'"): render([[0, 1]], style=CaptchaStyle(length=2, alphabet='A龍'))
    with pytest.raises(CourseError, match="no style 'digit'.*did you mean 'digits'"): pictures_of('digit', dict(train=1))
    write_captchas(tmp_path/'a', dict(train=3), TINY)
    with pytest.raises(CourseError, match='another style or seed'): write_captchas(tmp_path/'a', dict(train=3), TINY, seed=1)
