"""The documentation site; `make docs` builds it."""

import breathe.directives.file
import selm_core
from breathe.renderer.sphinxrenderer import SphinxRenderer
from breathe.renderer.target import TargetHandler

project = "selm_core"
author = "the authors of selm_core"
release = selm_core.__version__

extensions = ["myst_parser", "breathe", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

default_role = "code"  # of `text` in docstrings

breathe_projects = {"selm": "../build/docs/doxygen/xml"}
breathe_default_project = "selm"
breathe_default_members = ("members", "undoc-members")

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"selm_core {release}"

# Every header opens its namespace again. That no header is listed twice is tested.
suppress_warnings = ["duplicate_declaration.cpp"]


class NoTarget(TargetHandler):
    """Leaves the anchors to Sphinx: Breathe's own ones repeat with the namespace."""

    def create_target(self, refid: str) -> list:
        """No anchor."""
        return []


breathe.directives.file.create_target_handler = lambda *_: NoTarget()
SphinxRenderer.sections = [
    (kind, title) for kind, title in SphinxRenderer.sections if not kind.startswith("private")
]
