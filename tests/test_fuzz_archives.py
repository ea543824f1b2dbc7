"""Bad archives: `unpack` refuses in a sentence, or unpacks safely.

Nothing is written outside the folder, nothing half done stays, no link comes out, no bomb goes off.

The first cases are known tricks, by name; the others are good archives with random damage, made from their number."""
import bz2
import functools
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from watched import judge, watch

from transfer_course.core import CourseError
from transfer_course.data.fetch import MAX_RATIO, unpack

PHOTO = random.Random(0).randbytes(3000) # as hard to compress as a JPEG

# --- Zips by hand: every field can lie ---

def entry(name, body=PHOTO, method=0, flags=None, mode=0, packed=None, crc=None, size=None, packed_size=None, local=None, extra=b'',
          at=None, needs=20):
    if flags is None: flags = 0 if isinstance(name, bytes) else 0x800
    if isinstance(name, str): name = name.encode()
    return locals()

def zipped(*entries, end=None, comment=b'', **lies):
    "A zip of these entries; `end` and `lies` replace fields of its last record"
    out,central = io.BytesIO(), b''
    for e in entries:
        pack = {0: lambda b: b, 8: lambda b: zlib.compress(b, 9)[2:-4], 12: bz2.compress}.get(e['method'], lambda b: b)
        body = e['packed'] if e['packed'] is not None else pack(e['body'])
        crc = e['crc'] if e['crc'] is not None else zlib.crc32(e['body'])
        sizes = e['packed_size'] if e['packed_size'] is not None else len(body), e['size'] if e['size'] is not None else len(e['body'])
        local = e['name'] if e['local'] is None else e['local']
        at = out.tell() if e['at'] is None else e['at']
        both,extra = (e['needs'], e['flags'], e['method'], 0, 33, crc, *sizes), e['extra']
        if e['at'] is None:
            out.write(struct.pack('<4s5H3I2H', b'PK\3\4', *both, len(local), len(extra)) + local + extra + body)
        rest = len(e['name']), len(extra), 0, 0, 0, e['mode']<<16, at
        central += struct.pack('<4s6H3I5H2I', b'PK\1\2', 3<<8|20, *both, *rest) + e['name'] + extra
    n = len(entries) % 2**16
    record = dict(disk=0, start=0, here=n, total=n, size=len(central), offset=out.tell(), comment=len(comment)) | lies
    return out.getvalue() + central + (end or b'') + b'PK\5\6' + struct.pack('<4H2IH', *record.values()) + comment

def zip64_end(size=0, offset=0, at=0):
    "The larger last record and what points to it"
    return struct.pack('<4sQ2H2I4Q', b'PK\6\6', 44, 45, 45, 0, 0, 1, 1, size, offset) + struct.pack('<4sIQI', b'PK\6\7', 0, at, 1)

def nested(depth, body):
    for i in range(depth): body = zipped(entry(f'{i}.zip', body))
    return body

def overlapping(n, body):
    "Many names for one compressed body"
    packed = zlib.compress(body, 9)[2:-4]
    return zipped(entry('0.jpg', body, 8), *(entry(f'{i}.jpg', body, 8, at=0, local=b'0.jpg', packed=packed) for i in range(1, n)))

# --- Tars by hand ---

def tarred(*members, format=tarfile.PAX_FORMAT):
    "A tar of (name, body or changes of its `TarInfo`)"
    buf = io.BytesIO()
    t = tarfile.open(fileobj=buf, mode='w', format=format)
    for name,what in members:
        o = tarfile.TarInfo(name)
        if isinstance(what, bytes): o.size = len(what)
        else:
            for k,v in what.items(): setattr(o, k, v)
        t.addfile(o, io.BytesIO(what) if isinstance(what, bytes) else None)
    t.close()
    return buf.getvalue()

def tar_header(name, size, kind=b'0', size_field=None, magic=b'ustar\x0000', crc=True):
    "One header with any size field"
    h = bytearray(512)
    h[:len(name)] = name
    h[100:108] = b'0000644\0'
    h[124:136] = size_field or b'%011o\0' % size
    h[136:148] = b'00000000000\0'
    h[148:156] = b' '*8
    h[156:157] = kind
    h[257:265] = magic
    h[148:156] = b'%06o\0 ' % (sum(h) if crc else 1)
    return bytes(h)

