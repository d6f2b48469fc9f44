"""One architecture through every stage: built, traced, inferred, verified; what came out is one plain record."""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor, nn

import symgraph
from symgraph.inference.pipeline import infer
from symgraph.ir import Graph
from symgraph.prove.audit import Audit, audit
from symgraph.prove.verify import Verification, verify
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.symmetry.structure import Space
from symgraph.symmetry.terms import blocks
from symgraph.tracing import example_inputs, state_of, trace
from symgraph.tracing.interpreter import evaluate
from symgraph.tracing.kinds import Inputs, further_kinds
from symgraph.tracing.wrap import TensorsOnly, float_outputs, is_pretrained

from . import third_party
from .builder import ATTEMPTS, MAPPINGS, audit_inputs, smallest, tiny

# Decomposing the Jacobian takes seconds up to here.
LARGEST = 2600
CIRCUITS = ("query-key", "value-output")
STAGES = ("build", "export", "infer", "verify")
T = TypeVar("T")
Record = dict[str, Any]
Tell = Callable[[Record], None]


class Stopped(Exception):
    """A stage failed; the record says which and why."""


def run(mapping: str, kind: str, name: str, tell: Tell = lambda record: None, each: bool = True) -> Record:
    """All stages of one entry, as far as they go; `tell` hears the record before every stage.

    With `each`, every family of what fails is also verified by itself, so that the record names it.
    """
    record: Record = {"mapping": mapping, "kind": kind, "model": name, "stages": {}, "audit": None}
    with suppress(Stopped):
        _stages(record, tell, each)
    record.pop("running", None)
    return record


def _stages(record: Record, tell: Tell, each: bool) -> None:
    kind, name, mapping = record["kind"], record["model"], record["mapping"]

    def stage(what: str, call: Callable[[], T]) -> T:
        record["running"] = what
        tell(record)
        return timed(record["stages"], what, call)

    model, attempt = stage("build", lambda: tiny_model(kind, name, mapping))
    record |= {"attempt": attempt, "parameters": sum(p.numel() for p in model.parameters())}
    (graph, given), record["drift"] = stage("export", lambda: exported(model, name))
    record |= {"nodes": len(graph.nodes), "operators": dict(Counter(n.target for n in graph.calls))}
    ordered = [given[n.target] for n in graph.inputs]
    symmetry = stage("infer", lambda: infer(graph))
    record |= described(symmetry)
    state = state_of(model)
    found = stage("verify", lambda: _verified(symmetry, state, ordered, each))
    record |= {"error": found.together, "unsound": {c.name: [c.group, c.error] for c in found.failures}}
    if not found.passed:
        record["stages"]["verify"] |= {"ok": False, "cause": f"unsound: outputs change by {found.together:.1e}"}


def _verified(symmetry: SymmetryGraph, state: dict[str, Tensor], inputs: list[Tensor], each: bool) -> Verification:
    """All families at once; each by itself only where that fails, which takes hundreds of runs of a deep model."""
    found = verify(symmetry, state, inputs, samples=1, each=False, perturb=0.1)
    return found if found.passed or not each else verify(symmetry, state, inputs, samples=1, perturb=0.1)


def tiny_model(kind: str, name: str, mapping: str) -> tuple[nn.Module, int]:
    """A model that can be built and run, and the attempt that it took."""
    if mapping not in MAPPINGS:
        return third_party.tiny(mapping, kind)
    model, sizes = tiny(kind, name, mapping)
    return model, ATTEMPTS.index(sizes)


def _smallest(kind: str, name: str, mapping: str) -> nn.Module:
    return smallest(kind, name, mapping) if mapping in MAPPINGS else third_party.tiny(mapping, kind)[0]


def audited(mapping: str, kind: str, name: str, tell: Tell = lambda record: None) -> Record:
    """The audit of one entry, where it can be made small enough: its record has `audit` and what is missing."""
    record: Record = {"mapping": mapping, "kind": kind, "model": name, "stages": {}, "audit": None, "running": "build"}
    tell(record)
    with suppress(Stopped):
        model = timed(record["stages"], "build", lambda: _smallest(kind, name, mapping))
        record |= {"parameters": sum(p.numel() for p in model.parameters()), "running": "audit"}
        tell(record)
        if record["parameters"] <= LARGEST:
            found = timed(record["stages"], "audit", lambda: _audit(kind, model, name))
            record["audit"] = f"{found.inferred} of {found.measured}" + (" UNSOUND" if found.unsound else "")
            record["missing"] = [str(s) for s in found.missing]
    record.pop("running", None)
    return record


def _audit(kind: str, model: nn.Module, name: str) -> Audit:
    given = audit_inputs(kind, model)
    graph = _graph(model, name) if given is None else trace(model, kwargs=given, name=name)
    return audit(infer(graph), state_of(model), approximate=False)


