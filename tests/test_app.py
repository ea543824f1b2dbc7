"The page for a browser: what it says, without Gradio; and the page itself, in headless Chromium where that is installed."
import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from transfer_course import models
from transfer_course.app import answer_html, find_neighbours, heading_html, open_classifier, training_photos
from transfer_course.core import CourseError, course_path
from transfer_course.data.splits import get_split, split_by_hash
from transfer_course.data.synthetic import make_pictures, odd_files
from transfer_course.results.config import Schedule
from transfer_course.train.loop import Experiment
from transfer_course.train.predict import export, load_learner_of

SAMPLE = course_path('data', 'sample')

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "The reader's own folder, with two runs in it: a probe on the sample's flowers, and one on a folder of drawings"
    with pytest.MonkeyPatch.context() as m:
        root = tmp_path_factory.mktemp('runs')
        m.setenv('TRANSFER_COURSE_RUNS', str(root))
        m.delenv('TRANSFER_COURSE_MIRROR', raising=False)
        m.setenv('OMP_NUM_THREADS', '1')
        make_pictures(root/'drawings', 24, ['red-star', 'blue-circle'], size=40)
        make = lambda data, split, size: Experiment('flowers' if data=='flowers' else 'own', data, split, 'tf_efficientnet_lite0', Schedule.fine_tune(1), scale='sample', size=size, arms=('probe',), seeds=(0,))
        yield dict(root=root, flowers=make('flowers', get_split, 96).run()[0], drawings=make(str(root/'drawings'), lambda ds: split_by_hash(ds, .25), 32).run()[0])

@pytest.fixture(scope='module')
def net(runs): return open_classifier(runs['flowers'].name)

def test_a_flower(runs, net):
    test = runs['flowers'].split().test
    a = net.answer(SAMPLE/test[0])
    assert list(a.probs) == sorted(a.probs, key=a.probs.get, reverse=True) and sorted(a.probs) == net.classes
    assert sum(a.probs.values()) == pytest.approx(1, abs=1e-4)
    assert [o.alike for o in a.near] == sorted((o.alike for o in a.near), reverse=True) and len(a.near) == 6
    for o in a.near: assert o.path.parent.name == o.label and o.credit['licence'].startswith('CC BY') and o.credit['author']
    shown = answer_html(a)
    assert a.near[0].credit['source'] in shown and shown.count('<tr') == 5 and shown.count('<img') == 7

def test_it_answers_as_predict_does(runs, net):
    rows = runs['flowers'].answers()
    rows = rows[rows.part=='test'].head(8)
    for _,row in rows.iterrows():
        a = net.answer(SAMPLE/row['name'])
        assert a.pred == row.pred
        for c in net.classes: assert a.probs[c] == pytest.approx(row[f'p_{c}'], abs=2e-2) # batches of another size, in half precision on some processors

def test_features_on_the_way_are_the_pooled_ones(runs, net):
    names = runs['flowers'].split().train[:6]
    assert names == net.neighbours.names[:6]
    for i,n in enumerate(names):
        near = net.answer(SAMPLE/n).near[0]
        assert near.path == SAMPLE/n and near.alike > .999
    assert 'this very photo, or a copy' in answer_html(net.answer(SAMPLE/names[0]))

def test_what_is_no_picture_is_refused_and_it_goes_on(net, tmp_path):
    odd = odd_files(tmp_path)
    for kind,says in dict(text='it is no picture, whatever its name says', empty='the file is empty', truncated='it is cut short', huge='its header announces 400,000,000 pixels').items():
        a = net.answer(odd[kind])
        assert not a.probs and a.refused.startswith(odd[kind].name) and says in a.refused and str(tmp_path) not in a.refused
        assert says in answer_html(a) and 'role="alert"' in answer_html(a)
    for kind in ('cmyk', 'grey16', 'palette', 'rgba', 'rotated', 'animated', 'pixel', 'extreme', 'name'): assert net.answer(odd[kind]).probs, kind

