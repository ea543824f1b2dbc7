"The edges of the rules, and what a damaged list of claims does"
import json, subprocess, sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd, pytest

from transfer_course.stats import fits, predictive_chance

from transfer_course.results.claims import VERDICTS, Claim, agrees, board, board_text, evaluate, judge, read_claims, stale

from fastai.vision.all import seed_interval, load_counts
                                    tally, write_counts)
from transfer_course.core import CourseError, write_json

ROW = dict(id='"x-1"', article='"x"', says='"…"', quantity='"valid.acc"', value='0.9', unit='"rate"', how='"run"', rule='"rate"', source='"…"', tolerance='0.02',
           conditions='{size = 192}')

def toml(**changes):
    "A list of one claim; None leaves a key out"
    return '[[claim]]\n' + ''.join(f'{k} = {v}\n' for k,v in (ROW|changes).items() if v is not None)

def claim(**kw):
    return Claim(**(dict(id='x-1', article='x', says='…', quantity='valid.acc', value=0.9, unit='rate', how='run', rule='rate', source='…', tolerance=0.03,
                         conditions=dict(arm='pretrained', size=192)) | kw))

def run(acc=0.9, seed=0, arm='pretrained', n=813, genuine=True, plateau=True, size=192, wrong=0, **kw):
    "As much of a run as the rules look at; the first `wrong` of `n` photos are answered wrong"
    d = dict(name=f'{arm}-s{seed}', group='g', arm=arm, seed=seed, arch='timm:net', scale='quick', status='finished', settings=dict(size=size),
             weights=dict(asked='random' if arm=='random' else 'imagenet', genuine=genuine), machine=dict(gpu=None), test=None, seconds=40.,
             data=dict(name='x', complete=True, recoded=None, stand_in=None, split=dict(name='article')),
             valid=dict(n=n, acc=acc), epochs=[dict(phase=0, seconds=9.), dict(phase=1, seconds=10.)])
    r = SimpleNamespace(**(d|kw))
    r.plateaued = lambda: plateau
    r.answers = lambda: pd.DataFrame(dict(part='valid', name=[str(i) for i in range(n)], target='a', pred=['b' if i<wrong else 'a' for i in range(n)]))
    return r

def seeds(*accs, **kw): return [run(a, i, **kw) for i,a in enumerate(accs)]


def test_a_rate_holds_only_inside_a_narrow_band():
    assert judge(claim(), seeds(.897, .9, .903)).verdict == 'holds'
    assert judge(claim(value=.95), seeds(.895, .895, .896)).verdict == 'does not hold'

@pytest.mark.parametrize('runs', [seeds(.85, .90, .95), seeds(.9, .9, .9, n=100), seeds(.9, .9)], ids=['seeds wander', 'few photos', 'two seeds'])
def test_a_sloppy_run_never_holds(runs):
    assert judge(claim(), runs).verdict == 'undecided'

def test_nor_does_it_refute():
    v = judge(claim(value=.2), seeds(.70, .90, .99))
    assert v.verdict == 'undecided' and 'wider than the tolerance of ±3 %' in v.reason

def test_the_edge_of_the_tolerance():
    runs = seeds(.9, .9, .9)
    _,lo,hi = seed_interval([.9]*3, 813)
    half = (hi-lo)/2
    assert judge(claim(tolerance=half+1e-6), runs).verdict == 'holds'
    assert judge(claim(tolerance=half-1e-6), runs).verdict == 'undecided'

@pytest.mark.parametrize('kw,why', [(dict(genuine=False), 'the weights are not genuine'), (dict(size=224), 'size is 224, not 192'),
    (dict(data=dict(name='x', complete=False, split={})), 'only a part of the photos'), (dict(data=dict(name='x', complete=True, stand_in='cats', split={})), 'a stand-in'),
    (dict(settings=dict(size=192, per_class=10)), 'per class is 10, not all')])
def test_other_conditions_are_not_comparable(kw, why):
    v = judge(claim(), seeds(.9, .9, .9, **kw))
    assert v.verdict == 'not comparable' and why in v.reason
    assert v.ours == pytest.approx(.9) and v.seeds == 3 and v.n == 813 and len(v.rests_on) == 3