def timed(stages: dict[str, Any], what: str, call: Callable[[], T]) -> T:
    """What a stage gives; how long it took and why it failed go into the record."""
    started = time.perf_counter()
    try:
        result = call()
    except Exception as error:
        stages[what] = {"ok": False, "seconds": _since(started), "cause": cause(error)}
        stages[what]["traceback"] = "".join(traceback.format_exception(error))[-3000:]
        raise Stopped from error
    stages[what] = {"ok": True, "seconds": _since(started), "cause": ""}
    return result


def exported(model: nn.Module, name: str) -> tuple[tuple[Graph, Inputs], float]:
    """The graph and its inputs, and how far its outputs are from the model's in float32, on inputs of every kind."""
    graph = _graph(model, name)
    kinds = _kinds(model, graph)
    inputs = {k: v for given in kinds.values() for k, v in given.items()}
    function = TensorsOnly(model) if is_pretrained(model) else lambda **given: float_outputs(model(**given))
    with torch.no_grad():
        wanted = [t for label, given in kinds.items() for t in function(**_plain(given, label))]
        found = evaluate(graph, state_of(model), inputs, torch.float32)
    return (graph, inputs), max(relative(a, b) for a, b in zip(found, wanted, strict=True))


def _graph(model: nn.Module, name: str) -> Graph:
    """The graph on a model's own example inputs, or on those that follow from its config."""
    return trace(model, kwargs=getattr(model, "example_inputs", None), name=name)


def _kinds(model: nn.Module, graph: Graph) -> dict[str, Inputs]:
    """What each trace takes, by its kind of input (the plain one has no name) and under the names of the graph."""
    if not is_pretrained(model):
        return {"": dict(model.example_inputs)}  # type: ignore[arg-type]
    made = {label: make for label, make in further_kinds(model, example_inputs(model)) if label in graph.kinds}
    further = {label: {f"{label}: {k}": v for k, v in make().items()} for label, make in made.items()}
    taken = {n.target for n in graph.inputs}
    every = {"": example_inputs(model, masks=True), **further}
    return {label: {k: v for k, v in given.items() if k in taken} for label, given in every.items()}


def _plain(given: Inputs, label: str) -> Inputs:
    """The same under the names of the model."""
    return {k.removeprefix(f"{label}: "): v for k, v in given.items()}


def relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest entry; infinite where either has NaN."""
    return float((a - b).abs().nan_to_num(torch.inf).max() / b.abs().max().clamp_min(1e-30))


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)


# By the folders of the packages: a clone may lie below a folder of any name.
_OURS = tuple(f"{Path(f).parent}{os.sep}" for f in (symgraph.__file__, transformers.__file__, __file__))


def cause(error: BaseException) -> str:
    """An error in one line: its kind, what it says first, and the innermost line outside torch and Python."""
    deepest = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    why = getattr(error, "cause", "")
    frames = reversed(traceback.extract_tb(deepest.__traceback__))
    at = next((f for f in frames if f.filename.startswith(_OURS)), None)
    place = f" at {Path(at.filename).name}:{at.lineno}" if at else ""
    return f"{type(error).__name__}: {text[:200]}{f' ({why[:200]})' if why else ''}{place}"


def described(symmetry: SymmetryGraph) -> Record:
    """What was inferred, in numbers."""
    active = {s.id for s in symmetry.active}
    total = sum(prod(n.shape) for n in symmetry.graph.parameters.values())
    moving = sum(
        prod(leaf.size for leaf in block)
        for name in symmetry.graph.parameters
        for block in blocks(symmetry.terms[name])
        if any(leaf.space in active for leaf in block)
    )
    stream = residual(symmetry)
    return {
        "circuits": dict(Counter(c for s in symmetry.spaces for c in CIRCUITS if c in s.name)),
        "spaces": dict(Counter(str(s.group) for s in symmetry.spaces)),
        "moving": round(moving / total, 4) if total else 0.0,
        "residual": [stream.name, stream.size, str(stream.group)] if stream else None,
        "because": [f"{e.rule} at {e.where}: {e.reason}" for e in (stream.evidence[:3] if stream else ())],
        "uncovered": dict(Counter(u.operator for u in symmetry.uncovered)),
        "uncovered_at": sorted({f"{u.operator} {u.where} {' '.join(u.shapes)}" for u in symmetry.uncovered})[:40],
    }


def residual(symmetry: SymmetryGraph) -> Space | None:
    """The stream: the space with an axis of the most tensors."""
    return max(symmetry.spaces, key=lambda s: len(symmetry.parameters_of[s.id]), default=None)
