"""The plan: a readable program of typed steps, saved as YAML or JSON, that the executor runs to the same result.

program for ViTForImageClassification (rules 3f2a91c0)
  1  canonicalise  A -> A.canonical      gains 5, moves 12, translations 1, means 11, balanced 8, equalised 0
  2  canonicalise  B -> B.canonical
  3  match         B.canonical to A.canonical -> element
                     residual                orthogonal fixing ones   polar on the hyperplane of mean zero
                     layers.0.mlp.hidden     permutation              assignment
  4  regauge       element -> alignment, in the gauge of A
  5  apply         alignment to B -> B.aligned
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from symgraph.errors import UsageError, one_line
from symgraph.io.files import atomic_path
from symgraph.match.program_steps import (
    Check,
    Embed,
    Join,
    LearnAll,
    LearnStep,
    Matching,
    MatchStep,
    Reduce,
    Settle,
    Soften,
    Split,
    Training,
    UnitPlan,
)

MATCHINGS = ("weights", "activations")


@dataclass(frozen=True, slots=True)
class Canonicalise:
    """Take a model to its canonical form."""

    model: str
    into: str
    op: str = "canonicalise"

    def __str__(self) -> str:
        return f"{self.op:<13} {self.model} -> {self.into}"


@dataclass(frozen=True, slots=True)
class Regauge:
    """Compose to an alignment that ends in the target's own gauge, c_A^-1 . g . c_B; without a target g . c_B."""

    element: str
    source: str
    target: str
    into: str
    op: str = "regauge"

    def __str__(self) -> str:
        where = f"in the gauge of {self.target}" if self.target else "as trained"
        return f"{self.op:<13} {self.element} -> {self.into}, {where}"


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply an alignment to a model."""

    alignment: str
    model: str
    into: str
    op: str = "apply"

    def __str__(self) -> str:
        return f"{self.op:<13} {self.alignment} to {self.model} -> {self.into}"


Step = (
    Embed
    | Reduce
    | Canonicalise
    | MatchStep
    | Join
    | Split
    | Soften
    | LearnStep
    | LearnAll
    | Regauge
    | Apply
    | Check
    | Settle
)
_STEPS: dict[str, type[Any]] = {
    "embed": Embed,
    "reduce": Reduce,
    "canonicalise": Canonicalise,
    "match": MatchStep,
    "join": Join,
    "split": Split,
    "soften": Soften,
    "learn": LearnStep,
    "learn-all": LearnAll,
    "regauge": Regauge,
    "apply": Apply,
    "check": Check,
    "settle": Settle,
}


@dataclass(frozen=True)
class Program:
    """What will be done to two models A and B, or to any number of them, before anything is done."""

    model: str
    rules: str
    symmetry: str
    steps: tuple[Step, ...]
    inputs: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"program for {self.model or 'model'} (rules {self.rules[:8]})"
        return "\n".join([head, *(f"  {i}  {s}" for i, s in enumerate(self.steps, 1))])

    @property
    def reads_data(self) -> bool:
        """Whether a step needs training data."""
        return any(isinstance(s, Training) or (isinstance(s, Matching) and s.reads_data) for s in self.steps)

    def to_plain(self) -> dict[str, Any]:
        """The program as plain data."""
        return {
            "symgraph-program": 1,
            "model": self.model,
            "rules": self.rules,
            "symmetry": self.symmetry,
            "inputs": dict(self.inputs),
            "steps": [_plain_step(s) for s in self.steps],
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the program as YAML, or as JSON if the path ends so."""
        with atomic_path(Path(path), overwrite=overwrite) as temporary:
            temporary.write_text(self.dumps("json" if str(path).endswith(".json") else "yaml"), encoding="utf-8")
        return Path(path)

    def dumps(self, form: str = "yaml") -> str:
        """The program as text."""
        plain = self.to_plain()
        return json.dumps(plain, indent=2) if form == "json" else yaml.safe_dump(plain, sort_keys=False, width=120)

    @staticmethod
    def load(path: str | Path) -> Program:
        """Reads a program.

        Raises:
            UsageError: the file is missing, is not a program, or has a step that does not exist.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the program {path}", cause=one_line(error)) from error
        return Program.loads(text, str(path))

    @staticmethod
    def loads(text: str, place: str = "<text>") -> Program:
        """Reads a program from text (JSON is YAML).

        Raises:
            UsageError: the text is not a program, or a step or key does not exist or has a value of another type.
        """
        try:
            plain = _parse(text)
            if not isinstance(plain, Mapping) or plain.get("symgraph-program") != 1:
                remedy = "`symgraph align A B --emit-program FILE` writes one"
                raise UsageError(f"{place} is not a symgraph program", remedy=remedy)
            return _program(plain, place)
        except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # PyYAML lets the errors of its constructors through (an impossible date, an empty number).
            raise UsageError(f"{place} is not YAML", cause=one_line(error)) from error


def _parse(text: str) -> Any:
    # Not all JSON means the same in YAML: 1e-07 is a number in one and a text in the other.
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _plain_step(step: Step) -> dict[str, Any]:
    """A step as plain data: what it reads and makes first, options after that."""
    names = [f.name for f in sorted(fields(step), key=lambda f: f.kw_only is True)]
    found = asdict(step)
    return {n: _plain(found[n]) for n in ("op", *(n for n in names if n != "op"))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _program(plain: Mapping[Any, Any], place: str) -> Program:
    known = ("symgraph-program", "model", "rules", "symmetry", "inputs", "steps")
    if extra := [k for k in plain if k not in known]:
        raise UsageError(f"{place} has an unknown key {extra[0]!r}", remedy=f"known: {', '.join(known)}")
    steps, inputs = plain.get("steps"), plain.get("inputs") or {}
    if not isinstance(steps, list) or not isinstance(inputs, Mapping):
        raise UsageError(
            f"{place} has no list of steps" if not isinstance(steps, list) else f"{place}: inputs is no mapping"
        )
    texts = [str(plain.get(k, "")) for k in ("model", "rules", "symmetry")]
    read = tuple(_step(s, place, i) for i, s in enumerate(steps, 1))
    return Program(texts[0], texts[1], texts[2], read, {str(k): str(v) for k, v in inputs.items()})


def _step(data: Any, place: str, number: int) -> Step:
    op = data.get("op") if isinstance(data, Mapping) else None
    kind = _STEPS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise UsageError(f"{place}: step {number} is none of {', '.join(_STEPS)}")
    return _read(kind, data, f"{place}: step {number} ({data['op']})")  # type: ignore[no-any-return]


def _read(kind: type[Any], data: Any, where: str) -> Any:
    """A dataclass of the plan from plain data, every key and type checked."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} is not a mapping of keys to values")
    known = {f.name: f for f in fields(kind)}
    if extra := [k for k in data if k not in known]:
        raise UsageError(f"{where} has an unknown key {extra[0]!r}", remedy=f"known: {', '.join(known)}")
    if lost := [n for n, f in known.items() if n not in data and f.default is MISSING]:
        raise UsageError(f"{where} is incomplete", cause=f"it has no {', '.join(lost)}")
    values = {}
    for key, value in data.items():
        if not _fits(value, str(known[key].type)):
            raise UsageError(f"{where}: {key} is {reprlib.repr(value)}", cause=f"it must be of type {known[key].type}")
        values[key] = tuple(value) if isinstance(value, list) else value
    for key in ("units", "inside"):
        if key in values:
            values[key] = tuple(_read(UnitPlan, u, f"{where}, {key}") for u in values[key])
    return kind(**values)


def _fits(value: Any, kind: str) -> bool:
    """Whether plain data can stand for a field of this type; bool is no number here."""
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind == "float | str":
        return isinstance(value, str) or _fits(value, "float")
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("tuple[str"):
        return isinstance(value, list) and all(isinstance(v, str) for v in value)
    if kind.startswith("tuple[float"):
        return isinstance(value, list) and all(_fits(v, "float") for v in value)
    if kind.startswith("tuple"):
        return isinstance(value, list)
    weights = "dict" in kind and isinstance(value, Mapping)
    return isinstance(value, str) or (
        weights and all(isinstance(k, str) and _fits(v, "float") for k, v in value.items())
    )
