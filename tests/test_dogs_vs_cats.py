"The second chapter's module: what the command line relies on, the numbers of its article's log, and bad input"
import subprocess, sys

import numpy as np, pytest

from transfer_course.results.claims import evaluate, judge, read_claims

from fastai.vision.all import load_counts
from transfer_course.cli import main
from transfer_course.core import CourseError, course_path
from transfer_course.data.fetch import data_sets
from transfer_course.data.sets import get_data
from transfer_course.chapters.flowers import experiment, experiments
from transfer_course.chapters.dogs_vs_cats import BUDGETS, FROZEN_LOG, RANDOM_LOG, article_epochs, fit_head, load_study, right_of, run_study
                                          simulated_bias, split_article, time_to_beat, selection_bias)
from transfer_course.stats import early_stop
from transfer_course.results.config import Schedule
from transfer_course.chapters.submission import check_submission


def test_the_three_scales():
    sample, quick, full = (experiment(o) for o in ('sample', 'quick', 'full'))
    assert {(o.head, o.opt, o.wd, o.keep, o.arms) for o in (sample, quick, full)} == {('avg-1024', 'adam', 0, 'best', ('frozen', 'random'))}
    assert (quick.arch, quick.size, quick.seeds) == ('tf_efficientnet_lite0', 128, (0, 1, 2))
    assert (full.arch, full.size, full.bs, full.schedule, full.weights) == ('inception_v3', 224, 64, Schedule.constant(100), 'imagenet')
    assert experiment('quick', arch='inception_v3').size == 224 and experiment('quick', arch='tf_efficientnet_lite1').size == 128

def test_the_chapter_by_either_name(capsys):
    def listed(name):
        assert main(['runs', name, '--list']) == 0
        return capsys.readouterr().out
    assert listed('dogs-vs-cats') == listed('dogs_vs_cats')

def test_epochs_on_the_command_line_are_the_articles():
    assert experiment('quick').schedule.with_epochs(100) == Schedule.constant(100)

def test_runs_of_the_course_have_names_of_their_own():
    names = [e.name(arm, seed) for e in experiments() for seed in e.seeds for arm in e.arms]
    assert len(names) == len(set(names)) and {e.scale for e in experiments()} == {'quick'}

def test_listing_the_runs_needs_no_torch():
    code = "import sys; from transfer_course.dogs_vs_cats import experiments; experiments(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

def test_the_articles_log():
    assert [o['epoch'] for o in FROZEN_LOG] == list(range(1, 24)) and [o['epoch'] for o in RANDOM_LOG] == list(range(92, 101))
    assert sum(o['seconds'] for o in FROZEN_LOG) == 2097 == evaluate('4*slow + 19*fast', dict(slow=92, fast=91))
    assert min(o['valid_acc'] for o in FROZEN_LOG) == FROZEN_LOG[18]['valid_acc'] == .9665
    assert all(abs(o['valid_acc'] - round(o['valid_acc']*4992)/4992) < 1e-4 for o in FROZEN_LOG + RANDOM_LOG)

def test_the_split():
    ds = get_data('dogs-vs-cats', 'sample')
    a,b = split_article(ds), split_article(ds, 1)
    assert a.sizes == b.sizes and a.fingerprint != b.fingerprint and (a.name, b.name) == ('article', 'article-1')

@pytest.mark.parametrize('n,bs', [(20_000, 64), (130, 64), (64, 64), (65, 64)])
def test_the_generator_goes_round_and_round(n, bs):
    seen = np.concatenate(article_epochs(n, bs, 5))
    assert (seen == np.arange(len(seen)) % n).all() and len(seen) == 5*(n//bs)*bs

def test_early_stopping_keeps_the_first_of_the_best():
    assert early_stop([.5, .7, .7, .6], 5) == (4, 2)
    assert early_stop([.5], 1) == (1, 1)
    assert early_stop([.5, .4, .9], 1) == (2, 1)

def test_time_to_beat_asks_for_more_than_the_best():
    from types import SimpleNamespace as o
    run = lambda *accs: o(epochs=[dict(epoch=i, valid_acc=a, total_seconds=10.*(i+1)) for i,a in enumerate(accs)])
    assert time_to_beat(run(.6, .8, .9), [run(.5, .8), run(.7)]) == (3, 30.)
    assert time_to_beat(run(.6, .8), [run(.9)]) is None

def test_luck_of_the_winner():
    rng = np.random.default_rng(0)
    right = rng.random((40, 400)) < .9                                      # forty epochs that are equally good
    measured = selection_bias(right)
    assert .5 < measured['bias']/(simulated_bias(.9, 200, 40)) < 2
    steady = np.tile(right[:1], (40, 1))
    assert abs(selection_bias(steady)['bias']) < .02                          # no epoch differs: nothing to choose

def test_heads_learn_and_refuse():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8)).astype(np.float32); y = (x[:, 0] > 0).astype(int)
    for kw in (dict(), dict(hidden=()), dict(opt='momentum', lr=.05), dict(opt='rmsprop'), dict(opt='sgd', lr=.3), dict(dropout=.2), dict(mirrored=x)):
        assert fit_head(x[:150], y[:150], x[150:], y[150:], epochs=20, bs=8, **({'hidden': (16,)} | kw))['valid_acc'][-1] > .85, kw
    with pytest.raises(CourseError, match='width 0'): fit_head(x, y, x, y, hidden=(4, 0))
    with pytest.raises(CourseError, match='one class'): fit_head(x, y*0, x, y)

def test_a_head_of_width_0_in_the_engine():
    from transfer_course.train.models import make_head
    with pytest.raises(CourseError, match="no head 'avg-0'"): make_head('avg-0', 8, 2)

def test_the_list_of_doubtful_labels():
    import csv
    entry = data_sets()['dogs-vs-cats']
    with open(course_path('data', 'splits', entry['known'])) as f: rows = list(csv.DictReader(f))
    assert len({o['name'] for o in rows}) == len(rows) == 63
    import re
    assert all(re.fullmatch(entry['label'], o['name']) for o in rows)
    assert sum('other animal' in o['says'] for o in rows) == 7 and sum('neither' in o['says'] for o in rows) == 15

def test_claims_of_the_log_come_out_as_computed():
    said = {c.id: judge(c).verdict for c in read_claims() if c.article == 'dogs_vs_cats' and c.rule in ('arithmetic', 'probability', 'literature')}
    wrong = {k.split('-')[1] for k,v in said.items() if v == 'does not hold'}
    assert wrong == {'1.1b', '1.3b', '1.3c', '1.8', '1.9', '1.12c', '1.15', '1.16c', '1.19'}

def test_committed_facts_answer_the_claims():
    facts = load_counts('dogs_vs_cats').get('facts', {})
    asked = {c.quantity for c in read_claims() if c.article == 'dogs_vs_cats' and c.rule == 'count' and not c.missing}
    assert asked <= set(facts)

def test_the_committed_submission():
    rows = check_submission(course_path('data', 'results', 'dogs_vs_cats', 'submission.csv'), list(range(1, 1001)))
    assert .45 < (rows.label > .5).mean() < .55
    row = next(o for o in load_study('submission') if o.get('chosen'))
    assert row['clip']-1e-9 <= rows.label.min() and rows.label.max() <= 1-row['clip']+1e-9

def test_studies_hold_what_they_say():
    heads = load_study('heads')
    assert all(abs(right_of([o]).mean() - o['acc']) < 1e-9 for o in heads)
    with pytest.raises(CourseError, match='There is no study'): run_study('head')
    assert [o[0] for o in BUDGETS] == [50, 200, 1000, None]
