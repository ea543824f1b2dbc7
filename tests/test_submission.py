"A submission from a run to Kaggle's door: what is written, what is refused, what is sent; the door is a stand-in"
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from transfer_course.chapters import submission
from transfer_course.chapters.submission import check_submission, find_competition, read_sample, submit_run
from transfer_course.cli import main
from transfer_course.core import CourseError, sha256, write_json
from transfer_course.data import fetch
from transfer_course.data.sets import get_data
from transfer_course.data.splits import split_by_hash
from transfer_course.data.synthetic import make_pictures
from transfer_course.results.config import Schedule
from transfer_course.train.loop import Experiment

@pytest.fixture(scope='module')
def mirror(tmp_path_factory):
    "A competition in small: two kinds of drawing named as cats and dogs, six without a label"
    root = tmp_path_factory.mktemp('competition')
    drawn = sorted(make_pictures(root/'drawn', 46, ['red-star', 'blue-circle'], size=32).rglob('*.jpg'))
    kind = {'red-star': 'cat', 'blue-circle': 'dog'}
    for o in ('train', 'test1'): (root/'all'/o).mkdir(parents=True)
    for i,p in enumerate(drawn[3:-3]): shutil.copy(p, root/'all'/'train'/f'{kind[p.parent.name]}.{i}.jpg')
    for i,p in enumerate([*drawn[:3], *drawn[-3:]], 1): shutil.copy(p, root/'all'/'test1'/f'{i}.jpg')
    packed = root/'packed'
    packed.mkdir()
    for o in ('train', 'test1'): shutil.make_archive(packed/o, 'zip', root/'all', o)
    (packed/'sampleSubmission.csv').write_text('id,label\n' + ''.join(f'{i},0\n' for i in range(1, 7)))
    (root/'mirror'/'archives').mkdir(parents=True)
    archive = root/'mirror'/'archives'/'dogs-vs-cats.zip'
    shutil.make_archive(archive.with_suffix(''), 'zip', packed)
    write_json(archive.with_suffix('.json'), dict(sha256=sha256(archive), complete=False, part='drawings'))
    return root