END = bytes(1024)
def gz(body): return gzip.compress(body, mtime=0) # the same bytes at any time
def padded(body): return body + bytes(-len(body) % 512)
def negative(n): return (2**96 - n).to_bytes(12, 'big')

def header_in_the_middle_damaged():
    body = bytearray(tarred(*[(f'{i}.jpg', PHOTO) for i in range(6)]))
    at = body.find(b'3.jpg')
    body[at] ^= 4 # the checksum of this header is wrong now
    return bytes(body)

def zeros_gz(n, head=b''):
    "gzip of a head and many zeros, without holding them: pieces of one megabyte, which gzip reads as one file"
    return gz(head) + gz(bytes(1<<20))*(n>>20)

# --- The tricks: name to (must it be refused?, what makes it) ---

REFUSED,SAFE = True, False

def points_out():
    "Names that want to go elsewhere, in both kinds of archive"
    for name in ['../evil', 'a/../../evil', '/evil', '//server/evil', '\\\\server\\evil', '\\evil', '..\\evil', 'a/..\\..\\evil',
                 'C:/evil', 'c:evil', 'C:\\evil', '..', 'a/..', './../evil', '/']:
        if name != '/': yield f'zip {name}', (REFUSED, lambda name=name: zipped(entry('ok.jpg'), entry(name)))
        yield f'tar {name}', (REFUSED, lambda name=name: tarred(('ok.jpg', PHOTO), (name, PHOTO)))
        if len(name) > 2:
            lies = dict(size=0, pax_headers=dict(path=name))
            yield f'pax {name}', (REFUSED, lambda lies=lies: tarred(('ok.jpg', PHOTO), ('plain.jpg', lies)))

def odd_names():
    yield 'overlong utf-8 dots', (REFUSED, lambda: zipped(entry(b'\xc0\xae\xc0\xae/evil', flags=0x800)))
    yield 'name that is no utf-8', (REFUSED, lambda: zipped(entry(b'K\xf6ln\xff.jpg', flags=0x800)))
    yield 'name in the codepage of old', (SAFE, lambda: zipped(entry(b'K\x94ln.jpg')))
    yield 'tar name that is no utf-8', (SAFE, lambda: tarred(('K\udcf6ln.jpg', PHOTO), format=tarfile.GNU_FORMAT))
    for kind,name in {'full-width dots': '．．/evil', 'dots and a space': '.. /evil', 'three dots': '.../evil',
                      'division slash': '..∕evil', 'two-dot leader': '‥/evil', 'right to left': 'a\u202egpj.exe.jpg',
                      'combining': 'e\u0301.jpg', 'line break': 'a\nb.jpg',
                      'escape': 'a\x1b[2J.jpg', 'device': 'CON', 'stream': 'a.jpg:evil', 'hidden': '.pictures.json', 'star': '*?[a].jpg',
                      'dollar': '$HOME/~/x.jpg', 'double slash': 'a//b.jpg', 'dot': 'a/./b.jpg'}.items():
        yield f'zip {kind}', (SAFE, lambda name=name: zipped(entry(name)))
        yield f'tar {kind}', (SAFE, lambda name=name: tarred((name, PHOTO)))
    yield 'NUL in a name', (SAFE, lambda: zipped(entry('a\0/../../evil.jpg')))
    yield 'NUL at the start', (REFUSED, lambda: zipped(entry('\0evil')))
    yield 'no name', (REFUSED, lambda: zipped(entry('')))
    yield 'name of a dot', (REFUSED, lambda: zipped(entry('.')))
    yield 'tar name of a dot', (REFUSED, lambda: tarred(('.', PHOTO)))
    yield 'long name', (REFUSED, lambda: zipped(entry('a'*300)))
    yield 'deep name', (REFUSED, lambda: zipped(entry('a/'*3000+'x')))
    yield 'tar deep name', (REFUSED, lambda: tarred(('a/'*3000+'x', PHOTO)))
    yield 'many folders', (SAFE, lambda: zipped(*(entry('/'.join('abcdefgh'[:i+1])+f'/{i}.jpg') for i in range(8))))
    yield 'twice', (SAFE, lambda: zipped(entry('a.jpg'), entry('a.jpg', b'other')))
    yield 'twice by case', (SAFE, lambda: zipped(entry('a.jpg'), entry('A.JPG', b'other')))
    yield 'tar twice', (SAFE, lambda: tarred(('a.jpg', PHOTO), ('a.jpg', b'other')))
    yield 'file, then folder', (REFUSED, lambda: zipped(entry('a'), entry('a/b.jpg')))
    yield 'folder, then file', (REFUSED, lambda: zipped(entry('a/b.jpg'), entry('a')))
    yield 'folder that points out', (SAFE, lambda: zipped(entry('../evil/', b''), entry('a.jpg')))
    yield 'other name in the header', (REFUSED, lambda: zipped(entry('ok.jpg', local=b'../evil')))
    yield 'zip inside takes its own name', (SAFE, lambda: zipped(entry('a.zip', zipped(entry('b.jpg')))))
    yield 'zip inside holds its own name', (SAFE, lambda: zipped(entry('a.zip', zipped(entry('a.zip', b'x')))))
    yield 'zip inside points out', (REFUSED, lambda: zipped(entry('ok.jpg'), entry('a/b/in.zip', zipped(entry('../../../evil')))))

