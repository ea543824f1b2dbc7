"Every score and every verdict once more, from the committed files and by numpy: nothing that is checked here is called."
import json
import math
import tomllib
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import betainc, betaln, gammaln, ndtri, stdtrit

from transfer_course.core import course_path
from transfer_course.results.claims import board

RESULTS = course_path('data', 'results')
TEXT = dict.fromkeys(['arm', 'run', 'part', 'name', 'target', 'pred'], str)

@cache
def records(kind):
    "The lines of all chapters' files of a kind"
    return [json.loads(line) for f in sorted(RESULTS.glob(f'*/{kind}.jsonl')) for line in f.read_text(encoding='utf-8').splitlines()]

@cache
def table(path, *by):
    "A table of predictions, taken apart"
    return dict(list(pd.read_csv(path, dtype=TEXT, keep_default_na=False).groupby(list(by))))

def group(r): return r['name'].removesuffix(f"-{r['arm']}-s{r['seed']}")

def rows_of(r, part):
    if part == 'external':
        return table(RESULTS/r['chapter']/'external_tests'/f"{external(r)['source']}.csv.gz", 'run', 'part')[r['name'], 'external_test']
    return table(RESULTS/r['chapter']/'predictions'/f'{group(r)}.csv.gz', 'arm', 'seed', 'part')[r['arm'], r['seed'], part]

def external(r): return next((o for o in records('external_tests') if (o['chapter'], o['run']) == (r['chapter'], r['name'])), None)

def score_of(r, part):
    if part != 'external': return r[part]
    return external(r) and external(r)['score']

def right(r, part):
    "A photo's name to its share of right answers: of a text, of its characters"
    rows = rows_of(r, part)
    return (rows.target == rows.pred).groupby(rows.name).mean().sort_index()

def of_target(r, part):
    "What each row gave to the right class, kept to five digits"
    rows = rows_of(r, part)
    return rows.name, rows.p_target if 'p_target' in rows else sum((rows.target == c)*rows[f'p_{c}'] for c in r['classes'])

def rate_interval(p, n):
    "Wilson's, as the roots of its quadratic equation"
    z = ndtri(.975)
    return tuple(np.sort(np.roots([1+z*z/n, -(2*p+z*z/n), p*p]).real))

# --- Scores ---

def test_every_score_from_its_predictions():
    "Accuracy, interval and loss from the predictions; the kept epoch from the epochs; the parts from the split"
    splits,checked = {o['fingerprint']: o for o in records('splits')}, 0
    for r in records('runs'):
        acc,split = [e['valid_acc'] for e in r['epochs']], splits[r['data']['split']['fingerprint']]
        assert r['status'] == 'finished' and r['best_epoch'] == np.argmax(acc)
        assert r['kept_epoch'] == (r['best_epoch'] if r['config']['checkpoint'] == 'best' else len(acc)-1)
        assert r['valid']['acc'] == pytest.approx(acc[r['kept_epoch']], abs=1e-6)
        assert all(r['data']['split'][o] == len(split[o]) for o in ('train', 'valid', 'test'))
        for part in ('valid', 'test', 'external'):
            if not (s := score_of(r, part)): continue
            rows,photos,p = rows_of(r, part), right(r, part), of_target(r, part)[1]
            yes,n = rows.target == rows.pred, len(photos)
            assert (s['n'], s['correct'], s['pictures'] or s['n']) == (len(rows), yes.sum(), n), r['name']
            assert (s['acc'], *s['interval']) == pytest.approx((yes.mean(), *rate_interval(yes.mean(), n))), r['name']
            assert -np.log((p+6e-6).clip(upper=1)).mean() <= s['loss'] <= -np.log((p-6e-6).clip(1e-9)).mean(), r['name']
            if s['text']:
                whole = (photos == 1).mean()
                assert (s['text']['acc'], *s['text']['interval']) == pytest.approx((whole, *rate_interval(whole, n)))
                assert s['places'] == pytest.approx(list(yes.groupby(rows.place).mean()))
            if part != 'external': assert set(photos.index) == set(split[part]), r['name']
            checked += 1
    assert checked > len(records('runs'))

# --- Verdicts ---

COMPARE = {'<': np.less, '<=': np.less_equal, '>': np.greater, '>=': np.greater_equal}

def settled(c, lo, hi):
    "The verdict of an interval on a claim"
    if c.get('relation', '=') == '=': return 'holds' if lo-1e-9 <= c['value'] <= hi+1e-9 else 'does not hold'
    ends = {bool(COMPARE[c['relation']](o, c['value'])) for o in (lo, hi)}
    return 'undecided' if len(ends) == 2 else 'holds' if ends == {True} else 'does not hold'

