"""One architecture, rotated for quantisers: whether it computes the same in float32, or why it is left as it is."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

import symgraph
from symgraph.errors import UsageError
from symgraph.io.tied import untie
from symgraph.tracing import example_inputs
from symgraph.tracing.wrap import TensorsOnly

from .stages import Stopped, relative, timed, tiny_model

Record = dict[str, Any]
Tell = Callable[[Record], None]
# A change of the outputs in float32, over the largest of them, that counts as none.
EXACT = 1e-5
OUTCOMES = {
    "stream": "exact, the residual stream turned",
    "insides": "exact, insides of heads alone",
    "refused": "refused with a reason",
    "changed": "outputs changed by more than 1e-5",
    "failed": "failed",
}


def rotated(mapping: str, kind: str, name: str, tell: Tell = lambda record: None) -> Record:
    """A Hadamard rotation of one entry with learned gains: its record has an `outcome`, and `change` or `because`."""
    record: Record = {"mapping": mapping, "kind": kind, "model": name, "stages": {}, "running": "build"}
    tell(record)
    with suppress(Stopped):
        module = timed(record["stages"], "build", lambda: as_learned(tiny_model(kind, name, mapping)[0]))
        record["running"] = "rotate"
        tell(record)
        record |= timed(record["stages"], "rotate", lambda: _rotated(module))
    record.pop("running", None)
    return record


@torch.no_grad()
def as_learned(module: nn.Module) -> nn.Module:
    """The same with gains and biases as training leaves them: nothing is one or zero throughout."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def _rotated(module: nn.Module) -> Record:
    model = symgraph.model(module)
    with suppress(UsageError):
        model = untie(model).model
    try:
        found = symgraph.rotate(model)
    except UsageError as error:
        return {"outcome": "refused", "because": error.cause}
    change = max(map(relative, outputs(found.module), outputs(model.module)))
    turned = "insides" if all(s.fibre for s in found.turned) else "stream"
    return {"outcome": turned if change <= EXACT else "changed", "change": change, "because": "; ".join(found.kept)}


def outputs(module: nn.Module) -> tuple[Tensor, ...]:
    """What a model gives on its example inputs, in float32."""
    with torch.no_grad():
        return tuple(TensorsOnly(copy.deepcopy(module).float())(**example_inputs(module)))


def outcome(record: Record) -> str:
    """What came of an entry: one of OUTCOMES, or that it was not built."""
    stages = record["stages"]
    if not stages["build"]["ok"]:
        return "not built"
    return str(record.get("outcome", "failed"))


def rotations(records: Iterable[Record]) -> str:
    """How many entries rotate exactly, are refused and why, and which fail."""
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[outcome(record)].append(record)
    lines = [f"{sum(map(len, found.values()))} entries"]
    lines += [f"{len(found[k]):>5}  {text}" for k, text in OUTCOMES.items()]
    lines += [f"{len(found['not built']):>5}  not built", ""]
    for kind in ("insides", "refused", "changed", "failed"):
        lines += [f"  {kind}: {r['kind']}: {_why(r)}" for r in found[kind]]
    return "\n".join(lines)


def _why(record: Record) -> str:
    if not record["stages"].get("rotate", {}).get("ok"):
        return str(record["stages"].get("rotate", {}).get("cause", "nothing is known"))[:300]
    said = record["because"] if "change" not in record else f"{record['change']:.1e} {record['because']}"
    return str(said)[:200]
