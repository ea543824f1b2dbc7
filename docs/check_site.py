"""Is the built site whole? Every link within it leads somewhere, and every picture and style sheet is there. No network is needed.

    python docs/check_site.py _docs/html
"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class Page(HTMLParser):
    "Names of places in a page, and what it refers to: (tag, target)"
    def __init__(self, path):
        super().__init__()
        self.places,self.refers = set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs[o] for o in ('id', 'name') if attrs.get(o)}
        self.refers += [(tag, attrs[o]) for o in ('href', 'src') if attrs.get(o)]

def check_site(
    root, # Folder of the built site
): # Findings, each a sentence
    "Look for dead links and missing files"
    root = Path(root).resolve()
    pages = {p: Page(p) for p in sorted(root.rglob('*.html'))}
    if not pages: return [f"{root} holds no page: build the site first."]
    found = []
    for path,page in pages.items():
        name = path.relative_to(root).as_posix()
        for tag,target in page.refers:
            url = urlsplit(target)
            if url.scheme or url.netloc: continue # elsewhere, or the data itself
            there = (path.parent/unquote(url.path)).resolve() if url.path else path
            if there.is_dir(): there /= 'index.html'
            if not there.is_relative_to(root) or not there.is_file():
                found.append(f"{name}: <{tag}> refers to {target}, which is not there.")
            elif url.fragment and there in pages and unquote(url.fragment) not in pages[there].places:
                found.append(f"{name}: {target} leads to no place in that page.")
    return found

if __name__ == '__main__':
    findings = check_site(sys.argv[1])
    print('\n'.join(findings) or 'The site is whole: every link within it leads somewhere.')
    sys.exit(bool(findings))
