"""How big the house is and how dense: guides, not gates.

python tests/house.py            the package, folder by folder
python tests/house.py --long     functions of more than 50 lines with their docstring, and the densest modules
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "symgraph"
LONG, SHOWN = 50, 15
Function = ast.FunctionDef | ast.AsyncFunctionDef
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Size:
    """Syntax nodes, lines of code, names that are bound, and functions that are long, of some source text.

    Of a long function: its lines of code, all its lines, and where it is.
    """

    files: int = 0
    nodes: int = 0
    lines: int = 0
    bound: Counter[str] = field(default_factory=Counter)
    long: list[tuple[int, int, str]] = field(default_factory=list)

    def __add__(self, other: Size) -> Size:
        return Size(
            self.files + other.files,
            self.nodes + other.nodes,
            self.lines + other.lines,
            self.bound + other.bound,
            self.long + other.long,
        )

    @property
    def density(self) -> float:
        """Syntax nodes a line of code."""
        return self.nodes / self.lines if self.lines else 0.0

    @property
    def one_letter(self) -> float:
        """The share of one-letter names among those that are bound; `_` says that a value is not used."""
        named = sum(count for name, count in self.bound.items() if name != "_")
        return sum(count for name, count in self.bound.items() if len(name) == 1 and name != "_") / max(named, 1)


def measure(text: str, where: str = "") -> Size:
    """The size of a source text."""
    tree = ast.parse(text)
    code = _code_lines(text, tree)
    long = []
    for node in ast.walk(tree):
        if isinstance(node, Function):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if len(lines) > LONG:
                long.append((len(code.intersection(lines)), len(lines), f"{where}:{node.name}"))
    return Size(1, sum(1 for _ in ast.walk(tree)), len(code), Counter(_bound(tree)), long)


def _bound(tree: ast.AST) -> Iterator[str]:
    """Every name that something is assigned to: parameters are part of a signature and not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _code_lines(text: str, tree: ast.AST) -> set[int]:
    """Lines with code: no blank ones, comments or docstrings."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    return found - {line for node in _docstrings(tree) for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def _docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                yield first


def sizes(files: Iterable[Path]) -> dict[str, Size]:
    """The size of every module, by its path below the package."""
    paths = {str(p.relative_to(PACKAGE)): p for p in sorted(files)}
    return {name: measure(path.read_text(encoding="utf-8"), name) for name, path in paths.items()}


def main(arguments: list[str]) -> None:
    modules = sizes(PACKAGE.rglob("*.py"))
    folders: dict[str, Size] = {}
    for name, size in modules.items():
        folder = name.rpartition("/")[0] or "(root)"
        folders[folder] = folders.get(folder, Size()) + size
    folders["all"] = sum(folders.values(), Size())
    print(f"{'folder':12} {'files':>5} {'nodes':>8} {'lines':>6} {'nodes/line':>10} {'one-letter':>10} {'long':>5}")
    for folder, size in folders.items():
        shares = f"{size.density:10.1f} {size.one_letter:10.0%} {sum(code > LONG for code, _, _ in size.long):5}"
        print(f"{folder:12} {size.files:5} {size.nodes:8,} {size.lines:6,} {shares}")
    common = ", ".join(f"{name} {count}" for name, count in folders["all"].bound.most_common(SHOWN))
    print(f"bound most often: {common}")
    if "--long" in arguments:
        for code, length, name in sorted(folders["all"].long, reverse=True):
            print(f"{code:4} lines of code, {length} with docstring: {name}")
        dense = sorted(modules.items(), key=lambda item: -item[1].density)[:SHOWN]
        for name, size in dense:
            print(f"{size.density:5.1f} nodes/line, {size.one_letter:4.0%} one-letter: {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
