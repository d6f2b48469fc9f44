"""`package.module:factory`, or `path/file.py:factory(depth=4)`: the one place where a user's code runs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from symgraph.errors import CheckpointError, SymgraphError, one_line

_FORM = re.compile(r"(?P<module>[^:()@]+):(?P<name>[^:()@]+)(?:\((?P<arguments>.*)\))?", re.DOTALL)


def is_factory(spec: str) -> bool:
    """Whether `spec` has the form `package.module:factory` or `path/file.py:factory`, with arguments or without."""
    form = _FORM.fullmatch(spec)
    if form is None or not _is_dotted(form["name"]):
        return False
    return _is_file(form["module"]) or _is_dotted(form["module"])


def import_factory(
    spec: str, error: type[SymgraphError] = CheckpointError, what: str = "factory"
) -> Callable[..., Any]:
    """The callable that `spec` names; the working folder, and that of a file, count as places to import from.

    Raises:
        CheckpointError: (or `error`) the module or the name in it does not exist, or it is not callable.
    """
    module, _, attribute = spec.split("(")[0].partition(":")
    try:
        with _on_path(module):
            factory: Any = _imported(module)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    # A script that leaves on import would otherwise end the program as if all were done.
    except (Exception, SystemExit) as e:
        remedy = f"check the name and that `python -c 'import {module}'` works in this folder"
        remedy = f"check the path, and that `python {module}` works" if _is_file(module) else remedy
        raise error(f"{spec}: the {what} cannot be imported", cause=one_line(e), remedy=remedy) from e
    if not callable(factory):
        raise error(f"{spec} is no function", cause=f"it is a {type(factory).__name__}", remedy="name a callable")
    return factory  # type: ignore[no-any-return]


def call_factory(spec: str, error: type[SymgraphError] = CheckpointError) -> Any:
    """The result of the factory that `spec` names.

    Raises:
        CheckpointError: (or `error`) it cannot be imported or fails.
    """
    args, kwargs = _arguments(spec, error)
    factory = import_factory(spec, error)
    try:
        with _on_path(spec.split(":")[0]):
            return factory(*args, **kwargs)
    except (Exception, SystemExit) as e:
        remedy = f"call it by hand to see its traceback; arguments are given as in {spec}(4, kind='plain')"
        if args or kwargs:
            remedy = "call it by hand, with these arguments, to see its traceback"
        raise error(f"{spec}: the factory failed", cause=one_line(e), remedy=remedy) from e


def _arguments(spec: str, error: type[SymgraphError]) -> tuple[list[Any], dict[str, Any]]:
    """What stands in the brackets: numbers, texts, lists and the like, in order or by name."""
    form = _FORM.fullmatch(spec)
    text = (form["arguments"] if form else None) or ""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg is not None}
        return [ast.literal_eval(value) for value in call.args], named
    except (SyntaxError, ValueError) as e:
        cause = f"`{text}` is no list of numbers, texts, lists or dictionaries"
        remedy = f"write them as in {spec.split('(')[0]}(4, kind='plain')"
        raise error(f"{spec}: the arguments cannot be read", cause=cause, remedy=remedy) from e


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _is_file(module: str) -> bool:
    return module.endswith(".py") and module != ".py"


def _imported(module: str) -> ModuleType:
    if not _is_file(module):
        return importlib.import_module(module)
    path = Path(module).expanduser().resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {module}")
    made = importlib.util.module_from_spec(spec)
    # By its name where that is free, so that what it defines can be copied and read again.
    if known is None:
        sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        if sys.modules.get(name) is made:
            del sys.modules[name]
        raise
    return made


@contextmanager
def _on_path(module: str) -> Iterator[None]:
    places = [os.getcwd()]
    if _is_file(module):
        places.insert(0, str(Path(module).expanduser().resolve().parent))
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            with suppress(ValueError):
                sys.path.remove(place)