def student(x):
    "Mean and 95 % over seeds"
    half = stdtrit(len(x)-1, .975)*np.std(x, ddof=1)/len(x)**.5 if len(x) > 1 else math.nan
    return np.mean(x), np.mean(x)-half, np.mean(x)+half

def paired(a, b):
    "Mean difference of (seeds, photos), with 95 % over both: variance components of a table without repetition"
    d = np.asarray(a, float)-np.asarray(b, float)
    (s,n),m = d.shape, d.mean()
    ms_photo,ms_seed = s*d.mean(0).var(ddof=1), n*d.mean(1).var(ddof=1) if s > 1 else 0
    ms_rest = ((d-d.mean(0)-d.mean(1)[:, None]+m)**2).sum()/max((s-1)*(n-1), 1)
    v = ms_photo + max(ms_seed-ms_rest, 0)
    half = stdtrit(v**2/(ms_photo**2/(n-1) + ms_seed**2/max(s-1, 1)), .975)*(v/(s*n))**.5
    return m, m-half, m+half

def stable(r, noise=False):
    "Epochs until a curve stays at the mean of its last fifth, within a point, and within what the choice of photos does"
    x = np.array([e['valid_acc'] for e in r['epochs']])
    n,last = r['valid']['pictures'] or r['valid']['n'], x[-max(1, len(x)//5):].mean()
    near = .01 + noise*-ndtri(.025/len(x))*(max(last*(1-last), .25/n)/n)**.5
    return next((i+1 for i in range(len(x)) if (abs(x[i:]-last) <= near+1e-9).all()), math.inf)

def stopped(r, patience=5):
    "Epochs until the validation loss has not fallen for five"
    x = [e['valid_loss'] for e in r['epochs']]
    return next((i+1 for i in range(patience, len(x)) if min(x[:i-patience+1]) <= min(x[:i+1])), len(x))

def column(r, name): return np.array([e[name] for e in r['epochs']])

READ = {
    'valid.first_acc': lambda r: column(r, 'valid_acc')[0], 'stable_after': stable, 'epochs_to_converge': lambda r: stable(r, True),
    'least_loss_after': lambda r: column(r, 'valid_loss').argmin()+1,
    'loss_over_least': lambda r: column(r, 'valid_loss')[-1]/column(r, 'valid_loss').min(),
    'early_stop_saves': lambda r: 1-stopped(r)/len(r['epochs']),
    'early_stop_costs': lambda r: column(r, 'valid_acc').max()-column(r, 'valid_acc')[:stopped(r)].max(),
    'epoch_seconds': lambda r: np.median([e['seconds'] for e in r['epochs'] if e['phase'] == r['epochs'][-1]['phase']]),
}

def part_of(c):
    head = c['quantity'].partition('.')[0]
    return head if head in ('valid', 'test', 'external') else 'valid'

def read(c, r):
    if c['quantity'] in READ: return READ[c['quantity']](r)
    if c['quantity'] == 'test.loss': return r['test']['loss']
    return right(r, part_of(c)).mean() if c['quantity'].endswith('acc') else 1-right(r, part_of(c)).mean()

def figure(c, runs):
    "Verdict, mean and interval of one arm"
    x,n = np.array([read(c, r) for r in runs]), min(len(right(r, part_of(c))) for r in runs)
    m,sd = x.mean(), 2*np.std(x if c['unit'] != '×' else np.log(x), ddof=1) if len(x) > 1 else 0.
    if c['quantity'].endswith(('acc', 'error')):
        lo,hi = rate_interval(round(m*n)/n, n)
        lo,hi = max(lo-sd, 0), min(hi+sd, 1)
    elif c['unit'] == '×': lo,hi = m*math.exp(-sd), m*math.exp(sd)
    else:
        by_photo = np.mean([-np.log(np.maximum(p, 5e-6)).groupby(names).mean() for names,p in (of_target(r, 'test') for r in runs)], 0) \
            if c['quantity'] == 'test.loss' else [0]
        half = sd + ndtri(.975)*np.std(by_photo)/len(by_photo)**.5
        lo,hi = m-half if c['unit'] == 'difference' else max(m-half, 0), m+half
    vague = len(runs) < c['seeds'] or (hi-lo)/2 > c.get('tolerance', math.inf)
    return 'undecided' if vague else settled(c, lo, hi), m, lo, hi

def rising(runs):
    "Could one of these nets still have got better?"
    def risen(r):
        x = column(r, 'valid_acc')
        q = len(x)//4
        if q < 2 or x.max() < 1/len(r['classes'])+.02: return True
        last = x[-q:].mean()
        return last-x[-2*q:-q].mean() >= (max(last*(1-last), 1e-4)/r['data']['split']['valid'])**.5
    return any(risen(r) for r in runs if not r['arm'].endswith('linear_probe'))

def sides(c, runs):
    "The runs of either arm, seed by seed"
    both = [{r['seed']: r for r in runs if r['arm'] == arm} for arm in c['arms']]
    return [[o[k] for k in sorted(both[0].keys() & both[1].keys())] for o in both]

def order(c, runs):
    "Verdict, difference and interval of two arms"
    a,b = sides(c, runs)
    part,lead = part_of(c), sum(r[part_of(c)]['acc'] for r in a)-sum(r[part_of(c)]['acc'] for r in b)
    if c['rule'] == 'ordering' and rising(b if lead > 0 else a): return 'not measured', None, None, None
    m,lo,hi = paired(*([right(r, part) for r in o] for o in (a, b)))
    word = 'undecided' if len(a) < c['seeds'] else 'holds' if lo > 0 else 'does not hold' if hi < 0 else 'undecided'
    if c['rule'] == 'ordering' and word == 'undecided' and rising(a+b): word = 'not measured'
    return word, m, max(lo, -1), min(hi, 1)

def race(c, runs):
    "Verdict, ratio and interval of the epochs that two arms took: a sign test over seeds, then the ratio that is claimed"
    a,b = (np.array([read(c, r) for r in o], float) for o in sides(c, runs))
    first,last = (a < b).sum(), (a > b).sum()
    def chance(k): return sum(math.comb(int(first+last), i) for i in range(k, first+last+1))/2**int(first+last)
    words = {'holds' if chance(first) <= .05 else 'does not hold' if chance(last) <= .05 else 'undecided'}
    if np.isinf([a, b]).any(): return ('undecided' if words == {'holds'} and c['value'] != 1 else words.pop()), None, None, None
    m,lo,hi = np.exp(student(np.log(b/a)))
    if c['value'] != 1: words.add('undecided' if len(a) < c['seeds'] else settled(c, lo, hi))
    return next(o for o in WORST if o in words), m, lo, hi

def have(r):
    "What a claim's conditions are compared with"
    d = r['data']
    return dict(r['config'], arch=r['arch'], arm=r['arm'], schedule=r['config']['schedule']['name'], classes=len(r['classes']),
                per_class=r['config']['per_class'] or 'all', gpu=r['machine']['gpu'], data=d['name'], complete=d['complete'],
                reencoded=bool(d['reencoded']), proxy=bool(d['proxy']), split=d['split']['name'], train=d['split']['train'],
                official=r['weights']['requested'] == 'random' or r['weights']['official'])

WORST = 'does not hold', 'undecided', 'holds', 'not measured'

def weighed(c, article):
    "Verdict by the rule; names of runs to what their experiment says"
    exact = c['rule'] in ('rate', 'measure') and c.get('relation', '=') == '='
    given = dict(official=True, per_class='all') | c.get('conditions', {})
    wanted = dict(complete=True, proxy=False) | article | given if exact else given
    weigh = figure if c['rule'] in ('rate', 'measure') else race if c['rule'] == 'sooner' else order
    def bears(r):
        same = all(have(r)[k] == given[k] if k == 'arm' else have(r)[k] for k in ('arm', 'gpu') if k in given)
        return score_of(r, part_of(c)) and same and (exact or r['config']['scale'] != 'sample') and r['arm'] in c.get('arms', [r['arm']])
    groups = {}
    for r in records('runs'):
        if r['chapter'] == c['article'] and bears(r): groups.setdefault((group(r), 'arms' in c or r['arm']), []).append(r)
    groups = [g for g in groups.values() if {r['arm'] for r in g} >= set(c.get('arms', []))]
    said = {frozenset(r['name'] for r in g): weigh(c, g) for g in groups}
    met = [g for g in groups if all(w == 'any' or have(r).get(k) == w for r in g for k,w in wanted.items())]
    words = {said[frozenset(r['name'] for r in g)][0] for g in met}
    return next((o for o in WORST if o in words), 'not comparable' if groups else 'not measured'), said

def test_every_verdict_of_runs_from_the_predictions():
    rules,checked = tomllib.loads(course_path('data', 'claims.toml').read_text(encoding='utf-8')), 0
    rows = {c['id']: c for c in rules['claim']}
    for v in board():
        c = rows[v.claim.id]
        if c['rule'] not in ('rate', 'measure', 'ordering', 'budget', 'sooner'): continue
        word,said = weighed(c, rules['article'][c['article']])
        assert v.verdict == word, c['id']
        if not v.rests_on: continue
        word,*wanted = said[frozenset(v.rests_on)]
        assert v.verdict in (word, 'not comparable'), c['id']
        if v.ours is not None: assert (v.ours, *(v.interval or (math.nan,)*2)) == pytest.approx(wanted, abs=2e-5, nan_ok=True), c['id']
        checked += v.ours is not None
    assert checked >= 30

def test_every_verdict_of_studies_from_their_answers():
    studies = {(o['chapter'], o['name']): o for o in records('studies')}
    for o in studies.values():
        for r in o['rows']:
            if isinstance(r.get('right'), str) and 'acc' in r: assert r['acc'] == pytest.approx(r['right'].count('1')/len(r['right']))
    checked = 0
    for v in board():
        c = v.claim
        if c.rule != 'study' or v.verdict == 'not measured': continue
        rows = [o for o in studies[c.article, c.quantity]['rows'] if c.conditions.items() <= o.items()]
        a,b = ({o['seed']: np.array(list(o['right']), float) for o in rows if o[c.by] == line} for line in c.arms)
        if len(a) == 1: a = dict.fromkeys(b, *a.values()) # fitted once, it has no seeds
        seeds = sorted(a.keys() & b.keys())
        found = paired([a[k] for k in seeds], [b[k] for k in seeds])
        word = 'undecided' if len(seeds) < c.seeds else settled(vars(c), *found[1:])
        assert v.verdict == word and (v.ours, *v.interval) == pytest.approx(found, abs=1e-6), c.id
        checked += 1
    assert checked >= 10

def choose(n, k): return gammaln(n+1)-gammaln(k+1)-gammaln(n-k+1)

def hypergeometric(a, n, b, m):
    "The chance of two groups that differ no less than a of n and b of m"
    k = np.arange(max(0, a+b-m), min(n, a+b)+1)
    p = np.exp(choose(n, k)+choose(m, a+b-k)-choose(n+m, a+b))
    return p[p <= p[k == a]*(1+1e-9)].sum()

def beta_binomial(k, n, right, photos):
    x = np.arange(k, n+1)
    return np.exp(choose(n, x)+betaln(x+right+1, n-x+photos-right+1)-betaln(right+1, photos-right+1)).sum()

def printed_as(text, n):
    k = np.arange(n+1)
    return k[np.round(k/n, len(text.partition('.')[2])) == float(text)]

def test_every_verdict_of_sums_citations_and_counts_from_the_files():
    rows = {o['id']: o for o in tomllib.loads(course_path('data', 'claims.toml').read_text(encoding='utf-8'))['claim']}
    counts = {(o['chapter'], o['key']): o for o in records('counts')}
    words = dict(fits=printed_as, fisher=hypergeometric, predictive_chance=beta_binomial, len=len,
                 binomial_chance=lambda k, n, p: betainc(k, n-k+1, p))
    for v in board():
        row = rows[v.claim.id]
        if row['rule'] in ('arithmetic', 'probability'): ours = eval(row['formula'], dict(words), row.get('given', {}))  # noqa: S307
        elif row['rule'] == 'literature' and 'found' in row: ours = row['found']
        elif row['rule'] == 'count' and v.ours is not None: ours = counts[row['article'], row['quantity']]['value']
        else: continue
        assert v.ours == pytest.approx(ours, rel=1e-6), row['id']
        if row['rule'] == 'probability': word = 'does not hold' if ours < row['tolerance'] else 'holds'
        else: word = counted(row, ours, counts.get((row['article'], row['quantity'])))
        assert v.verdict == word, row['id']

def counted(row, ours, count):
    "The verdict of a figure, which may have an interval and other photos than the article's"
    relation,conditions = row.get('relation', '='), row.get('conditions')
    if row['rule'] == 'count':
        data,ends = count['data'] or {}, count['interval']
        met = dict(data=data.get('name'), complete=data.get('complete'), reencoded=bool(data.get('reencoded')))
        wanted = dict(complete=True) | conditions if conditions else {}
        if any(w not in ('any', met[k]) for k,w in wanted.items()): return 'not comparable'
        if row.get('seeds', 1) > 1 and not ends or ends and relation != '=' and settled(row, *ends) == 'undecided': return 'undecided'
    yes = abs(ours-row['value']) <= row.get('tolerance', 0)+1e-12 if relation == '=' else COMPARE[relation](ours, row['value'])
    return 'holds' if yes else 'does not hold'
