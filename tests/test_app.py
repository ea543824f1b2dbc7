"The page for a browser: what it shows, without Gradio; and the page itself, in headless Chromium where that is installed."
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import pytest

from transfer_course.app import _gradio, find_neighbours, heading_html, open_classifier, prediction_html, training_photos
from transfer_course.core import CourseError, course_path
from transfer_course.data.splits import get_split, split_by_hash
from transfer_course.data.synthetic import make_pictures, odd_files
from transfer_course.results.config import Schedule
from transfer_course.results.store import load_runs
from transfer_course.train import features
from transfer_course.train.loop import Experiment
from transfer_course.train.predict import export, load_learner_of, predict

SAMPLE = course_path('data', 'sample')

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "The reader's own folder, with two linear probes in it: on the sample's flowers, and on a folder of drawings"
    with pytest.MonkeyPatch.context() as m:
        root = tmp_path_factory.mktemp('runs')
        m.setenv('TRANSFER_COURSE_RUNS', str(root))
        m.delenv('TRANSFER_COURSE_MIRROR', raising=False)
        m.setenv('OMP_NUM_THREADS', '1')
        make_pictures(root/'drawings', 24, ['red-star', 'blue-circle'], size=40)
        settings = dict(arms=('linear_probe',), seeds=(0,), arch='tf_efficientnet_lite0', schedule=Schedule.fine_tune(1), scale='sample')
        flowers, = Experiment('flowers', 'flowers', get_split, size=64, **settings).run(log=lambda *a: None)
        drawings, = Experiment('own', str(root/'drawings'), lambda ds: split_by_hash(ds, .25), size=32, **settings).run(log=lambda *a: None)
        yield dict(root=root, flowers=flowers, drawings=drawings)

@pytest.fixture(scope='module')
def net(runs): return open_classifier(runs['flowers'].name)

def test_a_flower(runs, net):
    a = net.predict(SAMPLE/runs['flowers'].split().test[0])
    assert list(a.probs) == sorted(a.probs, key=a.probs.get, reverse=True) and sorted(a.probs) == net.classes
    assert sum(a.probs.values()) == pytest.approx(1, abs=1e-4)
    assert [o.cosine for o in a.near] == sorted((o.cosine for o in a.near), reverse=True) and len(a.near) == 6
    for o in a.near: assert o.path.parent.name == o.label and o.credit['licence'].startswith('CC BY') and o.credit['author']
    shown = prediction_html(a)
    assert a.near[0].credit['source'] in shown and shown.count('<tr') == 5 and shown.count('<img') == 7

def test_it_predicts_as_the_command_does(runs, net):
    for name in runs['flowers'].split().test[:8]:
        a, = predict(runs['flowers'], [SAMPLE/name])
        assert net.predict(SAMPLE/name).probs == a['probs']

def test_a_training_photo_is_its_own_neighbour(runs, net):
    for n in runs['flowers'].split().train[:4]:
        a = net.predict(SAMPLE/n)
        assert a.near[0].path == SAMPLE/n and a.near[0].cosine > .999
    assert 'this very photo, or a copy' in prediction_html(a)

def test_what_is_no_picture_is_refused_and_it_goes_on(net, tmp_path):
    odd = odd_files(tmp_path)
    refusals = dict(text='it is no picture, whatever its name says', empty='the file is empty', truncated='it is cut short',
                    huge='its header announces 400,000,000 pixels')
    for kind,why in refusals.items():
        a = net.predict(odd[kind])
        assert not a.probs and a.refused.startswith(odd[kind].name) and why in a.refused and str(tmp_path) not in a.refused
        assert why in prediction_html(a) and 'role="alert"' in prediction_html(a)
    for kind in ('cmyk', 'grey16', 'palette', 'rgba', 'rotated', 'animated', 'pixel', 'extreme', 'name'):
        assert net.predict(odd[kind]).probs, kind

