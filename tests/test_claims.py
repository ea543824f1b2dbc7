"The edges of the rules, and what a damaged list of claims does"
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up import a_run as plain_run
from made_up import an_epoch

from transfer_course.core import CourseError
from transfer_course.results.claims import (
    CONDITIONS,
    VERDICTS,
    Claim,
    agrees,
    board,
    board_text,
    evaluate,
    judge,
    read_claims,
    roads,
    stale,
    tally,
)
from transfer_course.results.config import Config
from transfer_course.results.provenance import TRAINING_VERSION, TRAINING_VERSIONS
from transfer_course.results.store import Count, DataInfo, Run, Study, load_runs, score
from transfer_course.stats import fits, predictive_chance, seed_interval

ROW = dict(id='"x-1"', article='"x"', says='"…"', quantity='"valid.acc"', value='0.9', unit='"rate"', how='"run"', rule='"rate"',
           source='"…"', tolerance='0.02', conditions='{size = 192}', seeds='3', since='"2026-11-21"')

def toml(**changes):
    "A list of one claim; None leaves a key out"
    return '[[claim]]\n' + ''.join(f'{k} = {v}\n' for k,v in (ROW|changes).items() if v is not None)

def claim(**kw):
    usual = dict(id='x-1', article='x', says='…', quantity='valid.acc', value=0.9, unit='rate', how='run', rule='rate', source='…',
                 tolerance=0.03, conditions=dict(arm='pretrained', size=192))
    return Claim(**usual | kw)

class Judged(Run):
    "A run whose plateau and first wrong photos are given"
    def plateaued(self): return self.flat
    def predictions(self):
        photos = range(self.valid.n)
        pred = ['b' if i < self.wrong else 'a' for i in photos]
        return pd.DataFrame(dict(part='valid', name=list(map(str, photos)), target='a', pred=pred))

def run(acc=.9, seed=0, flat=True, wrong=0, **kw):
    r = plain_run(acc, seed, **kw)
    r = Judged(**r.__dict__)
    for k,v in dict(flat=flat, wrong=wrong).items(): object.__setattr__(r, k, v)
    return r

def seeds(*accs, **kw): return [run(a, i, **kw) for i,a in enumerate(accs)]


def test_a_rate_holds_only_inside_a_narrow_interval():
    assert judge(claim(), seeds(.897, .9, .903)).verdict == 'holds'
    assert judge(claim(value=.95), seeds(.895, .895, .896)).verdict == 'does not hold'
    v = judge(claim(value=.2), seeds(.70, .90, .99)) # nor does a sloppy result refute
    assert v.verdict == 'undecided' and 'wider than the tolerance of ±3 %' in v.reason

def test_the_edge_of_the_tolerance():
    runs = seeds(.9, .9, .9)
    _,lo,hi = seed_interval([r.valid.acc for r in runs], 813)
    half = (hi-lo)/2
    assert judge(claim(tolerance=half+1e-6), runs).verdict == 'holds'
    assert judge(claim(tolerance=half-1e-6), runs).verdict == 'undecided'

@pytest.mark.parametrize('kw,why', [
    (dict(official=False), 'the weights are not official'), (dict(size=224), 'size: 224, not 192'),
    (dict(data=dict(complete=False)), 'only a part'), (dict(data=dict(proxy='cats')), 'a proxy'),
    (dict(per_class=10), 'per class: 10, not all')])
def test_other_conditions_are_not_comparable(kw, why):
    v = judge(claim(), seeds(.9, .9, .9, **kw))
    assert v.verdict == 'not comparable' and why in v.reason
    assert v.ours == pytest.approx(.9, abs=.001) and v.seeds == 3 and v.n == 813 and len(v.rests_on) == 3

def test_every_setting_is_a_condition():
    assert set(Config.__dataclass_fields__) < set(CONDITIONS) == set(run().conditions())
    for k,want in dict(opt='sgd', wd=.1, smoothing=.1, ema=.9, class_weights=True).items():
        v = judge(claim(conditions={k: want}), seeds(.9, .9, .9))
        assert v.verdict == 'not comparable' and k.replace('_', ' ').replace('opt', 'optimizer') in v.reason

def test_the_nearest_runs_are_the_ones_judged():
    assert judge(claim(), seeds(.5, .5, .5, size=64, official=False) + seeds(.9, .9, .9)).verdict == 'holds'

def test_seconds_on_a_gpu_are_not_judged_on_a_cpu():
    c = claim(rule='measure', quantity='epoch_seconds', value=10, unit='s', tolerance=2, conditions=dict(arm='pretrained', gpu='A'))
    assert judge(c, seeds(.9, .9, .9)).verdict == 'not measured'
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='B'))).verdict == 'not comparable'
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='A'))).verdict == 'holds'
    slow = an_epoch(), an_epoch(1, phase=1, seconds=30.)
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='A'), epochs=slow)).verdict == 'does not hold'

