"""The program: typed steps, readable, saved as YAML or JSON, and run to the same result.

program for ViTForImageClassification (rules 3f2a91c0)
  1  canonicalise  A -> A.canonical
  2  canonicalise  B -> B.canonical
  3  match         A.canonical, B.canonical -> matched (by weights, at most 15 sweeps, tolerance 1e-07, seed 0)
      residual                               orthogonal fixing ones   polar factor on the hyperplane of mean zero
      layers.0.mlp.hidden                    permutation              assignment
  4  settle        matched -> A.aligned, B.aligned, in the gauge of their reference
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from symgraph.errors import UsageError, argument, either, near, one_line
from symgraph.io.decode import Malformed, brief, decode, parse
from symgraph.io.files import atomic_path
from symgraph.io.heap import give_back_now
from symgraph.io.pinned import DataInput, ModelInput, moved, placed, plain_path
from symgraph.io.ranks import current, release
from symgraph.io.shown import Shown
from symgraph.match.barrier_steps import Evaluate, Interpolate, Recalibrate, Report
from symgraph.match.blend_steps import Soften, Split
from symgraph.match.learn_step import LearnStep
from symgraph.match.match_step import MatchStep
from symgraph.match.plane_step import PlaneStep
from symgraph.match.prepare_steps import Canonicalise, Embed, Reduce
from symgraph.match.program_run import Run, detached
from symgraph.match.program_step import ProgramStep
from symgraph.match.settle_step import Settle
from symgraph.match.write_step import Write
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.progress import tell

VERSION, _MARK = 2, "symgraph-program"
STEPS: dict[str, type[ProgramStep]] = {
    step.op: step
    for step in (
        *(Embed, Reduce, Canonicalise, MatchStep, Split, Soften, LearnStep, Settle),
        *(Interpolate, Recalibrate, Evaluate, PlaneStep, Report, Write),
    )
}


_log = logging.getLogger(__name__)


def _writing() -> str:
    """How to come by a program."""
    return either("`symgraph.plan([a, b])` makes one", "`symgraph align A B --emit-program FILE` writes one")


@dataclass(frozen=True, repr=False)
class Program(Shown):
    """What will be done to two models A and B, or to any number of them, before anything is done.

    `inputs` are models and `data` batches, by name. Training data is called `train`, and what training stops by
    `validation`. Paths are relative to the working folder; in a file that `beside` and `opened` know of, to its own.
    """

    model: str
    rules: str
    symmetry: str
    steps: tuple[ProgramStep, ...]
    inputs: dict[str, ModelInput] = field(default_factory=dict)
    data: dict[str, DataInput] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"program for {self.model or 'model'}{f' (rules {self.rules[:8]})' if self.rules else ''}"
        data = (f"  {name}: {found}" for name, found in self.data.items())
        return "\n".join([head, *data, *(f"  {number}  {step}" for number, step in enumerate(self.steps, 1))])

    @property
    def reads_data(self) -> bool:
        """Whether a step needs training data."""
        return any(step.reads_data for step in self.steps)

    @property
    def reads_symmetry(self) -> bool:
        """Whether a step needs the symmetry graph of the models."""
        return any(step.reads_symmetry for step in self.steps)

    @property
    def outputs(self) -> tuple[tuple[ProgramStep, str, str], ...]:
        """What is written: the step, the name of its field, and the path."""
        return tuple((step, name, path) for step in self.steps for name, path in step.outputs.items() if path)

    def beside(self, file: str | Path) -> Program:
        """The program with paths relative to the folder of its file."""
        here, there = Path().absolute(), Path(file).absolute().parent
        return self._located(lambda path: moved(path, here, there), lambda path: placed(path, here, there))

    @staticmethod
    def opened(file: str | Path) -> Program:
        """The program of a file, with paths relative to the working folder.

        Raises:
            UsageError: as for `load`.
        """
        here, there = Path().absolute(), Path(file).absolute().parent
        return Program.load(file)._located(
            lambda path: plain_path(moved(path, there, here)),
            lambda path: placed(path, there, here).removeprefix("./"),
        )

    def _located(self, read: Callable[[str], str], written: Callable[[str], str]) -> Program:
        """The program with other paths of what is read, and of what is written."""
        inputs = {name: replace(given, model=read(given.model)) for name, given in self.inputs.items()}
        data = {
            name: replace(batches, data=read(batches.data), tokenizer=batches.tokenizer and read(batches.tokenizer))
            for name, batches in self.data.items()
        }
        steps = (step.writing({name: written(path) for name, path in step.outputs.items()}) for step in self.steps)
        return replace(self, inputs=inputs, data=data, steps=tuple(steps))

    def pinned(self, hashes: Mapping[str, str], data: Mapping[str, str]) -> Program:
        """The program with the hashes of its models, and of its data."""
        inputs = {name: replace(given, sha256=hashes.get(name, given.sha256)) for name, given in self.inputs.items()}
        found = {name: replace(batches, sha256=data.get(name, batches.sha256)) for name, batches in self.data.items()}
        return replace(self, inputs=inputs, data=found)

    def run(self, symmetry: SymmetryGraph | None, states: Mapping[str, Mapping[str, Tensor]], **how: Any) -> Run:
        """Runs the steps in order.

        Several processes share the steps up to the match; the first one goes on alone with the others.

        Args:
            states: the models by the program's input names ("A", "B").
            how: further fields of the `Run`: models, hashes, device, dtype, lesson, batches, others, called, progress.

        Raises:
            UsageError: the program was made for another architecture, a model is missing, or a step reads what no step
                before it makes; or it reads data, and several processes share it.
        """
        if self.symmetry and symmetry is not None and self.symmetry != symmetry.fingerprint:
            raise UsageError("the program was made for another architecture or other rules", remedy=_writing())
        run = Run(symmetry, {name: detached(state) for name, state in states.items()}, **how)
        self._check_shareable()
        shared = max((number for number, step in enumerate(self.steps) if step.is_shared), default=-1)
        for number, step in enumerate(self.steps):
            if number > shared:
                release()
            tell(_log, run.progress, str(step).splitlines()[0])
            step.apply(run)
            give_back_now()
        return run

    def _check_shareable(self) -> None:
        if self.reads_data and current().count > 1:
            remedy = f"run it in one process, or match by weights: {argument('method', 'weights')}"
            raise UsageError("several processes share a match by weights alone", cause="this reads data", remedy=remedy)

    def to_plain(self) -> dict[str, Any]:
        """The program as plain data."""
        return {
            _MARK: VERSION,
            "model": self.model,
            "rules": self.rules,
            "symmetry": self.symmetry,
            "inputs": {name: brief(given) for name, given in self.inputs.items()},
            **({"data": {name: brief(batches) for name, batches in self.data.items()}} if self.data else {}),
            "steps": [step.dump() for step in self.steps],
        }

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the program as YAML, or as JSON if the path ends so."""
        with atomic_path(Path(path), overwrite=overwrite) as temporary:
            temporary.write_text(self.dumps("json" if str(path).endswith(".json") else "yaml"), encoding="utf-8")
        return Path(path)

    def dumps(self, form: str = "yaml") -> str:
        """The program as text."""
        plain = self.to_plain()
        return json.dumps(plain, indent=2) if form == "json" else _yaml(plain)

    @staticmethod
    def load(path: str | Path) -> Program:
        """Reads a program.

        Raises:
            UsageError: the file is missing, is not a program, or has a step that does not exist.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the program {path}", cause=one_line(error), remedy=_writing()) from error
        return Program.loads(text, str(path))

    @staticmethod
    def loads(text: str, place: str = "<text>") -> Program:
        """Reads a program from text (JSON is YAML).

        Raises:
            UsageError: the text is not a program, or a step or key does not exist or has a value of another type.
        """
        try:
            plain = parse(text)
        except Malformed as error:
            raise UsageError(f"{place} is not YAML", cause=str(error), remedy=_writing()) from error
        version = plain.get(_MARK) if isinstance(plain, Mapping) else None
        if version != VERSION:
            what = f"{place} is not a symgraph program"
            if version == 1:
                what = f"{place} is a program of an earlier version of symgraph"
            raise UsageError(what, remedy=_writing())
        return _program(plain, place)


@dataclass(frozen=True, slots=True)
class _Plain:
    """A program whose steps are not read yet."""

    steps: tuple[Any, ...]
    model: str = ""
    rules: str = ""
    symmetry: str = ""
    inputs: dict[str, str | ModelInput] = field(default_factory=dict)
    data: dict[str, DataInput] = field(default_factory=dict)


def _yaml(plain: Mapping[str, Any]) -> str:
    """YAML in which what holds no lists or mappings is on one line."""
    return yaml.safe_dump(plain, sort_keys=False, width=120, default_flow_style=None)


def _program(plain: Mapping[Any, Any], place: str) -> Program:
    try:
        read = decode(_Plain, {key: value for key, value in plain.items() if key != _MARK})
    except Malformed as error:
        raise UsageError(f"{place}: {error}", remedy=_writing()) from error
    steps = tuple(_step(step, place, number) for number, step in enumerate(read.steps, 1))
    inputs = {name: ModelInput(model=given) if isinstance(given, str) else given for name, given in read.inputs.items()}
    return Program(read.model, read.rules, read.symmetry, steps, inputs, read.data)


def _step(data: Any, place: str, number: int) -> ProgramStep:
    op = data.get("op") if isinstance(data, Mapping) else None
    kind = STEPS.get(op) if isinstance(op, str) else None
    if kind is None:
        remedy = near(str(op), STEPS, _writing())
        raise UsageError(f"{place}: step {number} is none of {', '.join(STEPS)}", remedy=remedy)
    try:
        return kind.load({key: value for key, value in data.items() if key != "op"})
    except (Malformed, UsageError) as error:
        raise UsageError(f"{place}: step {number} ({op}): {error}", remedy="correct it at that place") from error
