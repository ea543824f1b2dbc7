"The names of headings in links."

def jupyter_slug(heading:str) -> str:
    "As JupyterLab and nbviewer name a heading, so that a link such as `20_data.ipynb#A-split-is-a-list` works there and on the site"
    return heading.replace(' ', '-')