def test_a_loss_without_an_open_test_is_no_measure():
    c = claim(rule='measure', quantity='test.loss', value=.1, unit='nats', tolerance=.1)
    assert judge(c, seeds(.9, .9, .9)).verdict == 'not measured'


ORDER = claim(rule='ordering', value=0, unit='difference', arms=['pretrained', 'random'], conditions=dict(data='x'), tolerance=None)

def arms(wrong=(40, 120), k=3, **kw):
    sides = zip(ORDER.arms, wrong, strict=True)
    return [run(1-(w+i)/400, i, arm=arm, wrong=w+i, n=400, **kw) for arm,w in sides for i in range(k)]

def test_an_order_is_judged_at_quick_and_says_so():
    v = judge(ORDER, arms())
    assert v.verdict == 'holds' and 'at scale quick' in v.reason and v.interval[0] > 0 and (v.seeds, v.n) == (3, 400)
    assert judge(ORDER, arms((120, 40))).verdict == 'does not hold'
    assert judge(ORDER, arms((40, 40))).verdict == 'undecided'
    assert judge(ORDER, arms(scale='sample')).verdict == 'not measured'

def test_all_experiments_are_weighed_and_the_worst_decides():
    near = arms((40, 90), size=224)
    v = judge(ORDER, arms() + near + arms((40, 60), size=128, official=False))
    assert v.verdict == 'holds' and set(v.rests_on) == {r.name for r in near} and 'whose weights are not official' in v.reason
    assert len(v.others) == 2 and all(o in v.told for o in v.others)
    assert judge(ORDER, arms() + arms((90, 40), size=224)).verdict == 'does not hold'

def test_every_proxy_of_an_order_is_named_and_stops_a_figure():
    article = dict(arch='timm:xception', data='others', classes=3, train=9000, size=192, bs=16, schedule='plateau30')
    v = judge(replace(ORDER, experiment=article), arms())
    names = [o.partition(':')[0] for o in v.proxies]
    assert v.verdict == 'holds' and names == ['net', 'data', 'classes', 'training photos', 'batch', 'schedule']
    assert judge(claim(experiment=article), seeds(.9, .9, .9)).verdict == 'not comparable'
    assert judge(claim(experiment=article, relation='>', value=.8), seeds(.9, .9, .9)).verdict == 'holds'

def test_an_arm_stopped_early_loses_by_construction():
    runs = arms()
    object.__setattr__(runs[-1], 'flat', False)
    v = judge(ORDER, runs)
    assert v.verdict == 'not measured' and 'random had fewer than eight epochs' in v.reason
    object.__setattr__(runs[-1], 'epochs', tuple(map(an_epoch, range(8))))
    v = judge(ORDER, runs)
    assert v.verdict == 'not measured' and 'random was still improving' in v.reason
    assert judge(replace(ORDER, rule='budget'), runs).verdict == 'holds' # a claim about the budget


def count(**kw):
    usual = dict(rule='count', how='count', quantity='photos', value=10, unit='photos', tolerance=None, conditions=dict(data='x'))
    return claim(**usual | kw)

@pytest.mark.parametrize('relation,yes,no', [('=', 10, 10.5), ('<', 9, 10), ('<=', 10, 11), ('>', 11, 10), ('>=', 10, 9)])
def test_relations(relation, yes, no): assert agrees(count(relation=relation), yes) and not agrees(count(relation=relation), no)

def test_a_count_whose_interval_reaches_to_both_sides():
    share = dict(photos=Count(.5, 'a share', 100, (.4, .6), data=DataInfo('x')))
    assert judge(count(relation='>', value=.45), counts=share).verdict == 'undecided'
    assert judge(count(relation='>', value=.3), counts=share).verdict == 'holds'

def test_one_figure_without_its_spread_settles_nothing():
    one = dict(photos=Count(2.5, 'a timing', data=DataInfo('x')))
    assert judge(count(relation='>', value=1, seeds=5), counts=one).verdict == 'undecided'
    assert judge(count(relation='>', value=1), counts=one).verdict == 'holds'

def test_a_loss_knows_its_photos_and_is_never_negative():
    def lost(p, seed):
        r = run(.9, seed, n=100, classes=('a', 'b'))
        rows = pd.DataFrame(dict(part='test', name=map(str, range(100)), target='a', pred='a', p_a=p, p_b=1-p))
        object.__setattr__(r, 'predictions', lambda: rows)
        object.__setattr__(r, 'test', score(rows, ('a', 'b')))
        return r
    c = claim(rule='measure', quantity='test.loss', value=.2, unit='nats', tolerance=1, conditions={})
    photos = np.tile([.99, .9, .5, .999], 25)
    v = judge(c, [lost(photos, i) for i in range(3)])
    losses = -np.log(photos)
    assert v.interval == pytest.approx((losses.mean()-.196*losses.std(), losses.mean()+.196*losses.std()))
    assert judge(c, [lost(photos**k, i) for i,k in enumerate((.01, .01, 3))]).interval[0] == 0