def test_the_nearest_runs_are_the_ones_judged():
    far = seeds(.5, .5, .5, size=64, genuine=False, group='far')
    assert judge(claim(), far + seeds(.9, .9, .9)).verdict == 'holds'

@pytest.mark.parametrize('runs', [[], [run(status='running')], [run(arm='random')], [run(valid=None)]], ids=['none', 'unfinished', 'other arm', 'no answers'])
def test_nothing_to_judge_says_what_is_missing(runs):
    v = judge(claim(missing='a GPU'), runs)
    assert (v.verdict, v.reason, v.ours) == ('not measured', 'It would take a GPU.', None)

def test_seconds_on_a_gpu_are_not_judged_on_a_cpu():
    c = claim(rule='measure', quantity='epoch_seconds', value=10, unit='s', tolerance=2, conditions=dict(arm='pretrained', gpu='A'))
    assert judge(c, seeds(.9, .9, .9)).verdict == 'not measured'
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='B'))).verdict == 'not comparable'
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='A'))).verdict == 'holds'
    assert judge(c, seeds(.9, .9, .9, machine=dict(gpu='A'), epochs=[dict(phase=0, seconds=10.), dict(phase=1, seconds=30.)])).verdict == 'does not hold'


ORDER = claim(rule='ordering', value=0, unit='difference', arms=['pretrained', 'random'], conditions=dict(data='x'), tolerance=None)

def arms(wrong=(40, 120), k=3, **kw): return [run(seed=i, arm=arm, wrong=w+i, n=400, **kw) for arm,w in zip(ORDER.arms, wrong) for i in range(k)]

def test_an_order_is_judged_at_quick_and_says_so():
    v = judge(ORDER, arms())
    assert v.verdict == 'holds' and 'at scale quick' in v.reason and v.interval[0] > 0 and (v.seeds, v.n) == (3, 400)
    assert judge(ORDER, arms((120, 40))).verdict == 'does not hold'
    assert judge(ORDER, arms((40, 40))).verdict == 'undecided'

def test_an_arm_stopped_early_loses_by_construction():
    runs = arms()
    runs[-1].plateaued = lambda: False
    v = judge(ORDER, runs)
    assert v.verdict == 'not measured' and 'random had fewer than eight epochs' in v.reason
    runs[-1].epochs = runs[-1].epochs*4
    v = judge(ORDER, runs)
    assert v.verdict == 'not measured' and 'random was still improving' in v.reason
    assert judge(replace(ORDER, rule='budget'), runs).verdict == 'holds' # a claim about the budget

def test_a_loss_without_an_open_test_is_no_measure():
    assert judge(claim(rule='measure', quantity='test.loss', value=.1, unit='nats', tolerance=.1), seeds(.9, .9, .9)).verdict == 'not measured'

def test_an_order_needs_both_arms_three_seeds_and_genuine_weights():
    assert judge(ORDER, arms()[:3]).verdict == 'not measured'
    assert judge(ORDER, arms(k=2)).verdict == 'undecided'
    assert judge(ORDER, arms(scale='sample')).verdict == 'not measured'
    v = judge(ORDER, arms(genuine=False))
    assert v.verdict == 'not comparable' and 'not genuine' in v.reason


def count(**kw): return claim(**(dict(rule='count', how='count', quantity='photos', value=10, unit='photos', tolerance=None, conditions=dict(data='x')) | kw))
def counted(value=10, **data): return dict(facts=dict(photos=dict(value=value, how='files')), data=dict(name='x', complete=True)|data)

def test_counts():
    assert judge(count(), facts=counted()).verdict == 'holds'
    assert judge(count(), facts=counted(11)).verdict == 'does not hold'
    assert judge(count(tolerance=1), facts=counted(11)).verdict == 'holds'
    assert judge(count(), facts=None).verdict == 'not measured'
    assert judge(count(), facts=counted(complete=False)).verdict == 'not comparable'
    assert judge(count(), facts=counted(name='y')).verdict == 'not comparable'
    assert judge(count(), facts=counted(recoded='smaller')).verdict == 'holds'
    assert judge(count(conditions=dict(data='x', recoded=False)), facts=counted(recoded='smaller')).verdict == 'not comparable'

