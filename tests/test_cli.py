"The command line: faults of the machine are sentences, names do no harm, and what is read or stopped leaves nothing behind."
import contextlib
import csv
import io
import os
import signal
import subprocess
import sys

import pytest

from transfer_course import cli
from transfer_course.cli import main

@pytest.fixture
def runs(monkeypatch, tmp_path):
    "A folder of runs for one test"
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(tmp_path/'runs'))
    return tmp_path/'runs'

@pytest.fixture
def command(monkeypatch):
    "A command that does what a test wants"
    def make(f): monkeypatch.setitem(cli._commands, 'cache', (f, ()))
    return make

def raises(error):
    def f(args): raise error
    return f

def test_faults_of_the_machine_are_sentences(command, capsys):
    "A full disk, no right, another's lock, no memory, names of other encodings, torch's writer"
    writer = RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0')
    faults = [OSError(28, 'No space left on device', 'a.json'), PermissionError(13, 'Permission denied', '.x.lock'), MemoryError(),
              UnicodeEncodeError('utf-8', '\ud800', 0, 1, 'surrogates not allowed'), RuntimeError("can't allocate memory"), writer]
    for fault in faults:
        command(raises(fault))
        assert main(['cache']) == 2
        err = capsys.readouterr().err
        assert err.startswith('transfer_course: ') and err.count('\n') == 1, fault
        with pytest.raises(type(fault)): main(['cache', '--debug'])