def test_two_lines_of_a_study_are_paired():
    def row(line, seed, wrong): return dict(line=line, seed=seed, right='0'*wrong + '1'*(400-wrong), arch='resnet18', size=32)
    rows = [row(line, i, w+i) for line,w in (('a', 40), ('b', 120)) for i in range(3)]
    study = dict(tried=Study('x', 'tried', tuple(rows), DataInfo('x')))
    c = claim(rule='study', quantity='tried', value=0, unit='difference', relation='>', by='line', arms=('a', 'b'), conditions={},
              experiment=dict(arch='timm:xception', size=32))
    v = judge(c, counts=study)
    assert (v.verdict, v.seeds, v.n) == ('holds', 3, 400) and v.ours == pytest.approx(.2) and v.proxies == ['net: resnet18, not xception']
    assert judge(replace(c, arms=('b', 'a')), counts=study).verdict == 'does not hold'
    assert judge(replace(c, arms=('a', 'c')), counts=study).verdict == 'not measured'

def test_formulas_can_do_no_harm():
    for bad in ('__import__("os")', 'passes.real', '[1, 2]', 'lambda: 1', 'fits("0.1", n=3)'):
        with pytest.raises(CourseError): evaluate(bad, dict(passes=4))

def test_the_number_that_fools():
    assert predictive_chance(250, 250, 740, 813) == pytest.approx(1.1e-9, rel=.02)
    assert fits('0.0898', 813) == [73] and not fits('0.0898', 798)


@pytest.mark.parametrize('text,says', [
    (toml(source=None), 'required field `source`'), (toml(id=None), "claim '?': Object missing required field `id`"),
    (toml(how='"count"'), "the rule 'rate' judges by 'run'"), (toml(value='"0.9"'), 'got `str` - at `value`'),
    (toml(value='true'), 'got `bool` - at `value`'), (toml(relation='"=="'), 'one of = < <= > >='),
    (toml(conditions='{genuine = true}'), "no condition 'genuine'"),
    ('# first\n\n' + toml() + toml(), "line 17, claim 'x-1': the id stands at line 3 already"), ('[claims]\n', "and there is 'claims'"),
    ('claim = 3\n', "[article.…] only, and there is 'claim'"), (toml(conditions='3'), 'at `conditions`'),
    (toml(seeds=None), "'seeds' is missing"), (toml(since=None), "'since' is missing"),
    (toml(says='3'), 'at `says`'), (toml(formula='"1/0"'), "can't be worked out"),
    (toml(arms='["pretrained"]'), 'at `arms`'), (toml(seen='"me"'), 'at `seen`'),
    (toml(history='[{date = "today"}]'), 'at `history[0]`'),
    (toml() + '[article.x]\nsise = 3\n', "no condition 'sise'")])
def test_a_damaged_list_is_a_sentence(tmp_path, text, says):
    p = tmp_path/'claims.toml'
    p.write_text(text)
    with pytest.raises(CourseError) as e: read_claims(p)
    assert says in str(e.value)

def test_a_missing_or_foreign_list_is_a_sentence(tmp_path):
    with pytest.raises(CourseError, match='is not there'): read_claims(tmp_path/'none.toml')
    (tmp_path/'b.toml').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(CourseError, match='damaged'): read_claims(tmp_path/'b.toml')

def test_the_course_s_own_claims():
    claims = read_claims()
    assert {f'flowers-4.{i}' for i in range(1, 13)} <= {c.id for c in claims}
    assert all(c.missing for c in claims if c.how=='run'), 'a run that nobody has made says what it would take'
    assert all(set(o) <= set(VERDICTS) for c in claims for o in ({h.before, h.after} for h in c.history))
    assert all(c.since >= max(h.date for h in c.history) for c in claims if c.since and c.history), 'since is the date of the last change'

def test_the_board_is_whole_and_plain():
    rows = board('flowers')
    assert {v.verdict for v in rows} <= set(VERDICTS) and sum(tally(rows).values()) == len(rows)
    assert all(v.reason.endswith('.') and v.command.startswith('transfer_course') for v in rows)
    json.dumps([v.to_dict() for v in rows])
    assert board_text(rows).count('\n\n') == len(rows)
    with pytest.raises(CourseError, match="did you mean 'flowers'"): board('flowrs')

def test_only_what_a_training_version_concerns_is_stale():
    assert {o.name for o in stale()} <= set(TRAINING_VERSIONS[TRAINING_VERSION]), 'a result of an older version that no later one names'
    later = stale(changes={2: ('ema', 'plateau')})
    kept = [r for c in ('flowers', 'pets', 'captcha', 'dogs_vs_cats') for r in load_runs(c, own=False)]
    assert {r.name for r in later} == {r.name for r in kept if r.config.ema or r.config.schedule.name.startswith('plateau')}
    assert 'before training version 2' in str(later[0])
    assert {'plateau', 'random', 'class'} <= roads(load_runs('pets', own=False, arm='random', ema=0.)[0])
