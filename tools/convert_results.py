"""Results as they were kept up to commit c435005 (a file a run, facts.json, studies/ …), rewritten as `results.store` keeps them.

    python tools/convert_results.py OLD NEW [SPLITS]     # two folders such as data/results; OLD is only read

SPLITS is a list of splits that OLD lacks: those of the 300 and 3,600 CAPTCHAs were never committed, and were drawn again; their
fingerprints are the runs' own. It ran once. Words change by the tables below; recorded provenance (commit, module hashes, versions,
machine) stays as it was. What was written is read again and turned back into the old form: every value has to be equal, every
prediction row for row, every split name for name."""
import json
import shutil
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from transfer_course.core import short_arch
from transfer_course.results import store
from transfer_course.results.config import POLICIES, as_record
from transfer_course.results.store import (
    Bench,
    Count,
    ExternalTest,
    Run,
    Study,
)

ARMS = {'probe': 'linear_probe', 'random-probe': 'random-linear_probe'}
INFO = {'recoded': 'reencoded', 'stand_in': 'proxy'}
WEIGHTS = {'asked': 'requested', 'genuine': 'official'}
SOURCES = {'shelf': 'mirror'}
STUDIES = {'gently': 'discriminative_lr'}
HOW = {'whole net, gently': 'whole net, discriminative lr',
       'whole net, gently, norms at rest': 'whole net, discriminative lr, norms at rest'}
# beginnings of keys
COUNTS = {'exam_': 'external_test_', 'imagenet_likeness': 'imagenet_confidence', 'near_copies': 'near_duplicates'}
# left out at these
UNUSUAL = {'target': 'class', 'opt': 'adam', 'wd': None, 'class_weights': False, 'smoothing': 0., 'ema': 0., 'variant': ''}
PARTS = {'exam': 'external_test'}
SECOND_SOURCE = 'cats-and-dogs-web'

def renamed(d, words): return {words.get(k, k): v for k,v in d.items()}
def back(words): return {v: k for k,v in words.items()}

# --- From old to new ---

def info_of(d):
    "A data set's info in the new words"
    return renamed(d, INFO) | ({'source': SOURCES.get(d['source'], d['source'])} if 'source' in d else {})

def code_of(d): return d | dict(training_version=1)

def config_of(d):
    "The config behind a run's settings"
    s = d['settings']
    tail = d['group'].removeprefix(f"{d['scale']}-{short_arch(d['arch'])}")
    weights = tail[1:].rsplit(f"-{s['size']}px", 1)[0] if tail.startswith('.') else 'imagenet'
    same = ('size', 'per_class', 'head', 'method', 'augment', 'bs', 'patience', *(k for k in UNUSUAL if k in s))
    schedule = dict(name=s['schedule'], phases=s['phases'])
    return {k: s[k] for k in same} | dict(
        scale=d['scale'], arch=short_arch(d['arch']), weights=weights, checkpoint=s['keep'], schedule=schedule)

def run_of(d):
    "A run in the new form"
    s,arm = d['settings'], ARMS.get(d['arm'], d['arm'])
    same = ('chapter', 'seed', 'status', 'arch', 'numerics', 'machine', 'versions', 'parameters', 'epochs', 'best_epoch', 'kept_epoch',
            'valid', 'test', 'setup_seconds', 'seconds', 'peak_memory_mb')
    weights = renamed(d['weights'], WEIGHTS) | dict(source=SOURCES.get(d['weights']['source'], d['weights']['source']))
    new = {k: d[k] for k in same if k in d} | {k: s[k] for k in ('classes', 'normalize', 'arch_kwargs', 'length') if k in s}
    return Run.from_dict(new | dict(name=f"{d['group']}-{arm}-s{d['seed']}", arm=arm, config=config_of(d), weights=weights,
                                    data=info_of(d['data']), code=code_of(d['code'])))

def study_of(chapter, path):
    d = json.loads(path.read_text())
    rows = [r | dict(how=HOW.get(r['how'], r['how'])) if 'how' in r else r for r in d['rows']]
    name = STUDIES.get(path.stem, path.stem)
    return as_record(d | dict(chapter=chapter, name=name, rows=rows, data=info_of(d['data']), code=code_of(d['code'])), Study)

def count_key(k):
    for a,b in COUNTS.items():
        if k.startswith(a): return b + k.removeprefix(a)
    return k

def counts_of(chapter, path):
    d = json.loads(path.read_text())
    shared = dict(chapter=chapter, data=info_of(d['data']))
    def code(c): return code_of(c.get('code', d['code']))
    return [as_record(c | shared | dict(key=count_key(k), code=code(c)), Count) for k,c in d['facts'].items()]

