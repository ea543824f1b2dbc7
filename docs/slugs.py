"The names of headings in links."

def jupyter_slug(heading:str) -> str:
    "As JupyterLab and nbviewer name a heading, so that a link such as `00_core.ipynb#Errors-are-sentences` works there and on the site"
    return heading.replace(' ', '-')
