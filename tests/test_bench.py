"The bench's small parts run; its reports hold what the pages read, worked out from made-up times."
import pytest
import torch

from tools import bench

RIGHT = [1, 0]*20

def side(side, *_):
    return dict(frozen=2., unfrozen=[3., 3.], total=8. if side == 'ours' else 16., valid_acc=.9, right=RIGHT, peak_memory_mb=1000,
                steps=dict(train=.01, evaluate=.005), bound=2.4)

def head(side):
    one = dict(total=8. if side == 'ours' else 80., epochs=[.5]*23, valid_acc=.9)
    return dict(cold=one, warm=one) if side == 'ours' else one

def recipe_side(side):
    "The recipe is right on 30 of 40 photos, fastai's lines on 20, the probe on 25"
    right = dict(recipe=30, fastai=20, probe=25)[side]
    return dict(right=[1]*right + [0]*(40-right), calibration_error=.1, seconds=5., chosen='linear_probe', peak_memory_mb=900)

TIMES = dict(
    time_side=side, time_head=head,
    time_limit=lambda: dict(decode=[1., 1.], forward=[3., 3.], train=.004, evaluate=.001),
    time_half=lambda side, arch: dict(before=1., epochs=[2. if side == 'ours' else 10.]*3),
    time_many=lambda k: dict(pictures=k, seconds={'1': 1., '5': 2., '23': 3.}, anonymous_mb=900 + k/1000),
    time_views=lambda views, seed: dict(total=views or 20., train_acc=.9, right=RIGHT),
    time_batch_norms=lambda way, kind, seed, lr: dict(total=9., right=RIGHT),
    recipe_cell=lambda name, n, seed: dict(photos=50, **{side: recipe_side(side) for side in ('fastai', 'probe', 'recipe')}))

@pytest.fixture(autouse=True)
def made_up(monkeypatch): monkeypatch.setattr(bench, 'in_process', lambda f, *args: TIMES[f.__name__](*args))

def test_small_parts():
    assert bench.spread([3, 1, 2]) == dict(min=1, median=2, max=3)
    steps = bench.time_steps('timm:test_resnet', 32, 'fp32', False, bs=2, n=1)
    assert set(steps) == {'train', 'evaluate'} and steps['train']['min'] > 0
    threads = torch.get_num_threads()
    try: drawn = bench.bench_captchas(n=64, times=1)
    finally: torch.set_num_threads(threads)
    assert drawn['ours']['median'] > 0 and drawn['times_faster']['median'] > 0

def test_the_fastest_choice():
    def option(train, evaluate): return dict(train=dict(median=train), evaluate=dict(median=evaluate))
    options = {('fp32', False): option(4, 4), ('fp32', True): option(3, 2), ('bf16', False): option(2, 3), ('bf16', True): option(1, 3)}
    assert bench.fastest(options) == dict(train='bf16', evaluate='fp32', channels_last=True)

def test_report_on_frozen_layers():
    r = bench.bench_precompute(times=1, many=(1000, 20_000))
    assert (r['limit']['seconds'], r['head']['times_the_limit'], r['head']['times_faster']) == (4., 2., dict(cold=10., warm=10.))
    assert r['fine_tune']['times_faster'] == 2. and r['fine_tune']['bound'] == 14.2
    assert [r['half'][o]['times_faster'] for o in ('resnet18', 'tf_efficientnet_lite0')] == [5., 5.]
    assert r['curve'][1] == dict(pictures=20_000, ours={'1': 1., '5': 2., '23': 3.}, limit=80., fastai={'1': 10., '5': 50., '23': 230.})
    assert r['memory_mb'] == {'1000': 901., '20000': 920., 'growth': 19.}

def test_other_reports():
    arm = bench.bench_flowers()['arms']['pretrained']
    assert arm['times_faster']['total'] == 2. and arm['share_of_bound'] == .8 and arm['test_acc_difference']['diff'] == 0
    rows = bench.bench_views()['rows']
    assert [(o['views'], o['seconds']['median']) for o in rows] == [(1, 1), (2, 2), (4, 4), (8, 8), (None, 20.)]
    norms = bench.bench_batch_norms()['rows']
    assert len(norms) == 4 and norms[0]['acc'] == dict(fastai=[.5]*3, precomputed=[.5]*3) and norms[0]['less_fastai']['diff'] == 0

def test_report_on_the_recipe(monkeypatch, tmp_path):
    "The better rival is the bar; a cell that was not measured is named; what is done is not done again"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    monkeypatch.setattr(bench, 'RECIPE_CELLS', [('flowers', 10), ('flowers', None)])
    r = bench.bench_recipe()
    row = r['rows'][0]
    assert (row['better'], row['gain']['diff'], row['errors']) == ('probe', .125, pytest.approx(10/15))
    assert (r['mean'], r['missing'], len(r['rows'])) == (.125, [], 2)
    monkeypatch.setattr(bench, 'in_process', lambda *_: pytest.fail('measured again'))
    assert bench.bench_recipe() == r
    monkeypatch.setattr(bench, 'RECIPE_CELLS', [*bench.RECIPE_CELLS, ('stanford-cars', None)])
    assert bench.bench_recipe(minutes=-1)['missing'] == ['stanford-cars all']

def test_draws_of_the_recipe_share_no_photo_with_its_test(monkeypatch, tmp_path):
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path))
    (ds,a),(_,b) = (bench.recipe_photos('captcha-digits', 5, seed) for seed in (0, 1))
    assert a.sizes == dict(train=40, valid=10, test=len(a.test)) and a.test == b.test and a.train != b.train
    assert not {*a.train, *a.valid, *b.train, *b.valid} & set(a.test) and set(ds.names) == {*a.train, *a.valid, *a.test}

def test_an_unknown_bench_is_told():
    with pytest.raises(SystemExit, match="did you mean 'views'"): bench.main(['veiws'])
