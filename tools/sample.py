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

def eligible(ds, side):
    "By hash: credited, showing a flower, not held out, of a content that no other photo has, large enough, one an author and class"
    twice = {o for names in check(ds).groups() for o in names}
    no_flower = course_path('data', 'splits', 'flowers_no_flower.txt').read_text(encoding='utf-8').splitlines()
    able = set(ds.names) & set(ds.credits) - set(held_out()) - set(no_flower) - twice
    first = {}
    for o in sorted(able, key=lambda o: (hash_unit('flowers' + stem_key(o)), o)):
        if min(open_picture(ds.path/o).size) >= side: first.setdefault((ds.labels[o], ds.credits[o]['author']), o)
    return list(first.values())

def small(path, side):
    "A picture with its shorter side scaled to `side` pixels"
    im = open_picture(path)
    return im.resize(tuple(max(side, round(o*side/min(im.size))) for o in im.size), 1) # 1: Lanczos

def jpeg(im, quality):
    "The bytes of a JPEG"
    im.save(buf := io.BytesIO(), 'JPEG', quality=quality, optimize=True)
    return buf.getvalue()

def write_credits(path, credits, names):
    "Who took which photo"
    with open(path, 'w', encoding='utf-8', newline='') as f:
        rows = [('file', 'author', 'source', 'licence'), *((o, *credits[o].values()) for o in names)]
        csv.writer(f, lineterminator='\n').writerows(rows)

def write_sample(
    ds:DataSet, # The whole of Kaggle's flowers, with credits
    dest:Path=SAMPLE, # What is there is replaced, save for its README
    per_class:int=60, # Pictures of each class
    side:int=128, # Shorter side in pixels
    budget:int=1_500_000, # Bytes for all pictures
) -> int: # The JPEG quality that was taken: the best that the budget allows
    "Write pictures and credits"
    able = eligible(ds, side)
    chosen = sorted(o for c in ds.classes for o in [o for o in able if ds.labels[o] == c][:per_class])
    pictures = {o: small(ds.path/o, side) for o in chosen}
    for quality in range(90, 0, -1):
        jpegs = {o: jpeg(im, quality) for o,im in pictures.items()}
        if sum(map(len, jpegs.values())) <= budget: break
    with atomic(dest) as tmp:
        for o,body in jpegs.items():
            (tmp/o).parent.mkdir(parents=True, exist_ok=True)
            (tmp/o).write_bytes(body)
        write_credits(tmp/'credits.csv', ds.credits, chosen)
        shutil.copyfile(SAMPLE/'README.md', tmp/'README.md')
        if dest.exists(): shutil.rmtree(dest)
    return quality

if __name__ == '__main__': print('JPEG quality', write_sample(get_data('flowers')))
