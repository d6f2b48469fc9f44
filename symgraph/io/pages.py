"""Results as pages: one file of HTML that opens from disk and asks no network for anything.

A *view* is a module of plain JavaScript in `assets` that exports `show(data, place)`. A page holds the data as JSON,
every module that the view imports with the styles that stand beside it, and the libraries under `assets/vendor` with
their licences; an import map gives each module its source, so that nothing is bundled and what runs is what stands in
the files.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).with_name("assets")
_IMPORT = re.compile(r'(?:from|import|import\()\s*"(assets/[^"]+)"')


def page(title: str, data: Any, view: str) -> str:
    """The text of a page that shows `data`, anything that is JSON, by a view.

    >>> text = page("Two numbers", {"model": "net"}, "symmetry")
    >>> "<title>Two numbers</title>" in text, "https://" in text.split("</head>")[0]
    (True, False)
    """
    modules = _modules(f"assets/{view}.js", "assets/page.js")
    parts = {
        "title": escape(title),
        "style": _style(modules),
        "data": in_script(data),
        "modules": in_script({"imports": {name: _address(name) for name in modules}}),
        "licences": "\n".join(map(escape, _licences(modules))),
        "view": f"assets/{view}.js",
    }
    # In one pass: what stands in the data is no slot.
    return re.sub(r"@(\w+)@", lambda slot: parts[slot[1]], _text("assets/page.html"))


def in_script(data: Any) -> str:
    """Data as JSON that may stand inside a script element: nothing in it ends the element or opens a comment.

    >>> in_script({"name": "</script>"})
    '{"name":"\\\\u003c/script>"}'
    """
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def _text(name: str) -> str:
    return (ASSETS.parent / name).read_text(encoding="utf-8")


def _modules(*first: str) -> list[str]:
    """Modules and all that they import."""
    modules: list[str] = []
    waiting = list(first)
    while waiting:
        name = waiting.pop()
        if name not in modules:
            modules.append(name)
            waiting += _IMPORT.findall(_text(name)) if "/vendor/" not in name else []
    return modules


def _address(name: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(_text(name).encode()).decode()}"


def _style(modules: list[str]) -> str:
    """The styles that stand beside modules: those of every page first, those of its view last."""
    own = (name.removesuffix(".js") + ".css" for name in sorted(modules[1:]) + modules[:1] if name != "assets/page.js")
    return _text("assets/page.css") + "".join(_text(name) for name in own if (ASSETS.parent / name).exists())


def _licences(modules: list[str]) -> Iterator[str]:
    if any("/vendor/" in name for name in modules):
        for path in sorted((ASSETS / "vendor").glob("*.LICENSE")):
            yield f"{path.stem}\n\n{path.read_text(encoding='utf-8').strip()}\n"
