"""Write the course's sample, `data/sample`: 300 small flowers with their photographers. Needs all photos of Kaggle's flowers.

    python tools/sample.py
"""
import csv
import io
import shutil
from pathlib import Path

from transfer_course.core import atomic, course_path
from transfer_course.data.check import check
from transfer_course.data.pictures import open_picture
from transfer_course.data.sets import DataSet, get_data
from transfer_course.data.splits import hash_unit, held_out, stem_key

SAMPLE = course_path('data', 'sample')
PER_CLASS,SIDE,BUDGET = 60, 128, 1_500_000 # pictures of each class, pixels of the shorter side, bytes for all pictures

def eligible(ds):
    "By hash: credited, showing a flower, not held out, of a content that no other photo has, large enough, one an author and class"
    twice = {o for names in check(ds).groups() for o in names}
    no_flower = course_path('data', 'splits', 'flowers_no_flower.txt').read_text(encoding='utf-8').splitlines()
    able = set(ds.names) & set(ds.credits) - set(held_out()) - set(no_flower) - twice
    first = {}
    for o in sorted(able, key=lambda o: (hash_unit('flowers' + stem_key(o)), o)):
        if min(open_picture(ds.path/o).size) >= SIDE: first.setdefault((ds.labels[o], ds.credits[o]['author']), o)
    return list(first.values())

def small(path):
    "A picture with its shorter side scaled"
    im = open_picture(path)
    return im.resize(tuple(max(SIDE, round(o*SIDE/min(im.size))) for o in im.size), 1) # 1: Lanczos

def jpeg(im, quality):
    "The bytes of a JPEG"
    im.save(buf := io.BytesIO(), 'JPEG', quality=quality, optimize=True)
    return buf.getvalue()

def write_sample(
    ds:DataSet, # The whole of Kaggle's flowers, with credits
    dest:Path=SAMPLE, # What is there is replaced, save for its README
) -> int: # The JPEG quality that was taken: the best that the budget allows
    "Write pictures and credits"
    able = eligible(ds)
    chosen = sorted(o for c in ds.classes for o in [o for o in able if ds.labels[o] == c][:PER_CLASS])
    pictures = {o: small(ds.path/o) for o in chosen}
    for quality in range(90, 0, -1):
        jpegs = {o: jpeg(im, quality) for o,im in pictures.items()}
        if sum(map(len, jpegs.values())) <= BUDGET: break
    with atomic(dest) as tmp:
        for o,body in jpegs.items():
            (tmp/o).parent.mkdir(parents=True, exist_ok=True)
            (tmp/o).write_bytes(body)
        with open(tmp/'credits.csv', 'w', encoding='utf-8', newline='') as f:
            rows = [('file', 'author', 'source', 'licence'), *((o, *ds.credits[o].values()) for o in chosen)]
            csv.writer(f, lineterminator='\n').writerows(rows)
        shutil.copyfile(SAMPLE/'README.md', tmp/'README.md')
        if dest.exists(): shutil.rmtree(dest)
    return quality

if __name__ == '__main__': print('JPEG quality', write_sample(get_data('flowers')))