def links():
    for kind,mode in dict(link=stat.S_IFLNK, fifo=stat.S_IFIFO, char=stat.S_IFCHR, block=stat.S_IFBLK, socket=stat.S_IFSOCK).items():
        yield f'zip {kind}', (kind=='link', lambda mode=mode: zipped(entry('x.jpg', b'/etc/passwd', mode=mode|0o777)))
    yield 'zip link, then through it', (REFUSED, lambda: zipped(entry('x', b'..', mode=stat.S_IFLNK|0o777), entry('x/evil')))
    yield 'zip link named as a folder', (SAFE, lambda: zipped(entry('x/', b'..', mode=stat.S_IFLNK|0o777), entry('x/evil')))
    yield 'zip set-uid', (SAFE, lambda: zipped(entry('x.jpg', mode=stat.S_IFREG|0o6777)))
    for kind in 'SYMTYPE', 'LNKTYPE', 'FIFOTYPE', 'CHRTYPE', 'BLKTYPE':
        out,inside = (dict(type=getattr(tarfile, kind), linkname=o) for o in ('/etc/passwd', 'ok.jpg'))
        yield f'tar {kind}', (REFUSED, lambda o=out: tarred(('ok.jpg', PHOTO), ('x', o)))
        yield f'tar {kind} to the inside', (REFUSED, lambda o=inside: tarred(('ok.jpg', PHOTO), ('x', o), ('x/evil', PHOTO)))
    yield 'tar set-uid', (SAFE, lambda: tarred(('x.jpg', dict(mode=0o6777))))

def bombs():
    zeros = bytes(30<<20)
    yield 'bomb', (REFUSED, lambda: zipped(entry('z.jpg', zeros, 8)))
    yield 'bomb that says it is small', (REFUSED, lambda: zipped(entry('z.jpg', zeros, 8, size=100)))
    yield 'small that says it is a bomb', (SAFE, lambda: zipped(entry('z.jpg', size=2**32-2)))
    yield 'bomb of bzip2', (REFUSED, lambda: zipped(entry('z.jpg', zeros, 12, needs=46)))
    yield 'bomb inside', (REFUSED, lambda: zipped(entry('in.zip', zipped(entry('z.jpg', zeros, 8)), 8)))
    yield 'many inside', (REFUSED, lambda: zipped(*(entry(f'{i}.zip', zipped(entry(f'z{i}.jpg', bytes(2<<20), 8)), 8) for i in range(16))))
    yield 'nested deeply', (SAFE, lambda: nested(30, PHOTO))
    yield 'overlapping', (REFUSED, lambda: overlapping(500, bytes(1<<20)))
    yield 'overlapping photos', (SAFE, lambda: overlapping(50, PHOTO))
    yield 'three thousand names', (SAFE, lambda: zipped(*(entry(f'{i%10}/{i}.jpg', b'') for i in range(3000))))
    yield 'tar.gz of zeros', (REFUSED, lambda: zeros_gz(600<<20, tar_header(b'z.jpg', 600<<20)))
    yield 'tar.gz of zeros behind the end', (REFUSED, lambda: zeros_gz(600<<20))
    yield 'tar.gz with a huge extended header', (REFUSED, lambda: zeros_gz(1200<<20, tar_header(b'z', 1200<<20, b'x')))
    yield 'tar.gz with a huge long name', (REFUSED, lambda: zeros_gz(1200<<20, tar_header(b'z', 1200<<20, b'L')))
    yield 'sparse', (REFUSED, lambda: tar_header(b'z.jpg', 0, b'S')[:386] + b'00000000000\0'*8 + b'\0' + b'77777777777\0' + bytes(17) + END)

