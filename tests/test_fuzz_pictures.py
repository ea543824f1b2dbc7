"""Damaged pictures: `open_picture` gives a picture or a sentence. Nothing else, no crash, no hang, no gigabyte.

Each case is made from its number: a good picture of one of the formats below, and a kind of damage. The first cases are undamaged,
so that a reader that refuses everything does not pass."""
import functools
import io
import random
import struct
import zlib

import pytest
from PIL import Image
from watched import judge, watch

from transfer_course.core import CourseError
from transfer_course.data.check import check
from transfer_course.data.pictures import open_picture
from transfer_course.data.synthetic import make_picture, make_pictures, odd_files

# --- Good pictures ---

@functools.cache
def good():
    "(ending, bytes) of good pictures in all that Pillow writes of the formats people have, JPEG, PNG and WebP most of all"
    pic = make_picture('green-star', 1, 56)
    grey,out = pic.convert('L'), []
    rgba = pic.convert('RGBA')
    rgba.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112],turned[0x010e] = 6, 'a photograph'
    frames = dict(save_all=True, append_images=[pic.rotate(90), pic.rotate(180)], duration=100)
    def add(ending, im=pic, **kw):
        im.save(buf := io.BytesIO(), dict(jpg='JPEG', tif='TIFF', jp2='JPEG2000').get(ending, ending.upper()), **kw)
        out.append((ending, buf.getvalue()))
    for kw in (dict(), dict(progressive=True), dict(subsampling=0, quality=95), dict(exif=turned),
               dict(restart_marker_rows=1, optimize=True), dict(progressive=True, exif=turned, comment='by hand')): add('jpg', **kw)
    add('jpg', grey)
    add('jpg', pic.convert('CMYK'))
    for im in (pic, rgba, grey, pic.convert('1'), grey.convert('LA')): add('png', im)
    import numpy as np
    add('png', Image.fromarray(np.asarray(grey).astype('uint16')*257))
    add('png', pic.quantize(16), transparency=3)
    add('png', pic, exif=turned, icc_profile=bytes(range(256))*3)
    add('png', pic, **frames)
    for kw in (dict(), dict(lossless=True), dict(exif=turned, icc_profile=bytes(300)), frames): add('webp', **kw)
    add('webp', rgba)
    add('webp', rgba, lossless=True)
    usual = list(out)
    add('gif')
    add('gif', pic.quantize(16), transparency=2)
    add('gif', **frames)
    add('bmp')
    add('bmp', pic.quantize(16))
    add('bmp', pic.convert('1'))
    for c in (None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg'): add('tif', compression=c)
    add('tif', grey.convert('F'))
    add('tif', pic.convert('CMYK'), compression='tiff_deflate')
    add('tif', pic.convert('1'), compression='group4')
    add('tif', **{k: v for k,v in frames.items() if k!='duration'})
    # what a file may hold whatever its name says
    for ending in ('ppm', 'tga', 'ico', 'pcx', 'jp2', 'avif', 'sgi', 'dds', 'eps'): add(ending)
    return usual*3 + out

# --- Damage ---

def pieces(body):
    "A picture as the pieces its format is made of; their sum is the picture"
    cuts = [0]
    if body[:4]==b'\x89PNG':
        at = 8
        while at+12 <= len(body):
            cuts.append(at)
            at += 12 + struct.unpack('>I', body[at:at+4])[0]
    elif body[:4]==b'RIFF':
        at = 12
        while at+8 <= len(body):
            cuts.append(at)
            n = struct.unpack('<I', body[at+4:at+8])[0]
            at += 8 + n + n%2
    elif body[:2]==b'\xff\xd8':
        at = 2
        while at+4 <= len(body) and body[at]==0xff and body[at+1]!=0xda:
            cuts.append(at)
            at += 2 + struct.unpack('>H', body[at+2:at+4])[0]
        cuts += [at] + [i for i in range(at, len(body)-1) if body[i]==0xff and 0xd0 <= body[i+1] <= 0xda]
    else: cuts += range(8, len(body), max(8, len(body)//12))
    cuts = sorted({o for o in cuts if o < len(body)}) + [len(body)]
    return [body[a:b] for a,b in zip(cuts, cuts[1:], strict=False)]

def resealed(body):
    "A PNG with the checksums its chunks should have, so that damage gets past the first look"
    if body[:4]!=b'\x89PNG': return body
    head,*chunks = pieces(body)
    return head + b''.join(o[:-4] + struct.pack('>I', zlib.crc32(o[4:-4])) if len(o) >= 12 else o for o in chunks)

def flip(rng, body, other):
    out = bytearray(body)
    first = rng.choice([32, 200, len(out)]) # headers are short and matter most
    for _ in range(rng.choice([1, 1, 3, 10, 60])): out[rng.randrange(min(first, len(out)))] ^= 1 << rng.randrange(8)
    return bytes(out)

def flip_sealed(rng, body, other): return resealed(flip(rng, body, other))
def cut(rng, body, other): return body[:rng.randrange(len(body))]
def cut_head(rng, body, other): return body[rng.randrange(1, len(body)):]

def overwrite(rng, body, other):
    at,n = rng.randrange(len(body)), rng.choice([1, 2, 4, 16, 100, 1000])
    return body[:at] + rng.choice([bytes(n), b'\xff'*n, rng.randbytes(n)]) + body[at+n:]

def insert(rng, body, other):
    at,n = rng.randrange(len(body)), rng.choice([1, 4, 64, 5000])
    return body[:at] + rng.choice([bytes(n), b'\xff'*n, rng.randbytes(n), body[:n]]) + body[at:]

def splice(rng, body, other): return body[:rng.randrange(len(body))] + other[rng.randrange(len(other)):]

def shuffle(rng, body, other):
    "Pieces swapped, doubled, left out, or taken from another picture"
    p = pieces(body)
    i,j = rng.randrange(len(p)), rng.randrange(len(p))
    kind = rng.randrange(4)
    if kind==0: p[i],p[j] = p[j],p[i]
    elif kind==1: p.insert(i, p[j])
    elif kind==2: del p[i]
    else: p.insert(i, rng.choice(pieces(other)))
    return b''.join(p)

def repack(rng, body, other):
    "A PNG whose rows are damaged before they are compressed: too many, too few, other filters; other formats lose the end of a piece"
    p = pieces(body)
    i = next((i for i,o in enumerate(p) if o[4:8]==b'IDAT'), None)
    try: rows = zlib.decompress(b''.join(o[8:-4] for o in p if o[4:8]==b'IDAT'))
    except zlib.error: i = None # damaged before
    if i is None:
        i = rng.randrange(len(p))
        p[i] = p[i][:rng.randrange(len(p[i])+1)]
        return b''.join(p)
    rows = rng.choice([rows[:rng.randrange(len(rows))], rows*rng.choice([2, 50]), flip(rng, rows, rows), bytes(10**6), b'\xff'*len(rows)])
    data = zlib.compress(rows)
    rest = b''.join(o for o in p[i+1:] if o[4:8]!=b'IDAT')
    return resealed(b''.join(p[:i]) + struct.pack('>I', len(data)) + b'IDAT' + data + bytes(4) + rest)

EXTREMES = 0, 1, 2, 3, 255, 256, 4095, 13_000, 16_383, 30_000, 65_500, 65_535, 2**24-1, 2**31-1, 2**31, 2**32-1

def sides(rng):
    "Width and height that a header might announce: any extremes, or many million pixels, about as many as a reader may let in"
    if rng.random() < .85: return rng.choice(EXTREMES), rng.choice(EXTREMES)
    w = rng.choice([2_800, 5_000, 9_000, 13_000, 16_000, 60_000])
    return w, rng.choice([178, 124, 83, 49, 30])*10**6//w

def lie(rng, body, other):
    "A header that announces another picture than there is"
    out,(w,h) = bytearray(body), sides(rng)
    def put(form, at, *values):
        if at < 0 or at+struct.calcsize(form) > len(out): return
        struct.pack_into(form, out, at, *(v % 2**(8*struct.calcsize(form[0]+c)) for c,v in zip(form[1:], values, strict=False)))
    if body[:4]==b'\x89PNG':
        put('>II', 16, w, h)
        if rng.random() < .3:
            depth,colours,packing = rng.choice([1, 2, 4, 8, 16, 9]), rng.choice([0, 2, 3, 4, 6, 1]), rng.randrange(2)
            put('>BBBBB', 24, depth, colours, packing, 0, rng.choice([0, 1, 1, 7]))
        return resealed(bytes(out))
    if body[:2]==b'\xff\xd8':
        at = next((i for i in range(2, len(body)-9) if body[i]==0xff and body[i+1] in (0xc0, 0xc1, 0xc2)), -9)
        put('>HH', at+5, h, w)
        if rng.random() < .3: put('>BB', at+rng.choice([9, 10, 11, 13, 14]), rng.randrange(256), rng.randrange(256))
        if rng.random() < .2: put('>BB', at, 0xff, rng.choice([0xc0, 0xc1, 0xc2, 0xc3, 0xc9, 0xca]))
    elif body[:4]==b'RIFF':
        for kind,at in ((b'VP8X', 12), (b'VP8 ', 14), (b'VP8L', 9), (b'ANMF', 14)):
            i = body.find(kind)
            if i < 0 or rng.random() < .3: continue
            if kind in (b'VP8X', b'ANMF'): put('<HBHB', i+at, w-1, (w-1)>>16, h-1, (h-1)>>16)
            elif kind==b'VP8 ': put('<HH', i+at, w, h)
            else: put('<I', i+at, (w-1)%2**14 | (h-1)%2**14<<14 | rng.randrange(2)<<28)
    elif body[:3]==b'GIF': put('<HH', rng.choice([6, body.find(b',')+5]), w, h)
    elif body[:2]==b'BM':
        put('<II', 18, w, h)
        if rng.random() < .5: put('<HI', 28, rng.choice([1, 4, 8, 16, 24, 32, 5]), rng.choice([0, 1, 2, 3, 4, 99]))
    elif body[:4]==b'II*\0':
        at = int.from_bytes(body[4:8], 'little') # entries of twelve bytes: tag, type, count, value
        n = int.from_bytes(body[at:at+2], 'little') or 1
        for _ in range(rng.choice([1, 2, 3])):
            put('<I', at+2 + 12*rng.randrange(n) + rng.choice([4, 8, 8]), rng.choice([w, h, rng.randrange(2**32)]))
    elif body[:2]==b'P6': return f'P6 {w} {h} {rng.choice([255, 65535, 1, 0])}\n'.encode() + body[15:]
    else: put('<HH', rng.randrange(min(40, len(out))), w, h)
    return bytes(out)

DAMAGE = flip, flip_sealed, cut, cut_head, overwrite, insert, splice, shuffle, repack, lie, lie

def made(number):
    "Ending and bytes of a case"
    rng,pictures = random.Random(number), good()
    ending,body = pictures[number % len(pictures)]
    if number < len(pictures): return ending, body
    for _ in range(rng.choice([1, 1, 1, 2])): body = rng.choice(DAMAGE)(rng, body, rng.choice(pictures)[1]) or b'\0'
    return ending, body

def attempt(number, folder):
    "A picture, or a sentence"
    ending,body = made(number)
    path = folder/f'case.{ending}'
    path.write_bytes(body)
    try: im = open_picture(path, shorter=32 if number%5==4 else None)
    except CourseError as e:
        assert number >= len(good()) or ending=='eps', f'a good {ending} is refused: {e}'
        assert str(e).startswith(str(path)) and len(str(e)) < 1000
        return 'refused'
    assert im.mode=='RGB' and min(im.size) > 0
    im.getpixel((im.width-1, im.height-1))
    return 'read'

# --- The tests ---

def test_some_damaged_pictures(): judge(watch('test_fuzz_pictures', range(150)))

@pytest.mark.slow
def test_ten_thousand_damaged_pictures(): judge(watch('test_fuzz_pictures', range(10_000)))

def test_the_odd_ones_damaged(tmp_path):
    "Each of the odd files once more, cut at twenty places: read or refused"
    odd = odd_files(tmp_path/'odd')
    for kind,path in odd.items():
        body = path.read_bytes()
        for i in range(20):
            p = tmp_path/f'cut{path.suffix}'
            p.write_bytes(body[:len(body)*i//20])
            try: assert open_picture(p).mode=='RGB', kind
            except CourseError as e: assert p.name in str(e)

def test_check_lists_the_damaged_and_goes_on(tmp_path):
    "A folder with two hundred of them: all of those that can't be read are listed, and the table can be shown"
    own = make_pictures(tmp_path/'own', 8, ['red-star', 'blue-circle'], size=24)
    numbers = [len(good())+7*i for i in range(200)]
    unreadable = set()
    for n in numbers:
        ending,body = made(n)
        if ending not in ('jpg', 'png', 'webp', 'gif', 'bmp', 'tif'): continue
        path = own/'red-star'/f'{n}.{ending}'
        path.write_bytes(body)
        try: open_picture(path)
        except CourseError: unreadable.add(f'red-star/{n}.{ending}')
    found = check(own)
    assert set(found.names('unreadable')) == unreadable and len(unreadable) > 50
    assert found.table().loc['unreadable', 'pictures'] == len(unreadable) and str(len(unreadable)) in found.report()
