"""Settings of the site: `make docs` builds it, executed and with warnings as errors."""

import sys
from pathlib import Path

import zoo

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "latentzoo"
author = "the latentzoo authors"
copyright = "the latentzoo authors, Apache-2.0"
version = release = zoo.__version__

extensions = [
    "written",  # in _ext: pages that are made of the packages themselves
    "gallery",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_design",
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"  # `name` in a docstring is code

# -- docstrings
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_default_options = {"show-inheritance": False}
autodoc_typehints = "none"  # numpydoc's sections have what a reader needs; the signature has the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template lists them
numpydoc_class_members_toctree = False

# -- pages that run
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # of an earlier build here; none in a fresh clone
nb_execution_raise_on_error = False  # but a warning, of which -W makes an error at the end
nb_execution_timeout = 300  # seconds for a cell, on a busy machine
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # what libraries say of a kernel without widgets
nb_remove_code_source = False

# -- looks
html_theme = "pydata_sphinx_theme"
html_title = "latentzoo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "latentzoo"},
    "show_prev_next": False,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "pygments_light_style": "friendly",
}