def test_where_runs_cannot_be_kept(monkeypatch, tmp_path, capsys):
    "A file in the place of the folder, a folder without the right to write, and a run that another process holds"
    folder,words = tmp_path/'runs', ['run', 'flowers', '--scale', 'sample', '--size', '32', '--seeds', '1']
    monkeypatch.setenv('TRANSFER_COURSE_RUNS', str(folder))
    def says():
        assert main(words) == 2
        err = capsys.readouterr().err.splitlines()
        return err[-1] if 'Traceback' not in err else ''
    folder.touch()
    assert 'runs/flowers' in (said := says()) and 'name another place' in said
    folder.unlink()
    folder.mkdir(mode=0o500)
    if not os.access(folder, os.W_OK): assert 'get the right to it' in says() # root may write anywhere
    folder.chmod(0o700)
    exp = cli._experiment(cli._parser('run').parse_args(words))
    name = exp.name(exp.arms[0], exp.seeds[0])
    hold = f"from transfer_course.core import *\nwith locked(runs_path('flowers', '{name}.json')): print(flush=True); input()"
    with subprocess.Popen([sys.executable, '-c', hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        assert 'Another process is working on' in (said := says()) and name in said
        other.communicate('\n')

def test_a_fault_of_ours_shows_where(command):
    command(raises(KeyError('x')))
    with pytest.raises(KeyError): main(['cache'])

WORDS = [['run', 'flowers', '--seeds', '9'*20], ['run', 'flowers', '--seeds', f"{'9'*20},"], ['run', 'flowers', '--size', '0'],
         ['run', 'flowers', '--size', '-5'], ['run', 'flowers', '--size', '1000000'], ['run', 'flowers', '--bs', '0'],
         ['run', '--data', '~nosuchuser/photos'], ['run', '--data', 'a\0b'], ['run', '--data', 'a'*5000], ['run', '--data', 'a'*4000],
         ['predict', 'a'*300, 'b.jpg'], ['runs', '--commit']]

@pytest.mark.parametrize('words', WORDS, ids=lambda o: ' '.join(o)[:30].replace('\0', '0'))
def test_words_out_of_bounds(words, runs, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.count('\n') == 1

def test_numbers_out_of_bounds(capsys):
    for words in ['run', 'flowers', '--epochs', '0'], ['app', '--port', '99999'], ['workbook', 'x', '--minutes', 'nan']:
        with pytest.raises(SystemExit) as e: main(words)
        assert e.value.code == 2 and 'give' in capsys.readouterr().err

def test_names_do_nothing_to_a_terminal(command, capsys):
    command(lambda args: print('rose\x1b[2J\u202e\tred'))
    assert main(['cache']) == 0
    assert capsys.readouterr().out == 'rose\\x1b[2J\\u202e\tred\n'

@pytest.mark.parametrize('encoding', ['ascii', 'cp1252'])
def test_any_encoding_of_the_output(command, encoding):
    command(lambda args: print('Äpfel ✓ ≥ \ud800'))
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    with contextlib.redirect_stdout(out): assert main(['cache']) == 0
    assert b'pfel \\u2713 \\u2265 \\ud800' in out.buffer.getvalue()

class Broken(io.StringIO):
    "An output that takes nothing"
    def __init__(self, error):
        super().__init__()
        self.error = error
    def write(self, text): raise self.error

@pytest.mark.parametrize(('error', 'status'), [(BrokenPipeError(32, 'Broken pipe'), 141), (OSError(28, 'No space left on device'), 2)])
def test_an_output_that_takes_no_more(command, error, status, monkeypatch):
    command(lambda args: print('epoch 1'))
    monkeypatch.setattr(sys, 'stdout', Broken(error))
    assert main(['cache']) == status

def test_without_an_output(command, monkeypatch):
    command(lambda args: print(sys.stdout.isatty()))
    monkeypatch.setattr(sys, 'stdout', None)
    assert main(['cache']) == 0

@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this system has no /dev/full')
def test_a_full_disk_behind_the_output():
    with open('/dev/full', 'w') as full:
        done = subprocess.run([sys.executable, '-m', 'transfer_course.cli', 'data'], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'No space left' in done.stderr

@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='this system has no such signals')
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP'])
def test_ended_by_a_signal_it_cleans_up(command, name, tmp_path):
    def waits(args):
        try: os.kill(os.getpid(), getattr(signal, name))
        finally: (tmp_path/'cleaned').touch()
    command(waits)
    with pytest.raises(SystemExit) as e: main(['cache'])
    assert e.value.code == 128 + getattr(signal, name) and (tmp_path/'cleaned').exists()
    assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL

def test_runs_are_listed_and_none_starts(runs, capsys):
    assert main(['runs', 'flowers']) == 0
    out = capsys.readouterr().out
    assert out.startswith('Your own: 0 runs.\nOf the course: ') and 'validation' in out and not runs.exists()

@pytest.mark.filterwarnings('error')
def test_what_data_leave_beside_runs_is_no_run(runs, capsys):
    (runs/'data').mkdir(parents=True)
    (runs/'data'/'own-photos.split.json').write_text('{}')
    assert main(['runs']) == 0
    assert capsys.readouterr().out.startswith('Your own: 0 runs.')

def test_data_says_where_a_set_is(runs, capsys, monkeypatch):
    monkeypatch.delenv('TRANSFER_COURSE_MIRROR', raising=False)
    assert main(['data']) == 0
    flowers = capsys.readouterr().out.splitlines()[0]
    assert 'not here (Kaggle; sample: here)' in flowers

def test_the_version_and_defaults(capsys):
    from transfer_course import __version__
    for words,says in {'--version': __version__, 'run --help': 'squish | crop | pad; default'}.items():
        with pytest.raises(SystemExit): main(words.split())
        assert says in ' '.join(capsys.readouterr().out.split())

def test_a_table_holds_no_formula(tmp_path):
    from transfer_course.core import write_csv
    write_csv(tmp_path/'a.csv', [['name', 'n'], ['=HYPERLINK("http://x")', -1.5], ['\t@a\x1b', 2]])
    with open(tmp_path/'a.csv', encoding='utf-8-sig', newline='') as f: rows = list(csv.reader(f))
    assert rows == [['name', 'n'], ['\'=HYPERLINK("http://x")', '-1.5'], ["' @a ", '2']]
