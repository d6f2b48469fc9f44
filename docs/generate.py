"""Writes `docs/rules.md` from the rule files and `docs/api.md` from the docstrings.

python docs/generate.py            write both pages
python docs/generate.py --check    say which page is not current, and fail if one is not
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import symgraph
from symgraph.groups.lattice import describe
from symgraph.rules.book import rules_folder
from symgraph.rules.loading import load_file
from symgraph.rules.schema import Rule

DOCS = Path(__file__).resolve().parent
BANNER = "<!-- Written by docs/generate.py; edit {source} instead. -->\n"
# How editors find the schema of a file: nothing to read about.
MODELINE = "# yaml-language-server:"
# What the API page covers as long as the package itself exports nothing.
MODULES = (
    "symgraph.tracing",
    "symgraph.inference.pipeline",
    "symgraph.symmetry.graph",
    "symgraph.prove.verify",
    "symgraph.orbit.canonical",
    "symgraph.match.program",
    "symgraph.match.plan_program",
    "symgraph.orbit.alignment",
    "symgraph.measure.barrier",
    "symgraph.io.checkpoint",
    "symgraph.errors",
)
_SECTION = re.compile(r"(Args|Raises|Returns|Shapes|Units|Source|Example|Examples):\s*(.*)")
_ENTRY = re.compile(r" {4}(\*{0,2}\w[\w.]*)(?: \([^)]*\))?: (.*)")


# -- rules -----------------------------------------------------------------------------------------------------------


def rules_page() -> str:
    """The content of `docs/rules.md`."""
    files = sorted(rules_folder().glob("*.yaml"))
    found = {f: load_file(f) for f in files}
    total = sum(map(len, found.values()))
    contents = (f"- [{f.name}](#{f.stem}yaml): {', '.join(map(_link, rules))}\n" for f, rules in found.items())
    parts = [
        BANNER.format(source="rules/*.yaml"),
        "# Rules\n",
        f"The {total} rules that symgraph is shipped with, file by file. Each one is checked on the real operator when "
        "the tests run: what it claims holds, and nothing larger would. [Writing rules](writing-rules.md) explains "
        "every line and how to add rules of your own.\n",
        "".join(contents),
    ]
    for file, rules in found.items():
        parts += [f"## {file.name}\n", *_intro(file), *map(_rule, rules)]
    return "\n".join(parts)


def _link(rule: Rule) -> str:
    return f"[{rule.rule}](#{rule.rule})" if not rule.structure else rule.rule


def _intro(file: Path) -> Iterator[str]:
    """The comment at the head of a rule file."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(MODELINE):
            lines.append(line.lstrip("# "))
    if lines:
        yield "\n".join(lines) + "\n"


def _rule(rule: Rule) -> str:
    parts = [f"### {rule.rule}\n", rule.about + "\n"]
    if rule.pattern:
        parts.append("```text\n" + "\n".join(p.text for p in rule.pattern) + "\n```\n")
    parts.append("".join(f"- {name}: {text}\n" for name, text in _facts(rule)))
    return "\n".join(parts)


def _facts(rule: Rule) -> Iterator[tuple[str, str]]:
    if rule.ops:
        yield "operators", ", ".join(f"`{o}`" for o in rule.ops)
    if rule.structure:
        yield "structure", f"`{rule.structure}`"
    if rule.signature:
        yield "signature", f"`{rule.signature}`"
    if rule.admits:
        yield "classes", "; ".join(f"`{a}` {describe(b)}" for a, b in rule.admits.items())
    if rule.when:
        yield "only when", f"`{rule.when}`"
    yield from _laws(rule)
    yield "source", rule.source
    for axis, reason in rule.gaps.items():
        yield f"gap on `{axis}`", reason


def _laws(rule: Rule) -> Iterator[tuple[str, str]]:
    """The facts that few rules have, under the names they have in the files."""
    for key in ("at", "product", "shift", "names"):
        entries = getattr(rule, key)
        if entries:
            yield key, ", ".join(f"`{k}` {v}" for k, v in entries.items())
    for key in ("reduces", "gain", "adds", "centred", "layout"):
        if getattr(rule, key):
            yield key, f"`{getattr(rule, key)}`"
    if rule.broadcast != "ones":
        yield "broadcast", f"`{rule.broadcast}`"


# -- API -------------------------------------------------------------------------------------------------------------


def api_page() -> str:
    """The content of `docs/api.md`."""
    exported = [n for n in getattr(symgraph, "__all__", ()) if not n.startswith("_")]
    if exported:
        body = (text.replace("### ", "## ", 1) for text in _members(symgraph, "symgraph", exported))
        about = "Everything that `import symgraph` offers."
    else:
        body = (text for name in MODULES for text in _module(name))
        about = "The public functions and classes, module by module."
    return "\n".join([BANNER.format(source="the docstrings"), "# API\n", about + "\n", *body])


