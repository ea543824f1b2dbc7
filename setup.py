"""Packaging: everything comes from settings.ini. The folders that the course reads travel inside the wheel as `transfer_course/course`."""
from configparser import ConfigParser
from glob import escape
from pathlib import Path

from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(key): return cfg.get(key, '').split()

course, dev = lines('course_requirements'), lines('dev_requirements')

def wanted(path): # Every file is named, so that nothing travels by accident: no hidden files, checkpoints, caches or half-written ones
    return path.is_file() and '.part' not in path.suffixes and not any(o.startswith(('.', '__')) for o in path.parts)

# Packages that exist only in the wheel: `core.course_path` finds them there, and the checkout's own folders otherwise.
shipped, files = {}, {}
for path in sorted(o for top in ('data', 'nbs') for o in Path(top).rglob('*') if wanted(o)):
    package = 'transfer_course.course.' + path.parent.as_posix().replace('/', '.')
    shipped[package] = path.parent.as_posix()
    files.setdefault(package, []).append(escape(path.name))

setup(
    name=cfg['lib_name'], version=cfg['version'], url=cfg['git_url'], author=cfg['author'], author_email=cfg['author_email'],
    description=cfg['description'], long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown', license='Apache-2.0', keywords=cfg['keywords'].split(),
    python_requires=f">={cfg['min_python']}",
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3'],
    packages=[*find_packages(include=['transfer_course', 'transfer_course.*']), *shipped],
    package_dir=shipped, package_data=files, include_package_data=False,
    install_requires=lines('requirements'),
    extras_require=dict(course=course, app=lines('app_requirements'), deploy=lines('deploy_requirements'), heic=lines('heic_requirements'),
                        dev=course + dev),
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=[f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]),
    zip_safe=False)
