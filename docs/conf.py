"""How the site is built: `sphinx-build -W -b html docs docs/_build/html`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # modules are only read

from gla_site import api  # noqa: E402

import gla  # noqa: E402

project = "gla"
version = release = gla.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "gla_site",
]
root_doc = "index"
exclude_patterns = ["_build", "gla_site"]

# Markdown: links to headings as repository pages have them, and pictures of a given height.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "html_image"]

# The Python interface, from docstrings.
autodoc_mock_imports = list(api.missing_packages())
autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# The look. Everything that a page needs lies beside it, so the site works without a network.
html_theme = "furo"
html_title = f"gla {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_search_scorer = str(HERE / "_static" / "scorer.js")
html_show_search_summary = False  # a browser reads no other pages of a folder on disk
copybutton_selector = "div.highlight-sh pre, div.highlight-python pre, div.highlight-default pre"