def _module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [
        n for n, x in vars(module).items() if not n.startswith("_") and getattr(x, "__module__", "") == name
    ]
    yield f"## {name}\n"
    yield (inspect.getdoc(module) or "").split("\n\n")[0] + "\n"
    yield from _members(module, name, names)


def _members(module: ModuleType, prefix: str, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        member = getattr(module, name)
        if inspect.isclass(member):
            yield from _class(f"{prefix}.{name}", member)
        elif callable(member):
            yield f"### {prefix}.{name}\n"
            yield _code(name, member)
            yield _docstring(member)


def _class(name: str, cls: type[Any]) -> Iterator[str]:
    yield f"### {name}\n"
    short = name.rsplit(".", 1)[1]
    # The signature of an enumeration or an error says nothing about how it is used.
    plain = issubclass(cls, str | Exception) and "__init__" not in vars(cls)
    yield f"```python\nclass {short}({cls.__mro__[1].__name__})\n```\n" if plain else _code(short, cls, "class ")
    own = [base for base in cls.__mro__ if base is cls or _has_fields(base)]
    yield from map(_docstring, own)
    members = {n: x for base in reversed(own) for n, x in vars(base).items()}
    methods = [f"- `{n}{_signature(x)}`: {_first_line(x)}" for n, x in members.items() if _is_public(n, x)]
    if methods:
        yield "\n".join(methods) + "\n"


def _has_fields(base: type[Any]) -> bool:
    """Whether a base is a dataclass of the package, so that its fields and methods are those of the class."""
    return base.__module__.startswith("symgraph.") and is_dataclass(base)


def _is_public(name: str, member: Any) -> bool:
    inner = _inner(member)
    return not name.startswith("_") and inspect.isfunction(inner) and bool(inspect.getdoc(inner))


def _inner(member: Any) -> Any:
    """The function behind a property, a class method or a cached property."""
    for attribute in ("fget", "__func__", "func"):
        member = getattr(member, attribute, None) or member
    return member


def _signature(member: Any) -> str:
    """Parameters and result of a method, nothing for a property."""
    inner = _inner(member)
    if inner is not member and not isinstance(member, classmethod | staticmethod):
        return ""
    skip = 0 if isinstance(member, staticmethod) else 1
    return f"({', '.join(_parameters(inner)[skip:])}){_result(inner)}"


def _parameters(member: Callable[..., Any]) -> list[str]:
    found: list[str] = []
    for p in inspect.signature(member).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not any(f.startswith("*") for f in found):
            found.append("*")
        star = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        text = star + p.name + ("" if p.annotation is p.empty else f": {_annotation(p.annotation)}")
        if p.default is not p.empty:
            text += (" = " if ": " in text else "=") + _default(p.default)
        found.append(text)
    return found


def _result(member: Callable[..., Any]) -> str:
    annotation = inspect.signature(member).return_annotation
    return "" if annotation is inspect.Signature.empty else f" -> {_annotation(annotation)}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _default(value: Any) -> str:
    """The default as it is written; what has no short literal is left out."""
    return repr(value) if isinstance(value, str | int | float | bool | tuple | None) else "..."


def _first_line(member: Any) -> str:
    return " ".join((inspect.getdoc(_inner(member)) or "").split("\n\n")[0].split())


def _code(name: str, member: Callable[..., Any], kind: str = "") -> str:
    """The signature, one parameter a line where it is long."""
    parameters, result = _parameters(member), "" if kind else _result(member)
    text = f"{kind}{name}({', '.join(parameters)}){result}"
    if len(text) > 100:
        text = f"{kind}{name}(\n" + "".join(f"    {p},\n" for p in parameters) + f"){result}"
    return f"```python\n{text}\n```\n"


def _docstring(member: Any) -> str:
    """The docstring in Markdown: its sections become paragraphs with a bold head, their entries a list."""
    lines: list[str] = []
    for line in (inspect.getdoc(member) or "").splitlines():
        section, entry = _SECTION.fullmatch(line), _ENTRY.fullmatch(line)
        if section:
            lines.append(f"**{section[1]}:** {section[2]}".rstrip() + ("" if section[2] else "\n"))
        elif entry:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line.strip())
    return "\n".join(lines) + "\n"


# -- writing ---------------------------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {"rules.md": rules_page, "api.md": api_page}


def outdated() -> list[str]:
    """Names of the pages that do not say what the sources say."""
    return [name for name, page in PAGES.items() if _read(DOCS / name) != page()]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(path)


def main(arguments: list[str]) -> int:
    """Writes the pages, or with `--check` only compares them."""
    if arguments == ["--check"]:
        stale = outdated()
        for name in stale:
            print(f"docs/{name} is not current; run `python docs/generate.py`")
        return int(bool(stale))
    for name, page in PAGES.items():
        _write(DOCS / name, page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
