"""The docs site, from the same pages: `make docs` writes site/."""

project = "LoRA analysers"
author = "the authors of LoRA analysers"
extensions = ["myst_parser", "sphinx_click"]
exclude_patterns = ["_*"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Which checkpoint, at which strength?", "fixed_sidebar": True}
html_title = project
html_copy_source = False