def damaged():
    good = zipped(*(entry(f'{c}/{i}.jpg', random.Random(i).randbytes(2000)) for c in 'ab' for i in range(3)))
    for n in (1, 10, 21, 22, 60, 300, 3000): yield f'zip without its last {n} bytes', (REFUSED, lambda n=n: good[:-n])
    yield 'wrong checksum', (REFUSED, lambda: zipped(entry('a.jpg'), entry('b.jpg', crc=1)))
    yield 'wrong checksum inside', (REFUSED, lambda: zipped(entry('in.zip', zipped(entry('b.jpg', crc=1)))))
    yield 'damaged zip inside', (REFUSED, lambda: zipped(entry('in.zip', good[:-30])))
    yield 'no zip inside', (REFUSED, lambda: zipped(entry('in.zip', b'<!doctype html>')))
    yield 'encrypted', (REFUSED, lambda: zipped(entry('a.jpg', flags=1)))
    yield 'encrypted strongly', (REFUSED, lambda: zipped(entry('a.jpg', flags=0x41)))
    yield 'patched data', (REFUSED, lambda: zipped(entry('a.jpg', flags=0x20)))
    for m in (1, 6, 9, 95, 98, 99): yield f'compressed by method {m}', (REFUSED, lambda m=m: zipped(entry('a.jpg', method=m, packed=PHOTO)))
    for m,b in ((8, PHOTO), (12, PHOTO), (14, b'\x09\x04\x05\x00' + b'\x5d\0\0\1\0' + PHOTO), (14, b''),
                (14, b'\x09\x04\xff\xff' + PHOTO), (14, b'\0\0\5\0' + b'\xff'*5 + PHOTO)):
        name = f'nonsense for method {m}, {len(b)} {b[:6].hex()}'
        yield name, (REFUSED, lambda m=m, b=b: zipped(entry('a.jpg', method=m, packed=b, needs=63)))
    yield 'needs a later zip', (REFUSED, lambda: zipped(entry('a.jpg', needs=99)))
    yield 'size beyond the end', (REFUSED, lambda: zipped(entry('a.jpg', packed_size=10**6, size=10**6)))
    yield 'header beyond the end', (REFUSED, lambda: zipped(entry('a.jpg', at=10**6)))
    yield 'header before the start', (REFUSED, lambda: zipped(entry('a.jpg'), offset=10**6))
    yield 'list beyond the end', (REFUSED, lambda: zipped(entry('a.jpg'), size=2**31))
    full = dict(here=2**16-1, total=2**16-1, size=2**32-1, offset=2**32-1) # what sends a reader to the larger record
    wrong = dict(size=dict(size=2**40), most=dict(size=2**63), offset=dict(offset=2**62), both=dict(size=2**64-1, offset=2**64-1))
    for kind,lies in wrong.items():
        yield f'zip64 with a wrong {kind}', (
            'size' in lies, lambda lies=lies: zipped(entry('a.jpg'), end=zip64_end(**lies, at=10**4), **full))
        def pointed(lies=lies):
            body = zipped(entry('a.jpg'))
            return body[:-22] + zip64_end(**lies, at=len(body)-22) + b'PK\5\6' + struct.pack('<4H2IH', 0, 0, *full.values(), 0)
        yield f'zip64 record with a wrong {kind}', ('size' in lies, pointed) # without a size it reads as an empty archive
    yield 'extra field that is cut', (REFUSED, lambda: zipped(entry('a.jpg', extra=struct.pack('<HH', 1, 60000))))
    extra = struct.pack('<HH', 1, 4) + b'1234'
    yield 'extra field of zip64 without a size', (
        REFUSED, lambda: zipped(entry('a.jpg', size=2**32-1, packed_size=2**32-1, extra=extra)))
    yield 'on two disks', (SAFE, lambda: zipped(entry('a.jpg'), disk=1, start=1))
    yield 'more entries than there are', (SAFE, lambda: zipped(entry('a.jpg'), here=9, total=9))
    yield 'a comment that looks like an end', (SAFE, lambda: zipped(entry('a.jpg'), comment=b'PK\5\6'+bytes(18)))
    yield 'something in front', (SAFE, lambda: b'#!/bin/sh\n'*50 + good)
    yield 'only an end', (SAFE, lambda: zipped())
    for n,b in enumerate([b'', b'PK', b'PK\3\4', b'PK\5\6', b'\x1f\x8b', b'\x1f\x8b\x08\0'+bytes(20), b'<!doctype html>',
                          bytes(1024), bytes(257)+b'ustar', bytes(257)+b'ustar'+bytes(2000), b'Rar!\x1a\7\0',
                          b'7z\xbc\xaf\x27\x1c', lzma.compress(PHOTO)]):
        yield f'no archive, {n}', (REFUSED, lambda b=b: b)
    yield 'gzip of no tar', (REFUSED, lambda: gz(PHOTO))
    yield 'gzip of nothing', (REFUSED, lambda: gz(b''))
    yield 'tar header damaged in the middle', (REFUSED, header_in_the_middle_damaged)
    yield 'tar.gz of that', (REFUSED, lambda: gz(header_in_the_middle_damaged()))
    yield 'tar cut between two files', (REFUSED, lambda: tarred(*[(f'{i}.jpg', PHOTO[:2048]) for i in range(4)])[:2*2560])
    yield 'tar cut in a header', (REFUSED, lambda: tarred(*[(f'{i}.jpg', PHOTO[:2048]) for i in range(4)])[:2*2560+100])
    yield 'tar cut in a file', (REFUSED, lambda: tarred(*[(f'{i}.jpg', PHOTO[:2048]) for i in range(4)])[:2*2560+1000])
    yield 'tar size that goes backwards', (
        REFUSED, lambda: tar_header(b'a.jpg', 0) + tar_header(b'b.jpg', 0, size_field=negative(512)) + END)
    yield 'tar size that stands still', (REFUSED, lambda: tar_header(b'a.jpg', 0, size_field=negative(1024)) + END)
    yield 'tar size beyond the end', (REFUSED, lambda: tar_header(b'a.jpg', 8**11-1) + padded(PHOTO) + END)
    yield 'tar size of 2**90', (REFUSED, lambda: tar_header(b'a.jpg', 0, size_field=b'\x80' + (2**80).to_bytes(11, 'big')) + END)
    for h in (b'30 size=99999999999999999999\n', b'19 size=notanumber\n', b'99999999999999999999 path=x\n', b'0 path=x\n',
              b'-5 path=x\n', b'x', b'11 path=\xff\xfe\n', b'13 size=-512\n', b'22 GNU.sparse.size=x\n', b'25 GNU.sparse.map=1,2,x,\n',
              b'22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n'):
        body = tar_header(b'h', len(h), b'x') + padded(h) + tar_header(b'a.jpg', 10) + padded(b'0123456789') + END
        yield f'pax {h[:24]!r}', (SAFE, lambda body=body: body)
    yield 'extended header and nothing behind it', (REFUSED, lambda: tar_header(b'h', 12, b'x') + padded(b'12 path=abc\n') + END)
    header = tar_header(b'h', 12, b'x') + padded(b'12 path=abc\n')
    yield 'two thousand extended headers', (SAFE, lambda: header*2000 + tar_header(b'a.jpg', 0) + END)