@pytest.mark.parametrize('relation,ours,says', [('=', 10, True), ('=', 10.5, False), ('<', 10, False), ('<=', 10, True), ('>', 11, True), ('>=', 9, False)])
def test_relations(relation, ours, says): assert agrees(count(relation=relation), ours) is says

def test_formulas_can_do_no_harm():
    for bad in ('__import__("os")', 'passes.real', '[1, 2]', 'lambda: 1', 'fits("0.1", n=3)'):
        with pytest.raises(CourseError): evaluate(bad, dict(passes=4))


@pytest.mark.parametrize('text,says', [
    (toml(tolerance=None, tolerence='0.02'), "line 1, claim 'x-1': There is no key 'tolerence': did you mean 'tolerance'?"),
    (toml(tolerance=None), "'tolerance' is missing: the rule 'rate'"), (toml(source=None), "'source' is missing"), (toml(id=None), "claim '?': The key 'id' is missing"),
    (toml(rule='"ratte"'), "did you mean 'rate'?"), (toml(how='"count"'), "the rule 'rate' judges by 'run'"), (toml(value='"0.9"'), 'a number is wanted'),
    (toml(value='true'), 'a number is wanted'), (toml(relation='"=="'), 'one of = < <= > >='), (toml(quantity='"valid.accuracy"'), "no measure of runs 'valid.accuracy'"),
    (toml(conditions='{sise = 192}'), "did you mean 'size'?"), ('# first\n\n' + toml() + toml(), "line 15, claim 'x-1': the id stands at line 3 already"),
    (toml()[:70], 'is damaged'), ('[claims]\n', "and there is 'claims'"), ('claim = 3\n', "tables [[claim]] only, and there is 'claim'"), (toml(conditions='3'), 'a table is wanted'), (toml(says='3'), 'a text is wanted'),
    (toml(formula='"1/0"'), "can't be worked out"), (toml(arms='["pretrained"]'), 'a list of two is wanted')])
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
    ids = {c.id for c in claims}
    assert {f'flowers-4.{i}' for i in range(1, 13)} <= ids
    assert all(c.source and c.says for c in claims)
    assert all(c.missing for c in claims if c.how=='run'), 'a run that nobody has made says what it would take'

def test_the_board_is_whole_and_plain():
    rows = board('flowers')
    assert {v.verdict for v in rows} <= set(VERDICTS) and sum(tally(rows).values()) == len(rows)
    assert all(v.reason.endswith('.') and v.command.startswith('transfer_course') for v in rows)
    json.dumps([v.to_dict() for v in rows])
    assert board_text(rows).count('\n\n') == len(rows)
    with pytest.raises(CourseError, match="did you mean 'flowers'"): board('flowrs')

def test_the_board_needs_no_torch():
    code = "import sys; from transfer_course.claims import *; board(); stale(); assert not {'torch', 'fastai', 'matplotlib'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_facts_and_stale(tmp_path, monkeypatch):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    write_counts('nowhere', dict(photos=dict(value=10, how='files')), dict(name='x'), modules=('core',))
    assert load_counts('nowhere', own=True)['facts']['photos']['value'] == 10
    assert not [r for r in stale(own=True) if r.file.startswith('nowhere')]
    d = json.loads((tmp_path/'nowhere'/'facts.json').read_text())
    d['code']['modules']['core'] = 'another'
    write_json(tmp_path/'nowhere'/'facts.json', d)
    row, = [r for r in stale(own=True) if r.file.startswith('nowhere')]
    assert row.changed == ['core'] and 'core changed' in str(row)
    (tmp_path/'nowhere'/'facts.json').write_text('{"facts": ')
    with pytest.raises(CourseError, match='damaged'): load_counts('nowhere', own=True)
    with pytest.raises(CourseError, match="needs a 'value'"): write_counts('nowhere', dict(photos=10), {})

def test_the_number_that_fools():
    assert predictive_chance(250, 250, 740, 813) == pytest.approx(1.1e-9, rel=.02)
    assert fits('0.0898', 813) == [73] and not fits('0.0898', 798)