def test_features_are_computed_once(runs, monkeypatch):
    run,folder,passes = runs['drawings'], runs['root']/'drawings', []
    once = features.pooled_features
    monkeypatch.setattr(features, 'pooled_features', lambda *args: passes.append(1) or once(*args))
    learn = load_learner_of(run)
    first = find_neighbours(run, learn, folder)
    passes.clear()
    assert np.array_equal(find_neighbours(run, learn, folder).features, first.features) and not passes
    few = find_neighbours(run, learn, folder, most=9) # other photos: another pass
    assert passes.pop() and (len(few.names), few.of) == (9, run.data.split.train)
    next(learn.model[0].parameters()).data[:] += 1 # other weights: another pass
    assert not np.allclose(find_neighbours(run, learn, folder).features, first.features) and passes

def test_a_selection_is_told(runs):
    net = open_classifier(runs['flowers'].name, most=20)
    assert 'of 20 training photos, chosen from 160' in heading_html(net)

def test_ones_own_folder(runs, tmp_path):
    run,photo = runs['drawings'], sorted((runs['root']/'drawings').glob('*/*.jpg'))[0]
    net = open_classifier(run.name)
    assert net.neighbours is None and '--data FOLDER' in net.why_none and '--data FOLDER' in heading_html(net)
    a = net.predict(photo)
    assert a.probs and not a.near and '<figure' not in prediction_html(a)
    assert open_classifier(run.name, runs['root']/'drawings').predict(photo).near[0].label in net.classes
    with pytest.raises(CourseError, match='There is no folder'): open_classifier(run.name, tmp_path/'elsewhere')
    with pytest.raises(CourseError, match='none of the photos that'): open_classifier(run.name, SAMPLE)

def test_photos_that_are_gone(runs):
    run = runs['flowers']
    run = replace(run, data=replace(run.data, name='flowers')) # as at `quick`; neither mirror nor download is here
    with pytest.raises(CourseError, match='The photos of flowers are not on this machine: `transfer_course data flowers`'):
        training_photos(run)
    for name in 'own:shapes', 'shapes':
        run = replace(run, data=replace(run.data, name=name))
        with pytest.raises(CourseError, match="a folder 'shapes'.* `--data FOLDER`"): training_photos(run)

@pytest.mark.parametrize(('chapter', 'scale', 'says'), [('flowers', 'quick', 'came with the course'), ('captcha', 'sample', 'reads texts')])
def test_committed_runs_are_refused(chapter, scale, says):
    with pytest.raises(CourseError, match=says): open_classifier(load_runs(chapter, own=False, scale=scale)[0].name)

def test_an_exported_learner(runs, net, tmp_path):
    other = open_classifier(str(export(runs['flowers'], tmp_path/'flowers.pkl')))
    photo = SAMPLE/runs['flowers'].split().test[3]
    a,b = net.predict(photo), other.predict(photo)
    assert a.pred == b.pred and not b.near and 'does not know which photos' in heading_html(other)

def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(CourseError, match=r"pip install 'transfer_course\[app\]'"): _gradio()

# --- The page ---

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
GRADIO = pytest.mark.skipif(find_spec('gradio') is None, reason="Gradio is not installed: pip install 'transfer_course[app]'")
NO_BROWSER = find_spec('playwright') is None or CHROMIUM is None
BROWSER = pytest.mark.skipif(NO_BROWSER, reason='Playwright for Python, or Chromium, is not installed')
QUIET = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'

