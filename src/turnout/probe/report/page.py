"""One HTML file: a constant frame, the drawing library, and an island of JSON.

No text of a run is anywhere but in the island. The page's own policy allows the scripts and the
style below by their hashes and nothing else, no request to anywhere included.
"""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.resources import files
from typing import Any, Final

from turnout.config.errors import UserError
from turnout.probe.report.island import island
from turnout.probe.report.picture import DARK, LIGHT, config
from turnout.probe.style import INSTALL

_PARTS: Final = ("values.js", "charts.js", "blocks.js", "page.js")
_FRAME: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>Turnout report</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header id="head"></header>
<nav id="contents" aria-label="Sections"></nav>
<main id="content"><p id="waiting">This page draws itself with the scripts that are in it; \
if this line stays, they are switched off.</p></main>
<footer><p>Written by Turnout. Nothing here is loaded from a network.</p></footer>
<script type="application/json" id="report">{island}</script>
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def html(document: dict[str, Any]) -> str:
    """The page of a document (see ``run_page`` and ``comparison``).

    Raises:
        UserError: the drawing library is not installed.
    """
    library, script, style = _library(), _script(), _static("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; "
        f"style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {**document, "themes": {"light": LIGHT, "dark": DARK}, "config": config()}
    return _FRAME.format(
        policy=policy, style=style, island=island(values), library=library, script=script
    )


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``window.turnoutEmbed``."""
    try:
        converter = import_module("vl_convert")
    except ImportError:
        raise UserError(
            f"reports need altair and vl-convert-python, which are missing; {INSTALL}"
        ) from None
    bundle = str(converter.javascript_bundle(snippet="window.turnoutEmbed = vegaEmbed;"))
    # The bundle is written as a module; its names must not become the page's.
    return _inline(f"(() => {{{bundle}\n}})();")


def _script() -> str:
    code = "\n".join(_static(name) for name in _PARTS)
    return _inline(f'(() => {{"use strict";\n{code}\n}})();')


def _static(name: str) -> str:
    return (files("turnout.probe.report") / "static" / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """Refuses a script that would end its own element."""
    low = script.lower()
    assert "</script" not in low
    assert "<!--" not in low
    return script


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
