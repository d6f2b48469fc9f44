"""`package.module:factory`: the one place where a user's code runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from symgraph.errors import CheckpointError, SymgraphError, one_line


def is_factory(spec: str) -> bool:
    """Whether `spec` has the form `package.module:factory`."""
    module_name, _, attribute = spec.partition(":")
    return all(part.isidentifier() for name in (module_name, attribute) for part in name.split("."))


def import_factory(spec: str, error: type[SymgraphError] = CheckpointError) -> Callable[[], Any]:
    """The callable that `package.module:factory` names; the working folder counts as a place to import from.

    Raises:
        CheckpointError: (or `error`) the module or the name in it does not exist, or it is not callable.
    """
    module_name, _, attribute = spec.partition(":")
    try:
        with _working_folder_on_path():
            found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    # A script that leaves on import would otherwise end the program as if all were done.
    except (Exception, SystemExit) as e:
        remedy = f"check the name and that `python -c 'import {module_name}'` works in this folder"
        raise error(f"{spec}: the factory cannot be imported", cause=one_line(e), remedy=remedy) from e
    if not callable(found):
        raise error(f"{spec} is no function", cause=f"it is a {type(found).__name__}", remedy="name a callable")
    return found  # type: ignore[no-any-return]


def call_factory(spec: str, error: type[SymgraphError] = CheckpointError) -> Any:
    """The result of the factory that `spec` names.

    Raises:
        CheckpointError: (or `error`) it cannot be imported or fails.
    """
    factory = import_factory(spec, error)
    try:
        with _working_folder_on_path():
            return factory()
    except (Exception, SystemExit) as e:
        remedy = "call it by hand to see its traceback; it must work without arguments"
        raise error(f"{spec}: the factory failed", cause=one_line(e), remedy=remedy) from e


@contextmanager
def _working_folder_on_path() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)