def app(run, port, **env):
    "The command in a process of its own"
    command = [sys.executable, '-W', 'ignore', '-m', 'transfer_course.cli', 'app', run.name, '--port', str(port)]
    return subprocess.Popen(command, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

@pytest.fixture(scope='module')
def served(runs, tmp_path_factory):
    "The page's address, and where what is dropped is kept"
    tmp = tmp_path_factory.mktemp('dropped')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    proxy = dict.fromkeys(('http_proxy', 'HTTP_PROXY'), 'http://127.0.0.1:9') # it must not come between
    p = app(runs['flowers'], port, TMPDIR=str(tmp), **proxy)
    while not (line := p.stdout.readline()).startswith('http://127.0.0.1:'):
        assert line, p.stderr.read()
    yield line.split()[0], tmp
    p.send_signal(signal.SIGINT)
    _,err = p.communicate(timeout=300)
    assert p.returncode == 0 and 'Traceback' not in err, err
    assert not list(tmp.rglob('*.jpg')) # what was dropped is gone

@GRADIO
def test_a_port_that_is_taken(runs):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        p = app(runs['drawings'], s.getsockname()[1])
        _,err = p.communicate()
    assert p.returncode == 2 and 'name another one with --port' in err and err.count('\n') == 1, err

@GRADIO
def test_only_this_machine_is_served(served):
    port = int(served[0].rstrip('/').rpartition(':')[2])
    others = {o[4][0] for o in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {'127.0.0.1'}
    for host in others:
        with socket.socket() as s:
            s.settimeout(2)
            assert s.connect_ex((host, port)), f'{host} answers too'

def upload(address, size=10, **headers):
    "Send a file as a page would: the status"
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(size) + b'\r\n--x--\r\n'
    request = Request(f'{address}gradio_api/upload', body, {'Content-Type': 'multipart/form-data; boundary=x'} | headers)
    try: return build_opener(ProxyHandler({})).open(request).status
    except HTTPError as e: return e.code

@GRADIO
def test_uploads(served):
    "Only from the page itself, and of a photo's size"
    assert upload(served[0]) == upload(served[0], Origin=served[0].rstrip('/')) == 200
    assert upload(served[0], Origin='http://elsewhere.example') == upload(served[0], Host='elsewhere.example') == 403
    assert upload(served[0], 51<<20) == 413

@GRADIO
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP'])
def test_what_was_dropped_goes_however_it_ends(runs, tmp_path, name):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    p = app(runs['drawings'], port, TMPDIR=str(tmp_path))
    while not (line := p.stdout.readline()).startswith('http://127.0.0.1:'): assert line, p.stderr.read()
    assert upload(line.split()[0]) == 200 and list(tmp_path.rglob('a.jpg'))
    p.send_signal(getattr(signal, name))
    p.communicate(timeout=300)
    assert p.returncode == 128 + getattr(signal, name) and not list(tmp_path.rglob('a.jpg'))

@pytest.fixture
def page(served):
    "The page in a browser; nothing may come from elsewhere, no font and no script"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        page = browser.new_page(viewport=dict(width=1200, height=900))
        page.set_default_timeout(300_000)
        requested,errors = [], []
        page.on('request', lambda r: requested.append(r.url))
        page.on('pageerror', lambda e: errors.append(str(e)))
        page.goto(served[0])
        yield page
        assert {o.split('/')[2] for o in requested if '://' in o} == {served[0].split('/')[2]} and not errors
        browser.close()

@GRADIO
@BROWSER
def test_drop_photos_in_a_browser(runs, served, page, tmp_path):
    test = runs['flowers'].split().test
    text,strange = tmp_path/'notes.jpg', tmp_path/'wild rose – Äpfel {{x}} ${1} & <b>.jpg'
    text.write_text('This was saved from a web page, under the name of a picture.\n')
    shutil.copy(SAMPLE/test[50], strange)
    def drop(*files): page.set_input_files('input[type=file]', [str(o) for o in files])
    drop(SAMPLE/test[0], text, strange)
    page.wait_for_function("document.querySelectorAll('.answer').length == 3")
    flower,refused,other = page.query_selector_all('.answer')
    assert flower.query_selector('h3').inner_text().split()[0] in ('daisy', 'dandelion', 'rose', 'sunflower', 'tulip')
    assert len(flower.query_selector_all('tr')) == 5 and len(flower.query_selector_all('figure')) == 6 and 'CC BY' in flower.inner_text()
    assert refused.inner_text().startswith("notes.jpg can't be used: it is no picture")
    assert 'wild rose' in other.inner_text() and other.query_selector('h3')
    assert all(o.evaluate('e => e.complete && e.naturalWidth > 0') for o in page.query_selector_all('.answer img'))
    for width in (1200, 390): # a desk's and a phone's
        page.set_viewport_size(dict(width=width, height=844))
        assert page.evaluate('document.documentElement.scrollWidth') <= width
    assert list(served[1].rglob('*.jpg'))
    page.click('[aria-label="Clear"]')
    page.wait_for_function("document.querySelectorAll('.answer').length == 0")
    drop(text)
    page.wait_for_selector('.answer.refused')
