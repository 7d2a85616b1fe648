"""Sphinx settings: `sphinx-build -W --keep-going -b html docs OUT`."""

from bigrun.version import __version__

project = "bigrun"
copyright = "the bigrun authors"  # noqa: A001 - Sphinx wants this name
release = version = __version__
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"description": "self-supervised pre-training of vision transformers", "page_width": "1080px"}
html_show_copyright = False
myst_heading_anchors = 3