def bench_of(d):
    "A kind of processor's part of a bench's file"
    about = dict(machine=d.pop('machine'), versions=d.pop('versions'), code=code_of(d.pop('code')))
    return dict(result=d, **about)

def benches_of(path):
    d = json.loads(path.read_text())
    if path.stem == 'numerics':
        kinds = {k: dict(result={o: d[o][k] for o in ('choices', 'measured')}, machine=d['machines'][k]) for k in d['choices']}
    else: kinds = {k: bench_of(v) for k,v in d.items()}
    return [as_record(v | dict(name=path.stem, kind=k), Bench) for k,v in kinds.items()]

# --- And back ---

def old_of(run, extra):
    "A run of the new store in the old form; `extra` gives what the new one leaves out"
    d,c = run.to_dict(), run.config.to_dict()
    phases = [{k: v for k,v in p.items() if k in ('epochs', 'lr', 'frozen', *POLICIES[p['policy']])} for p in c['schedule']['phases']]
    same = ('size', 'method', 'bs', 'head', 'per_class', 'patience', 'augment', *(k for k,usual in UNUSUAL.items() if c[k] != usual))
    settings = {k: c[k] for k in same} | {k: d[k] for k in ('classes', 'normalize', 'arch_kwargs')}
    settings |= dict(schedule=c['schedule']['name'], phases=phases, keep=c['checkpoint'])
    if run.length is not None: settings['length'] = run.length
    arm = back(ARMS).get(run.arm, run.arm)
    old = {k: d[k] for k in d if k not in ('config', 'classes', 'normalize', 'arch_kwargs', 'length', 'origin')}
    old |= dict(format=1, name=f'{run.group}-{arm}-s{run.seed}', group=run.config.group, scale=c['scale'], arm=arm, settings=settings)
    old |= dict(weights=renamed(d['weights'], back(WEIGHTS)), data=renamed(d['data'], back(INFO)))
    old['code'] = {k: v for k,v in d['code'].items() if k != 'training_version'}
    for o in old['weights'], old['data']: o['source'] = back(SOURCES).get(o['source'], o['source'])
    return without_defaults(old, extra)

def without_defaults(new, old):
    "Drop what is None in `new` and missing in `old`, however deep, and turn tuples into lists"
    if isinstance(new, dict):
        was = old if isinstance(old, dict) else {}
        return {k: without_defaults(v, was.get(k)) for k,v in new.items() if v is not None or k in was}
    if isinstance(new, (list, tuple)):
        was = old if isinstance(old, list) and len(old) == len(new) else [None]*len(new)
        return [without_defaults(v, o) for v,o in zip(new, was, strict=True)]
    return new

def text(path): return pd.read_csv(path, dtype=str, keep_default_na=False)

# --- The work ---

def convert_chapter(old:Path, new:Path, more=()):
    "One chapter; returns its number of runs"
    runs,rows,outside,outside_rows = [], defaultdict(list), [], []
    for p in sorted(old.glob('*-s*.json')):
        run = run_of(json.loads(p.read_text()))
        assert run.name == run.config.name(run.arm, run.seed), (p.stem, run.config.group)
        runs.append(run)
        rows[run.group].append(text(p.with_name(f'{p.stem}.answers.csv.gz')).assign(arm=run.arm, seed=str(run.seed)))
        if (exam := p.with_name(f'{p.stem}.exam.csv.gz')).exists():
            outside_rows.append(text(exam).replace({'part': PARTS}).assign(run=run.name))
            score = store.score(pd.read_csv(exam, dtype=dict(name=str), keep_default_na=False), run.classes)
            outside.append(ExternalTest(run.chapter, run.name, SECOND_SOURCE, score))
    new.mkdir(parents=True)
    write(new/'runs.jsonl', runs)
    for group,parts in rows.items(): write_rows(new/'predictions'/f'{group}.csv.gz', parts, ['arm', 'seed'])
    if outside:
        write(new/'external_tests.jsonl', outside)
        write_rows(new/'external_tests'/f'{SECOND_SOURCE}.csv.gz', outside_rows, ['run'])
    splits = [json.loads(p.read_text()) for p in (old/'splits').glob('*.json')]
    used = {r.data.split.fingerprint for r in runs}
    lines = [store._split_line(store.Split.from_dict(d)) for d in splits + [d for d in more if d['fingerprint'] in used]]
    (new/'splits.jsonl').write_text(''.join(f'{o}\n' for o in sorted(lines)))
    if (old/'facts.json').exists(): write(new/'counts.jsonl', counts_of(old.name, old/'facts.json'))
    if studies := [study_of(old.name, p) for p in sorted((old/'studies').glob('*.json'))]: write(new/'studies.jsonl', studies)
    for p in old.glob('*.csv'): shutil.copyfile(p, new/p.name)
    return len(runs)