TRICKS = {k: v for part in (points_out, odd_names, links, bombs, damaged) for k,v in part()}
NAMES = list(TRICKS)

# --- Damage at random ---

@functools.cache
def good():
    "Good archives, small enough that a flipped bit hits something"
    photos = [(f'{c}/{i}.jpg', random.Random(i).randbytes(300)) for c in ('cat', 'dog') for i in range(2)]
    def z(method):
        with zipfile.ZipFile(buf := io.BytesIO(), 'w', method) as out:
            for o in photos: out.writestr(*o)
        return buf.getvalue()
    with zipfile.ZipFile(buf := io.BytesIO(), 'w') as out:
        with out.open('a.jpg', 'w', force_zip64=True) as f: f.write(PHOTO)
        out.writestr('train.zip', z(8))
    tars = [tarred(*photos, format=f) for f in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    long = tarred(('a'*60+'/'+'b'*120+'/ü.jpg', PHOTO), ('x.jpg', dict(pax_headers=dict(comment='by hand', mtime='1.5'))))
    zips = [z(o) for o in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)]
    return [*zips, buf.getvalue(), *tars, long, *map(gz, [*tars, long])]

def mutant(number):
    "A good archive with bits flipped, cut, blocks written over, doubled or taken from another"
    rng = random.Random(number)
    body = bytearray(good()[number % len(good())])
    if number < len(good()): return bytes(body)
    packed = body[:2]==b'\x1f\x8b' and rng.random() < .7
    if packed: body = bytearray(gzip.decompress(body))
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind,at,n = rng.randrange(6), rng.randrange(len(body)), rng.choice([1, 2, 4, 8, 30, 512])
        if rng.random() < .4 and body[:2]==b'PK': at = max(0, len(body)-1-rng.randrange(400)) # the list at the end is what a reader goes by
        if kind <= 1: body[at] ^= 1 << rng.randrange(8)
        elif kind==2: body[at:at+n] = rng.choice([bytes(n), b'\xff'*n, b'7'*n, rng.randbytes(n)])
        elif kind==3: body[at:at] = body[at:at+n]
        elif kind==4: del body[at:at+n]
        else:
            other = rng.choice(good())
            body[at:] = other[rng.randrange(len(other)):]
        body = body or bytearray(b'\0')
    if packed and rng.random() < .5: # a tar whose headers fit, so that the damage is not met at the first checksum
        for at in range(0, len(body)-511, 512):
            if body[at+257:at+262]==b'ustar': body[at+148:at+156] = b'%06o\0 ' % (sum(body[at:at+512]) - sum(body[at+148:at+156]) + 256)
    return gz(bytes(body)) if packed else bytes(body)

