"Pictures made by program: the same bytes in any process, folders that appear whole, odd files that are as odd as they say."
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from transfer_course.core import CourseError, sha256
from transfer_course.data import synthetic
from transfer_course.data.synthetic import COLOURS, PICTURE_CLASSES, SHAPES, make_picture, make_pictures, odd_files

ROOT = Path(__file__).resolve().parents[1]
def sums(folder): return {o.relative_to(folder).as_posix(): sha256(o) for o in sorted(folder.rglob('*')) if o.is_file()}

def test_same_bytes_in_another_process(tmp_path):
    make_pictures(tmp_path/'a', 12, seed=5)
    odd_files(tmp_path/'a'/'odd')
    code = 'import sys; from transfer_course.data.synthetic import *; make_pictures(sys.argv[1], 12, seed=5); odd_files(sys.argv[1]+"/odd")'
    env = os.environ | dict(PYTHONPATH=str(ROOT), PYTHONHASHSEED='7')
    subprocess.run([sys.executable, '-c', code, tmp_path/'b'], check=True, env=env)
    assert sums(tmp_path/'a') == sums(tmp_path/'b')
    make_pictures(tmp_path/'c', 12, seed=6)
    assert not set(sums(tmp_path/'a').values()) & set(sums(tmp_path/'c').values())
    found = sums(make_pictures(tmp_path/'many', 200, size=32))
    assert len(found) == len(set(found.values())) == 200 # no two alike

def test_every_label_can_be_drawn_and_shows_its_colour():
    for label in [f'{c}-{s}' for c in COLOURS for s in SHAPES]:
        for seed in range(5 if label in PICTURE_CLASSES else 1):
            img,want = make_picture(label, seed), COLOURS[label.split('-')[0]]
            assert img.size == (96,96) and img.mode == 'RGB'
            near = sum(max(abs(a-b) for a,b in zip(px, want, strict=False)) <= 26 for px in img.get_flattened_data())
            assert near > 96*96/50 or label not in PICTURE_CLASSES, (label, seed, near)

def test_a_kill_leaves_no_half_class(tmp_path, monkeypatch):
    calls = []
    def draw(*args):
        calls.append(args)
        if len(calls) == 7: raise KeyboardInterrupt
        return make_picture(*args)
    monkeypatch.setattr(synthetic, 'make_picture', draw)
    with pytest.raises(KeyboardInterrupt): make_pictures(tmp_path, 20, PICTURE_CLASSES[:2])
    assert list(tmp_path.iterdir()) == [] # the tenth picture of the first class never came
    monkeypatch.undo()
    make_pictures(tmp_path, 20, PICTURE_CLASSES[:2])
    assert [len(list(o.iterdir())) for o in sorted(tmp_path.iterdir())] == [10, 10]

def test_bad_requests_are_sentences(tmp_path):
    with pytest.raises(CourseError, match="no colour 'pink'"): make_pictures(tmp_path, 2, ['pink-star'])
    assert list(tmp_path.iterdir()) == []
    make_pictures(tmp_path, 2, ['red-star'])
    before = sums(tmp_path)
    with pytest.raises(CourseError, match='holds files already'): make_pictures(tmp_path, 2, ['red-star'])
    assert sums(tmp_path) == before

def test_odd_files_are_odd(tmp_path):
    odd = odd_files(tmp_path)
    assert len(odd) == 14 and all(p.parent == tmp_path and p.exists() for p in odd.values())
    for kind in 'empty', 'text':
        with pytest.raises(Image.UnidentifiedImageError): Image.open(odd[kind])
    with pytest.raises(Image.DecompressionBombError): Image.open(odd['huge'])
    with Image.open(odd['truncated']) as img, pytest.raises(OSError): img.load()
    assert odd['huge'].read_bytes()[16:24] == (20_000).to_bytes(4, 'big')*2
    with Image.open(odd['palette']) as img: assert img.convert('RGBA').getextrema()[3][0] == 0 # some of it is transparent
    with Image.open(odd['rgba']) as img: assert img.getextrema()[3][0] < 255
    with Image.open(odd['grey16']) as img: assert img.getextrema()[1] > 255
    with Image.open(odd['rotated']) as img: assert img.getexif()[0x0112] == 6 and ImageOps.exif_transpose(img).tobytes() != img.tobytes()
    assert ' ' in odd['name'].name and not odd['name'].name.isascii()