@pytest.fixture(scope='module')
def run(mirror, tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setenv('TRANSFER_COURSE_MIRROR', str(mirror/'mirror'))
        m.setenv('TRANSFER_COURSE_RUNS', str(mirror/'runs'))
        config = dict(arch='tf_efficientnet_lite0', schedule=Schedule.fine_tune(1), size=32, bs=8)
        exp = Experiment('own', 'dogs-vs-cats', lambda ds: split_by_hash(ds, .25), arms=('linear_probe',), seeds=(0,), **config)
        yield exp.run(log=lambda *a: None)[0]

def whole(monkeypatch, rows=6):
    "The six test photos are all there are"
    real = fetch.data_sets()
    real['dogs-vs-cats']['submission']['rows'] = rows
    for o in (fetch, submission): monkeypatch.setattr(o, 'data_sets', lambda: real)

def door(monkeypatch, answer):
    "Kaggle's client, which notes what it is given"
    given = []
    def take(*args):
        given.append(args)
        if isinstance(answer, BaseException): raise answer
        return answer
    monkeypatch.setattr(fetch, '_kaggle_api', lambda entry: SimpleNamespace(competition_submit=take))
    return given

def test_a_part_is_written_checked_and_never_sent(run, tmp_path, monkeypatch, capsys):
    sent = door(monkeypatch, 'thank you')
    monkeypatch.chdir(tmp_path)
    assert main(['submit', run.name]) == 0
    said = capsys.readouterr().out
    assert '6 rows for dogs-vs-cats (accuracy)' in said and 'answers 6 of the 12,500 test photos' in said and not sent
    rows = pd.read_csv(tmp_path/'submission.csv')
    assert rows.id.tolist() == [1, 2, 3, 4, 5, 6] and set(rows.label) <= {0, 1}
    assert sorted(rows.label.tolist()) == [0, 0, 0, 1, 1, 1]                # drawn[:3] are circles, which stand for dogs

def test_a_whole_one_is_sent(run, tmp_path, monkeypatch):
    whole(monkeypatch)
    sent = door(monkeypatch, 'Successfully submitted')
    said = submit_run(run, tmp_path/'s.csv')
    assert 'Sent: Successfully submitted' in said
    assert sent == [(str(tmp_path/'s.csv'), run.name, 'dogs-vs-cats')]
    assert 'Not sent, as requested' in submit_run(run, tmp_path/'s.csv', send=False) and len(sent) == 1

@pytest.mark.parametrize('status,words', [(403, 'accept the rules'), (401, 'does not accept the token')])
def test_refusals_in_words(run, tmp_path, monkeypatch, status, words):
    import requests
    whole(monkeypatch)
    door(monkeypatch, requests.HTTPError(response=SimpleNamespace(status_code=status)))
    with pytest.raises(CourseError, match=words): submit_run(run, tmp_path/'s.csv')
    assert (tmp_path/'s.csv').exists()                                      # written all the same

def test_without_a_token(run, tmp_path, monkeypatch):
    whole(monkeypatch)
    def api(entry): raise fetch._NotHere('Kaggle wants a token')
    monkeypatch.setattr(fetch, '_kaggle_api', api)
    with pytest.raises(CourseError, match='was not sent: Kaggle wants a token'): submit_run(run, tmp_path/'s.csv')

def test_gaps_in_the_test_photos(run, tmp_path):
    ds = get_data('dogs-vs-cats')
    sample = ds.path/'sampleSubmission.csv'
    kept = sample.read_text()
    try:
        sample.write_text(kept + '7,0\n')
        with pytest.raises(CourseError, match='such as id 7'): submit_run(run, tmp_path/'s.csv')
        sample.write_text(kept.replace('4,0\n', ''))
        with pytest.raises(CourseError, match='such as id 4'): submit_run(run, tmp_path/'s.csv')
        sample.write_text('id;label\n1;0\n')
        with pytest.raises(CourseError, match='no sample of a submission'): read_sample(sample)
    finally: sample.write_text(kept)
    assert not (tmp_path/'s.csv').exists()

def test_runs_of_other_classes_or_data(run, tmp_path):
    other = SimpleNamespace(name='flowers', classes=('rose', 'tulip'), data=SimpleNamespace(name='dogs-vs-cats'))
    with pytest.raises(CourseError, match="asks for 'dog'"): submit_run(other, tmp_path/'s.csv')
    flowers = SimpleNamespace(data=SimpleNamespace(name='sample-dogs-vs-cats'))
    with pytest.raises(CourseError, match='belongs to no competition'): submit_run(flowers, tmp_path/'s.csv')

def test_rows_that_do_not_match_the_sample(tmp_path):
    ids = [1, 2, 3]
    (tmp_path/'s.csv').write_text('id,label\n1,0.5\n3,0.5\n2,0.5\n')
    with pytest.raises(CourseError, match='Row 2 of the submission is for id 3'): check_submission(tmp_path/'s.csv', ids)
    (tmp_path/'s.csv').write_text('id,label\n1,0.5\n2,0.5\n')
    with pytest.raises(CourseError, match='2 rows, and the sample file 3'): check_submission(tmp_path/'s.csv', ids)
    (tmp_path/'s.csv').write_text('id,label\n1,0.5\n2,a\n3,.1\n')
    with pytest.raises(CourseError, match='numbers from 0 to 1'): check_submission(tmp_path/'s.csv', ids)
    (tmp_path/'s.csv').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(CourseError): check_submission(tmp_path/'s.csv', ids)

def test_both_editions_are_known():
    assert find_competition('dogs-vs-cats').metric == 'accuracy'
    assert find_competition('dogs-vs-cats-redux').name == 'dogs-vs-cats-redux-kernels-edition'
