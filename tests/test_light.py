"What only reads results starts at once: no torch, and no pandas or matplotlib either until a table is asked for"
import subprocess
import sys

import pytest

HEAVY = {'torch', 'fastai', 'timm', 'pandas', 'matplotlib', 'sklearn', 'PIL'}

def loaded(code):
    "Which of the heavy packages a fresh process has imported after this code"
    code = f'import sys\n{code}\nprint(*sys.modules, file=sys.stderr)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return HEAVY & set(done.stderr.split())

def test_reading_results_needs_neither_torch_nor_pandas():
    assert not loaded("""
import transfer_course.results.claims
from transfer_course.results.store import *
assert len(load_runs('flowers', own=False)) > 60
""")

COMMANDS = """
from transfer_course.cli import main
for o in ['claims'], ['claims', '--stale']: assert main(o) == 0
"""

@pytest.mark.parametrize('code', ['import transfer_course.results.report', 'import transfer_course.data.openimages', COMMANDS],
                         ids=['report', 'openimages', 'claims'])
def test_tables_and_verdicts_need_no_torch(code): assert not loaded(code) & {'torch', 'fastai', 'timm', 'sklearn'}