def write(path, records): store._write_table(path, records)

def write_rows(path, parts, by):
    parts = sorted(parts, key=lambda o: tuple(o.iloc[0][by]))
    table = pd.concat([o.reset_index(drop=True) for o in parts]).sort_index(kind='stable')
    store._write_csv(path, table[[*by, *(o for o in table if o not in by)]])

def prove_chapter(old:Path, new:Path):
    "Everything is there, and equal"
    runs = store._read_lines(new/'runs.jsonl', Run, 0)
    before = {p.stem: p for p in old.glob('*-s*.json')}
    assert len(runs) == len(before)
    splits = {json.loads(o)['fingerprint']: o for o in (new/'splits.jsonl').read_text().splitlines()}
    for run in runs:
        was = f'{run.group}-{back(ARMS).get(run.arm, run.arm)}-s{run.seed}'
        d = json.loads(before[was].read_text())
        assert json.dumps(old_of(run, d), sort_keys=True) == json.dumps(d, sort_keys=True), was
        prove_rows(old/f'{was}.answers.csv.gz', run)
        split,kept = run.split(), old/'splits'/f'{run.data.split.fingerprint}.json'
        assert split.fingerprint == run.data.split.fingerprint, was
        assert not kept.exists() or split.to_dict() == json.loads(kept.read_text()), was
    assert {p.stem for p in (old/'splits').glob('*.json')} <= set(splits) == {r.data.split.fingerprint for r in runs}
    if (new/'external_tests.jsonl').exists():
        for o in store._read_lines(new/'external_tests.jsonl', ExternalTest, 0): prove_rows(old/f'{o.run}.exam.csv.gz', o)
    if (old/'facts.json').exists(): prove_counts(old/'facts.json', new/'counts.jsonl')
    for p in (old/'studies').glob('*.json'): prove_study(p, new/'studies.jsonl')

def prove_counts(old, new):
    facts = json.loads(old.read_text())['facts']
    counts = {o.key: asdict(o) for o in store._read_lines(new, Count, 0)}
    now = {k: {o: c[o] for o in ('value', 'how', 'n', 'interval') if c[o] is not None} for k,c in counts.items()}
    assert json.loads(json.dumps(now)) == {count_key(k): {o: v for o,v in c.items() if o != 'code'} for k,c in facts.items()}, old

def prove_study(old, new):
    d = json.loads(old.read_text())
    study, = [o for o in store._read_lines(new, Study, 0) if o.name == STUDIES.get(old.stem, old.stem)]
    rows = [r | dict(how=back(HOW).get(r['how'], r['how'])) if 'how' in r else r for r in study.rows]
    assert (rows, study.machine, study.versions) == (d['rows'], d['machine'], d['versions']), old
    assert (study.code.commit, study.code.modules) == (d['code']['commit'], d['code']['modules']), old

def prove_rows(path, record):
    "The same text in each cell, in the same order"
    was = text(path).replace({'part': PARTS})
    place,by,key = store._place_of(record)
    now = text(place)
    for k,v in zip(by, key, strict=True): now = now[now[k] == str(v)]
    assert now.drop(columns=list(by)).reset_index(drop=True).equals(was), path
    assert record.predictions().equals(store._read_csv(path).replace({'part': PARTS})), path

def main(old, new, more=None):
    old,new,more = Path(old), Path(new), json.loads(Path(more).read_text()) if more else ()
    if new.exists(): sys.exit(f'{new} is there already: give a new folder.')
    n = {p.name: convert_chapter(p, new/p.name, more) for p in sorted(old.glob('*/')) if p.name != 'bench'}
    benches = [o for p in sorted((old/'bench').glob('*.json')) for o in benches_of(p)]
    write(new/'bench.jsonl', benches)
    for chapter in n: prove_chapter(old/chapter, new/chapter)
    files = [[p for p in o.rglob('*') if p.is_file()] for o in (old, new)]
    size = [sum(p.stat().st_size for p in o) for o in files]
    print(f'{sum(n.values())} runs, all equal; {len(files[0])} files of {size[0]:,} bytes became {len(files[1])} of {size[1]:,}')

if __name__ == '__main__': main(*sys.argv[1:])
