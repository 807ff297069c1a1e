"""Sphinx configuration of the documentation site. `make docs` treats warnings as errors."""

import re
from pathlib import Path

import matplotlib as mpl
from sphinx_gallery.sorting import ExplicitOrder

import sklearn_conv

mpl.use("agg")

project = "sklearn_conv"
author = copyright = "The sklearn_conv developers"
version = release = sklearn_conv.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints = "none"  # the docstrings describe the types in more detail
autodoc_member_order = "bysource"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

ORDER = [
    "plot_windows.py",
    "plot_digits_grid_search.py",
    "plot_explain_decision.py",
    "plot_image_folder.py",
    "plot_textures.py",
    "plot_defects.py",
    "plot_cells.py",
    "plot_pixels.py",
    "plot_few_labels.py",
    "plot_stacked_layers.py",
    "plot_larger_than_memory.py",
    "plot_gpu.py",
    "plot_kernels.py",
    "stream_images.py",
    "fashion_mnist.py",
]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/plot_",
    "within_subsection_order": ExplicitOrder(ORDER),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "default_thumb_file": str(Path(__file__).parent / "_static" / "icon.svg"),
    "doc_module": "sklearn_conv",
    "backreferences_dir": "gallery/backreferences",
    "reference_url": {},
}

html_theme = "pydata_sphinx_theme"
html_title = f"sklearn_conv {version}"
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
# The README on a package index links to these.
html_extra_path = ["kernels_color.png", "class_activation.png"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {
        "text": "sklearn_conv",
        "image_light": "_static/icon.svg",
        "image_dark": "_static/icon.svg",
    },
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
}
html_sidebars = {"index": [], "start": [], "recipes": [], "comparison": []}

REDIRECTS = [
    (r"\]\(((?:\.\./)*)\.\./examples/(plot_\w+)\.py\)", r"](\1gallery/\2.rst)"),
    (r"\]\(((?:\.\./)*)\.\./(CHANGELOG|CONTRIBUTING)\.md\)", r"](\1\2.md)"),
    (r"\]\(docs/(\w+\.(?:md|png))", r"](\1"),
]
"""Patterns of links to files of the repository, and the pages of the site that replace them."""


def redirect_links(app: object, name: str, source: list[str]) -> None:
    """Replace links to files of the repository by links to pages of the site."""
    for pattern, page in REDIRECTS:
        source[0] = re.sub(pattern, page, source[0])


def setup(app: object) -> None:
    """Register `redirect_links` with Sphinx."""
    app.connect("source-read", redirect_links)
