"""What code a class of the user's reaches, as text: all that decides about what it does, or nothing.

A function is its code, its defaults, what it closes over and the globals that it names; a class is its functions and
plain attributes; what torch and some modules of the standard library have is its name there. Where code reaches
anything else (another library, a file, the environment, an operator that was added) there is no text.
"""

from __future__ import annotations

import dis
from abc import ABCMeta
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

# Modules that read nothing of the world.
_PURE = (
    *("__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "enum", "functools", "itertools"),
    *("math", "operator", "types", "typing", "warnings"),
)
_WORLDLY = ("breakpoint", "compile", "eval", "exec", "globals", "input", "locals", "open", "vars", "__import__")
# Where torch has operators that somebody may have added.
_ADDED = ("ops", "classes", "library", "_C")
_OF_EVERY_CLASS = (
    *("__abstractmethods__", "__annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__", "_abc_impl"),
    *("__static_attributes__", "__weakref__"),
)
# Run when a module is made or shown, not when it is called.
_BEFORE = ("__init__", "__repr__", "extra_repr")


class Unknown(Exception):
    """Something that has no text by which it could be told from another one."""


def is_pure(module: str) -> bool:
    """Whether a module is torch's, or one that reads nothing of the world."""
    return module.partition(".")[0] in ("torch", *_PURE)


class Reached:
    """Texts of code; what was met before is not gone into again.

    Args:
        plain: the text of a value that is neither code nor a module; it raises `Unknown` where there is none.
    """

    def __init__(self, plain: Callable[[Any], str]) -> None:
        self.plain = plain
        self.met: dict[int, Any] = {}

    def of_class(self, cls: type) -> Iterator[str]:
        """The text of a class, and of those that it comes from.

        Raises:
            Unknown: it has none.
        """
        for base in cls.__mro__:
            if base is object or is_pure(base.__module__) or id(base) in self.met:
                continue
            self.met[id(base)] = base
            if type(base) not in (type, ABCMeta):
                raise Unknown
            yield f"class {base.__module__}.{base.__qualname__} of {[_called(parent) for parent in base.__bases__]}"
            for name, value in vars(base).items():
                if name not in (*_OF_EVERY_CLASS, *_BEFORE):
                    yield f"has {name}"
                    yield from self.of(value)

    def of(self, value: Any) -> Iterator[str]:
        """The text of whatever code names."""
        if isinstance(value, ModuleType):
            if not is_pure(value.__name__):
                raise Unknown
            yield f"module {value.__name__}"
        elif isinstance(value, classmethod | staticmethod):
            yield type(value).__name__
            yield from self.of(value.__func__)
        elif isinstance(value, property):
            for part in (value.fget, value.fset, value.fdel):
                yield from self.of(part)
        elif isinstance(value, type):
            yield f"class {_called(value)}"
            yield from self.of_class(value)
        elif isinstance(value, FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, BuiltinFunctionType | MethodDescriptorType):
            yield _built_in(value)
        elif callable(value):
            raise Unknown
        else:
            yield self.plain(value)

    def _of_function(self, function: FunctionType) -> Iterator[str]:
        if is_pure(function.__module__ or ""):
            yield _called(function)
            return
        yield f"function {_called(function)} {function.__code__.co_filename}"
        if id(function) in self.met:
            return
        self.met[id(function)] = function
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield from self.of(value)
        for cell in function.__closure__ or ():
            # A class that its methods name is gone into by whoever met it.
            yield from self.of(cell.cell_contents)
        for code in _codes(function.__code__):
            yield _text(code)
            yield from self._named(code, function.__globals__)

    def _named(self, code: CodeType, known: dict[str, Any]) -> Iterator[str]:
        """What code names: globals, and modules that it imports."""
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                if step.argval in known:
                    yield f"global {step.argval}"
                    yield from self.of(known[step.argval])
                elif step.argval in _WORLDLY:
                    raise Unknown
            elif step.opname == "IMPORT_NAME" and not is_pure(step.argval):
                raise Unknown
        if any(name in _ADDED for name in code.co_names):
            raise Unknown


def _built_in(function: BuiltinFunctionType | MethodDescriptorType) -> str:
    owner = getattr(function, "__self__", None) or getattr(function, "__objclass__", None)
    modules = (
        getattr(function, "__module__", None),
        getattr(owner, "__module__", None),
        getattr(owner, "__name__", None),
    )
    if not any(is_pure(module) for module in modules if isinstance(module, str)):
        raise Unknown
    return _called(function)


def _called(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A code and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _text(code: CodeType) -> str:
    """Code as text, with its lines: what is traced says where it stands."""
    held = [
        repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
        for constant in code.co_consts
        if not isinstance(constant, CodeType)
    ]
    lines = list(code.co_lines())
    return f"{code.co_code!r} {held} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags} {lines}"
