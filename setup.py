"""Packaging: everything comes from settings.ini. The folders the course reads at run time travel inside the wheel as `transfer_course/course`."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(key): return cfg.get(key, '').split()

course, dev = lines('course_requirements'), lines('dev_requirements')
# A folder below the package that exists only in the wheel: `core.course_path` finds it there, and the checkout's own folders otherwise.
shipped = {f'transfer_course.course.{o}'.replace('/', '.'): o
           for top in ('data', 'nbs') if Path(top).is_dir()
           for o in sorted({str(p.parent.as_posix()) for p in Path(top).rglob('*') if p.is_file() and not any(q.startswith('.') for q in p.parts)})}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown', url=cfg['git_url'], author=cfg['author'], author_email=cfg['author_email'],
    license='Apache-2.0', keywords=cfg['keywords'].split(), python_requires=f">={cfg['min_python']}",
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3'],
    packages=['transfer_course', *shipped], package_dir=shipped, package_data={o: ['*'] for o in shipped},
    install_requires=lines('requirements'), extras_require=dict(course=course, dev=course + dev),
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=[f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]), zip_safe=False)