# --- What is safe ---

def unpacked_safely(body, folder):
    "Unpack in a sandbox; the sentence, or the number of files. Fails where something lies where nothing should"
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        archive,dest = root/'in'/'bad.zip', root/'deep'/'out'/'photos'
        archive.parent.mkdir()
        archive.write_bytes(body)
        said = None
        try: assert unpack(archive, dest)==dest
        except CourseError as e: said = str(e)
        around = {o.relative_to(root).as_posix() for o in root.rglob('*') if dest not in (o, *o.parents)}
        assert around == {'in', 'in/bad.zip', 'deep', 'deep/out', 'deep/out/.photos.lock'}, f'left outside: {around}'
        assert archive.read_bytes()==body
        if said:
            assert 'bad.zip' in said and len(said) < 9000 and not dest.exists(), said
            return said
        found = [Path(os.fsdecode(d), os.fsdecode(o)) for d,folders,files in os.walk(os.fsencode(dest)) for o in folders+files]
        assert all(stat.S_ISREG(o.lstat().st_mode) or stat.S_ISDIR(o.lstat().st_mode) for o in found)
        assert all(not o.lstat().st_mode & 0o6000 for o in found if o.is_file())
        assert sum(o.stat().st_size for o in found if o.is_file()) <= MAX_RATIO*len(body) + (1<<20)
        return len([o for o in found if o.is_file()])
    finally: shutil.rmtree(root)

def attempt(number, folder):
    "First the tricks in order, then mutants"
    if number < len(NAMES):
        name = NAMES[number]
        must,make = TRICKS[name]
        said = unpacked_safely(make(), folder)
        assert isinstance(said, str) or not must, f'{name}: unpacked, {said} files'
    else: said = unpacked_safely(mutant(number-len(NAMES)), folder)
    if number-len(NAMES) in range(len(good())): assert not isinstance(said, str), f'a good archive is refused: {said}'
    return 'refused' if isinstance(said, str) else 'unpacked'

# --- The tests ---

def test_tricks():
    outcomes = watch('test_fuzz_archives', range(len(NAMES)))
    for o in outcomes: o.said = f'{NAMES[o.number]}: {o.said}' if o.fault else o.said
    judge(outcomes, mb=400)

def test_some_damaged_archives(): judge(watch('test_fuzz_archives', range(len(NAMES), len(NAMES)+60)), mb=400)

@pytest.mark.slow
def test_ten_thousand_damaged_archives(): judge(watch('test_fuzz_archives', range(len(NAMES), len(NAMES)+10_000)), mb=400)
