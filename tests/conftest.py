"""`pytest --slow` adds the long ones: thousands of damaged files, hundreds of kills. `make test FLAGS=slow` passes it on.
`pytest --gpu tests/test_export.py …` pretends that there is a GPU."""
import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from pretend_gpu import pretended_gpu

# the older name of the same folder
if old := os.environ.pop('TRANSFER_COURSE_SHELF', None): os.environ.setdefault('TRANSFER_COURSE_MIRROR', old)
# else hypothesis makes a folder in the checkout
os.environ.setdefault('HYPOTHESIS_STORAGE_DIRECTORY', str(Path(tempfile.gettempdir())/'hypothesis'))

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='the tests that take minutes too')
    parser.addoption('--gpu', action='store_true', help='with a GPU that is only pretended')

@pytest.fixture(scope='session', autouse=True)
def _device(request):
    with pretended_gpu() if request.config.getoption('--gpu') else contextlib.nullcontext(): yield

def pytest_configure(config): config.addinivalue_line('markers', 'slow: takes minutes; asked for by --slow')

def pytest_collection_modifyitems(config, items):
    if config.getoption('--slow'): return
    for o in items:
        if 'slow' in o.keywords: o.add_marker(pytest.mark.skip(reason='takes minutes: asked for by --slow'))