def test_features_are_kept_beside_the_run(runs, monkeypatch):
    run,folder = runs['drawings'], runs['root']/'drawings'
    kept = run.path.with_name(f'{run.name}.features.npz')
    learn = load_learner_of(run)
    first = find_neighbours(run, learn, folder).units
    calls = []
    whole = models.pooled_features
    monkeypatch.setattr(models, 'pooled_features', lambda *args: calls.append(1) or whole(*args))
    before = kept.stat().st_mtime_ns
    assert np.array_equal(find_neighbours(run, learn, folder).units, first) and not calls and kept.stat().st_mtime_ns == before
    body = kept.read_bytes()
    for damaged in (body[:len(body)//2], b'', body[:100] + bytes(50) + body[150:]):
        kept.write_bytes(damaged)
        assert np.allclose(find_neighbours(run, learn, folder).units, first, atol=1e-5) and calls.pop()
    few = find_neighbours(run, learn, folder, most=9) # other photos: computed anew
    assert calls.pop() and (len(few.names), few.of) == (9, run.data['split']['train'])
    whole_weights = run.weights_path.read_bytes()
    find_neighbours(run, learn, folder)
    calls.clear()
    run.weights_path.write_bytes(whole_weights + b' ') # other weights too
    find_neighbours(run, learn, folder)
    assert calls.pop()
    run.weights_path.write_bytes(whole_weights)
    assert not list(kept.parent.glob('.*.part*'))

def test_a_selection_is_said(runs):
    net = open_classifier(runs['flowers'].name, most=20)
    assert 'of 20 training photos, chosen from 160' in heading_html(net)

def test_ones_own_folder_is_asked_for(runs, tmp_path):
    run = runs['drawings']
    net = open_classifier(run.name)
    photo = sorted((runs['root']/'drawings').glob('*/*.jpg'))[0]
    assert net.neighbours is None and '--data FOLDER' in net.why_none and '--data FOLDER' in heading_html(net)
    a = net.answer(photo)
    assert a.probs and not a.near and '<figure' not in answer_html(a)
    net = open_classifier(run.name, runs['root']/'drawings')
    assert net.answer(photo).near[0].label in net.classes
    with pytest.raises(CourseError, match='There is no folder'): open_classifier(run.name, tmp_path/'elsewhere')
    with pytest.raises(CourseError, match='none of the photos that'): open_classifier(run.name, SAMPLE)

def test_photos_that_are_gone(runs, monkeypatch, tmp_path):
    run = runs['flowers']
    monkeypatch.setitem(run.data, 'name', 'flowers') # as a run at `quick` says it; neither shelf nor download is here
    with pytest.raises(CourseError, match='The photos of flowers are not on this machine: `transfer_course data flowers`'): training_photos(run)

def test_a_committed_run_holds_no_weights():
    name = next(course_path('data', 'results', 'flowers').glob('quick-*.json')).stem
    with pytest.raises(CourseError, match='results that came with the course hold none'): open_classifier(name)

def test_a_run_that_reads_texts():
    name = next(course_path('data', 'results', 'captcha').glob('sample-*.json')).stem
    with pytest.raises(CourseError, match='reads texts'): open_classifier(name)

def test_an_exported_learner(runs, net, tmp_path):
    path = export(runs['flowers'], tmp_path/'flowers.pkl')
    other = open_classifier(str(path))
    photo = SAMPLE/runs['flowers'].split().test[3]
    a, b = net.answer(photo), other.answer(photo)
    assert a.pred == b.pred and not b.near and 'does not know which photos' in heading_html(other)

def test_without_gradio():
    code = "import sys; sys.modules['gradio'] = None\nfrom transfer_course.cli import main\nsys.exit(main(['app', 'any']))"
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert out.returncode == 2 and "pip install 'transfer_course[app]'" in out.stderr and out.stderr.count('\n') == 1

# --- The page ---

GRADIO = pytest.mark.skipif(find_spec('gradio') is None, reason="Gradio is not installed: pip install 'transfer_course[app]'")
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
BROWSER = pytest.mark.skipif(find_spec('playwright') is None or CHROMIUM is None, reason='Playwright for Python, or Chromium, is not installed')
QUIET = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()

@pytest.fixture(scope='module')
def served(runs, tmp_path_factory):
    "The command in a process of its own: its address, and where what is dropped is kept"
    tmp = tmp_path_factory.mktemp('dropped')
    env = dict(os.environ, TMPDIR=str(tmp), http_proxy='http://127.0.0.1:9', HTTP_PROXY='http://127.0.0.1:9') # a proxy must not come between
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-m', 'transfer_course.cli', 'app', runs['flowers'].name, '--port', str(free_port())], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (line := p.stdout.readline()).startswith('http://127.0.0.1:'): assert line, p.stderr.read()
    yield line.split()[0], tmp
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0 and 'Traceback' not in err, err
    assert not [o for o in tmp.rglob('*.jpg')] # what was dropped is gone

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()

@GRADIO
def test_a_port_that_is_taken(runs):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        out = subprocess.run([sys.executable, '-W', 'ignore', '-m', 'transfer_course.cli', 'app', runs['drawings'].name, '--port', str(s.getsockname()[1])], capture_output=True, text=True)
    assert out.returncode == 2 and 'say another one with --port' in out.stderr and out.stderr.count('\n') == 1, out.stderr

@GRADIO
def test_only_this_machine_is_served(served):
    url,_ = served
    port = int(url.rstrip('/').rpartition(':')[2])
    others = {o[4][0] for o in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {'127.0.0.1'}
    for host in others:
        with socket.socket() as s:
            s.settimeout(2)
            assert s.connect_ex((host, port)), f'{host} answers too'

@GRADIO
@BROWSER
@pytest.mark.parametrize('size', [(1200, 900), (390, 844)], ids=['desktop', 'phone'])
def test_drop_photos_in_a_browser(runs, served, chromium, tmp_path, size):
    url,dropped = served
    flower = SAMPLE/runs['flowers'].split().test[0]
    text = tmp_path/'notes.jpg'
    text.write_text('This was saved from a web page, under the name of a picture.\n')
    strange = tmp_path/'wild rose – Äpfel {{x}} ${1} & <b>.jpg'
    shutil.copy(SAMPLE/runs['flowers'].split().test[50], strange)
    page = chromium.new_page(viewport=dict(width=size[0], height=size[1]))
    page.set_default_timeout(300_000)
    asked,errors = [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url)
    drop = lambda *files: page.set_input_files('input[type=file]', [str(o) for o in files])
    drop(flower, text, strange)
    page.wait_for_function("document.querySelectorAll('.answer').length == 3")
    answers = page.query_selector_all('.answer')
    assert answers[0].query_selector('h3').inner_text().split()[0] in ('daisy', 'dandelion', 'rose', 'sunflower', 'tulip')
    assert len(answers[0].query_selector_all('tr')) == 5 and len(answers[0].query_selector_all('figure')) == 6 and 'CC BY' in answers[0].inner_text()
    assert answers[1].inner_text().startswith("notes.jpg can't be used: it is no picture")
    assert 'wild rose' in answers[2].inner_text() and answers[2].query_selector('h3')
    assert all(o.evaluate('e => e.complete && e.naturalWidth > 0') for o in page.query_selector_all('.answer img'))
    assert page.evaluate('document.documentElement.scrollWidth') <= size[0]
    page.screenshot(path=tmp_path/'page.png', full_page=True)
    assert list(dropped.rglob('*.jpg'))
    page.click('[aria-label="Clear"]')
    page.wait_for_function("document.querySelectorAll('.answer').length == 0")
    drop(text)
    page.wait_for_selector('.answer.refused')
    assert {o.split('/')[2] for o in asked if '://' in o} == {url.split('/')[2]} and not errors # nothing from elsewhere: no font, no script
    page.close()
