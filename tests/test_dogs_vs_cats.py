"The second chapter's module: what the command line relies on, the numbers of its article's log, and bad input"
import csv
import re
from types import SimpleNamespace as o

import pytest

from transfer_course.chapters.dogs_vs_cats import BUDGETS, FROZEN_LOG, RANDOM_LOG, chapter, right_of, time_to_beat
from transfer_course.chapters.submission import check_submission
from transfer_course.core import CourseError, course_path
from transfer_course.data.fetch import data_sets
from transfer_course.results.claims import evaluate, judge, read_claims
from transfer_course.results.store import load_study

CLAIMS = [c for c in read_claims() if c.article == 'dogs_vs_cats']

def test_the_articles_log():
    assert [e['epoch'] for e in FROZEN_LOG] == list(range(1, 24)) and [e['epoch'] for e in RANDOM_LOG] == list(range(92, 101))
    assert sum(e['seconds'] for e in FROZEN_LOG) == 2097 == evaluate('4*slow + 19*fast', dict(slow=92, fast=91))
    assert min(e['valid_acc'] for e in FROZEN_LOG) == FROZEN_LOG[18]['valid_acc'] == .9665
    assert all(abs(e['valid_acc'] - round(e['valid_acc']*4992)/4992) < 1e-4 for e in FROZEN_LOG + RANDOM_LOG)

def test_time_to_beat_asks_for_more_than_the_best():
    def run(*accs): return o(epochs=[o(epoch=i, valid_acc=a, total_seconds=10.*(i+1)) for i,a in enumerate(accs)])
    assert time_to_beat(run(.6, .8, .9), [run(.5, .8), run(.7)]) == (3, 30.)
    assert time_to_beat(run(.6, .8), [run(.9)]) is None

def test_the_list_of_doubtful_labels():
    entry = data_sets()['dogs-vs-cats']
    with open(course_path('data', 'splits', entry['known'])) as f: rows = list(csv.DictReader(f))
    assert len({r['name'] for r in rows}) == len(rows) == 63
    assert all(re.fullmatch(entry['label'], r['name']) for r in rows)
    assert sum('other animal' in r['says'] for r in rows) == 7 and sum('neither' in r['says'] for r in rows) == 15

def test_claims_of_the_log_come_out_as_computed():
    said = {c.id: judge(c).verdict for c in CLAIMS if c.rule in ('arithmetic', 'probability', 'literature')}
    wrong = {k.split('-')[1] for k,v in said.items() if v == 'does not hold'}
    assert wrong == {'1.1b', '1.1c', '1.3b', '1.3c', '1.3d', '1.3e', '1.8', '1.9', '1.12c', '1.15', '1.16c', '1.19b', '1.19d'}

def test_the_committed_submission():
    rows = check_submission(course_path('data', 'results', 'dogs_vs_cats', 'submission.csv'), list(range(1, 1001)))
    assert .45 < (rows.label > .5).mean() < .55
    row = next(r for r in load_study('dogs_vs_cats', 'submission') if r.get('chosen'))
    assert row['clip']-1e-9 <= rows.label.min() and rows.label.max() <= 1-row['clip']+1e-9

def test_studies_hold_what_they_say():
    heads = load_study('dogs_vs_cats', 'heads')
    assert heads and all(abs(right_of([r]).mean() - r['acc']) < 1e-9 for r in heads)
    with pytest.raises(CourseError, match="There is no study"): chapter.run_study('head')
    assert [b[0] for b in BUDGETS] == [50, 200, 1000, None]
