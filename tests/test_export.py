"A photo has one answer: by path, bytes, PIL or array, before and after export, in ONNX Runtime and without torch."
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from transfer_course.cli import main
from transfer_course.core import CourseError
from transfer_course.data.splits import split_by_hash
from transfer_course.data.synthetic import make_picture, make_pictures
from transfer_course.results.config import Schedule
from transfer_course.train.explain import evidence_maps, explain
from transfer_course.train.loop import Experiment
from transfer_course.train.predict import export, learner_of, open_net, predict

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A linear probe on drawings"
    with pytest.MonkeyPatch.context() as m:
        root = tmp_path_factory.mktemp('export')
        m.setenv('TRANSFER_COURSE_RUNS', str(root/'runs'))
        folder = make_pictures(root/'drawings', 24, ['red-star', 'blue-circle'], size=64)
        exp = Experiment('own', str(folder), lambda ds: split_by_hash(ds, .25, .25), arch='tf_efficientnet_lite0', scale='sample', size=64,
                         bs=8, schedule=Schedule.fine_tune(1), arms=('linear_probe',), seeds=(0,))
        run, = exp.run(log=lambda *o: None)
        yield run, folder

def photos(folder):
    "One picture saved in many ways"
    folder.mkdir()
    picture,exif = make_picture('red-star', 3, 96).crop((0, 0, 96, 48)), Image.Exif()
    exif[0x0112] = 6
    picture.save(folder/'plain.png')
    picture.save(folder/'rotated.jpg', exif=exif)
    faded = picture.convert('RGBA')
    faded.putalpha(picture.convert('L'))
    faded.save(folder/'rgba.png')
    picture.quantize(16).save(folder/'palette.png', transparency=0)
    Image.fromarray(np.asarray(picture.convert('L')).astype('uint16')*257).save(folder/'grey16.png')
    return sorted(folder.iterdir())

def test_one_answer_for_a_photo(trained, tmp_path):
    "An array has neither an EXIF turn nor a palette, so it is taken from the file only where both agree"
    run,_ = trained
    nets = run, open_net(export(run, tmp_path/'net')), open_net(export(run, tmp_path/'net.pkl'))
    for path in photos(tmp_path/'photos'):
        ways = [path, path.read_bytes(), Image.open(path)]
        if path.stem in ('plain', 'grey16', 'rgba'): ways.append(np.array(Image.open(path)))
        found = [predict(net, o)[0]['confidence'] for net in nets for o in ways]
        with nets[2].no_bar(), nets[2].no_logging(): found.append(float(nets[2].predict(path)[2].max()))
        assert max(found)-min(found) < 1e-4, (path.name, found)

def test_an_exported_folder_executes_nothing(trained, tmp_path):
    run,_ = trained
    folder = export(run, tmp_path/'net')
    assert {o.suffix for o in folder.iterdir()} == {'.json', '.safetensors', '.md'}
    with safe_open(folder/run.weights_path.name, 'pt') as f: assert f.keys()
    card = (folder/'MODEL_CARD.md').read_text(encoding='utf-8')
    lo,hi = (round(100*o) for o in run.test.interval)
    for says in (*run.classes, f'{run.test.correct} of {run.test.n} test photos', f'{lo} to {hi} %', 'Not tested on'): assert says in card

@pytest.mark.skipif(not all(map(find_spec, ('onnxruntime', 'onnxscript'))), reason="pip install 'transfer_course[deploy]'")
def test_onnx_needs_no_torch(trained, tmp_path, capsys, monkeypatch):
    run,data = trained
    with pytest.raises(CourseError, match='--data FOLDER'): export(run, tmp_path/'net', onnx=True)
    folder = export(run, tmp_path/'net', onnx=True, data=data)
    assert 'predicts as torch does on 24 photos' in capsys.readouterr().out
    paths = [o for o in photos(tmp_path/'photos') if o.stem != 'grey16'] + sorted(data.glob('*/*'))[:4]
    blocked = "import sys, runpy; sys.modules.update(torch=None, fastai=None, transfer_course=None); runpy.run_path(sys.argv.pop(1))"
    done = subprocess.run([sys.executable, '-c', blocked, folder/'classify.py', *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line,want in zip(done.stdout.splitlines(), predict(run, paths), strict=True):
        pred,p,path = line.split('\t')
        assert (pred, path) == (want['pred'], want['picture']) and float(p) == pytest.approx(want['confidence'], abs=2e-4)
    learn = learner_of(run)
    learn.model[1][-1].bias.data += 1.5 # on both classes: the answers stay
    learn.model[1][-1].weight.data *= -1
    from transfer_course.train import predict as module
    once = module._onnx_session
    monkeypatch.setattr(module, '_onnx_session', lambda net, *o, **k: once(module._Deployed(learn, run), *o, **k))
    with pytest.raises(CourseError, match='differ by up to .* no file was written'): export(run, tmp_path/'other', onnx=True, data=data)
    assert not (tmp_path/'other').exists()

def test_without_onnx(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(CourseError, match=r'transfer_course\[deploy\]'): export(trained[0], tmp_path/'net', onnx=True, data=trained[1])

def test_maps_add_up_to_the_output(trained):
    run,data = trained
    learn = learner_of(run)
    xb = torch.rand(3, 3, 64, 64).to(learn.dls.device)
    with torch.no_grad(): logits = learn.model.eval()(xb)
    for k,bias in enumerate(learn.model[1][-1].bias.detach()):
        assert torch.allclose(evidence_maps(learn, xb, k).mean((1, 2, 3)) + bias, logits[:,k], atol=1e-3)
    assert explain(run, sorted(data.glob('*/*'))[0]).mode == 'RGB'

def test_predict_goes_on_over_broken_files(trained, tmp_path, monkeypatch, capsys):
    "The chosen run answers for a folder; a file's name is no formula in the table"
    run,data = trained
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(run.path.parents[1]))
    names = sorted(data.glob('*/*'))[:2]
    (tmp_path/'in').mkdir()
    for o,new in zip(names, ('=1+1.jpg', 'b.jpg'), strict=True): (tmp_path/'in'/new).write_bytes(o.read_bytes())
    (tmp_path/'in'/'a.jpg').write_bytes(names[0].read_bytes()[:60])
    monkeypatch.chdir(tmp_path/'in')
    assert main(['predict', '=1+1.jpg', '.', '--csv', '../out.csv']) == 1
    out,err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and '1 of 4 could not be used' in err and 'a.jpg' in err and f'With {run.name}' in err
    table = (tmp_path/'out.csv').read_text(encoding='utf-8-sig').splitlines()
    assert len(table) == 5 and table[1].startswith("'=1+1.jpg,") and table[0].endswith('error,blue-circle,red-star')
    assert main(['predict', run.name, 'b.jpg']) == 0 and main(['predict', 'a.jpg']) == 2
    assert main(['explain', 'b.jpg', '--out', str(tmp_path/'why.png')]) == 0 and (tmp_path/'why.png').exists()
