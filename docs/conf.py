"Sphinx renders what `python tools/site.py` wrote: notebooks with their saved figures, and a page of all names. No cell is run."
import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here)) # for `slugs`
cfg = ConfigParser(delimiters=['='], interpolation=None)
cfg.read(here.parent/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

project, author, release = cfg['title'], cfg['author'], cfg['version']
project_copyright = cfg['copyright']
extensions = ['myst_nb', 'sphinx_copybutton']

nb_execution_mode = 'off'
suppress_warnings = ['myst.header'] # a glossary's entries are small headings under a large one
nb_render_markdown_format = 'myst' # boards and tables that cells print
nb_merge_streams = True
myst_enable_extensions = ['colon_fence', 'fieldlist', 'dollarmath', 'attrs_inline']
myst_heading_anchors = 6
myst_heading_slug_func = 'slugs.jupyter_slug'
nitpicky = True # every link within the site must lead somewhere

html_theme = 'furo'
html_title = project
html_baseurl = cfg['doc_host'] + cfg['doc_baseurl'] + '/'
html_static_path = ['static']
html_css_files = ['course.css']
html_theme_options = dict(footer_icons=[dict(name='The repository', url=cfg['git_url'], html='The repository', **{'class': ''})])
html_copy_source = False
