"""What tools that rotate models for quantisation have to be told about one, from its symmetries.

Such tools bring the names of a few architectures and take them for all others. What is written here is checked: gains
into readers and an orthogonal matrix on the modules that are named must leave the function, in the model's own module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symgraph.errors import UsageError, near, shorten
from symgraph.groups.class_names import SymmetryClass
from symgraph.inference.sources import RuleSources, Source, infer, with_inputs
from symgraph.io.checkpoint import tied_names
from symgraph.io.example import Size
from symgraph.io.files import write_text
from symgraph.io.models import Model
from symgraph.io.shown import Shown
from symgraph.io.tied import untie
from symgraph.match import auto_round, llm_compressor
from symgraph.match.module_places import Places, places
from symgraph.match.module_roles import roles
from symgraph.match.unchanged import Endpoint
from symgraph.orbit.incoherent import hadamard, turnable
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64


@dataclass(frozen=True, slots=True, repr=False)
class QuantiserMapping(Shown):
    """The text that a tool reads: a recipe in YAML, or a module of Python.

    `turned` are the names of the spaces that the tool then rotates, `left` says of others why it cannot.
    """

    tool: str
    text: str
    turned: tuple[str, ...]
    left: tuple[str, ...]

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the text.

        Raises:
            OutputError: something is there and `overwrite` is not set, or it cannot be written.
        """
        return write_text(path, self.text, overwrite)

    def to_plain(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"tool": self.tool, "turned": list(self.turned), "left": list(self.left), "text": self.text}

    def __str__(self) -> str:
        return "\n".join((f"{self.tool} rotates {shorten(self.turned)}", *(f"  left: {why}" for why in self.left)))


def quantiser_mapping(
    source: Source,
    example: Any = None,
    *,
    tool: str = "llm-compressor",
    input_size: Size | None = None,
    rules: RuleSources = None,
) -> QuantiserMapping:
    """What a tool has to be told so that its rotations keep the function of a model.

    Args:
        example, input_size: inputs of a module that brings none, or the shape of one, as for `trace`.
        tool: "llm-compressor" (a recipe) or "auto-round" (a module of Python).

    Raises:
        UsageError: the tool would change the function whatever it is told, and how.
        VerifyError: what it is told would change the function.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.RMSNorm(8), torch.nn.Linear(8, 3))
    >>> symgraph.quantiser_mapping(net, torch.randn(5, 6)).turned
    ('hidden',)
    """
    if tool not in TOOLS:
        raise UsageError(f"no tool is called {tool!r}", remedy=near(tool, TOOLS, f"one of {' and '.join(TOOLS)}"))
    found = _as_the_tool_has_it(with_inputs(source, example, input_size))
    symmetry = infer(found, rules=rules)
    lie = [places(symmetry, found.module, space) for space in turnable(symmetry)]
    return _WRITERS[tool](found, symmetry, lie)


def _as_the_tool_has_it(found: Model) -> Model:
    """The model with its embeddings untied, which both tools do by themselves."""
    ties = tied_names(found.module)
    embeddings = [getattr(found.module, f"get_{end}_embeddings", lambda: None)() for end in ("input", "output")]
    ends = {name for name, inner in found.module.named_modules() if inner in embeddings}
    if not all(name.removesuffix(".weight") in ends for name in (*ties, *ties.values())):
        return found
    return untie(found).model


def _recipe(found: Model, symmetry: SymmetryGraph, lie: list[Places]) -> QuantiserMapping:
    reasons = [(place, llm_compressor.obstacles(found.module, place)) for place in lie]
    turned = [place for place, why in reasons if not why]
    left = [*_rigid(symmetry), *(_why(place, why) for place, why in reasons if why)]
    if not turned:
        raise _refusal(found, "llm-compressor", left)
    _check(found, turned)
    parts = roles(symmetry, found.module, _stream(lie) or turned[0], turned)
    text = llm_compressor.recipe(found.module, turned, parts, _what(found, turned, left))
    return QuantiserMapping("llm-compressor", text, tuple(place.space.name for place in turned), tuple(left))


def _mapping(found: Model, symmetry: SymmetryGraph, lie: list[Places]) -> QuantiserMapping:
    stream = _stream(lie)
    if stream is None:
        raise _refusal(found, "auto-round", _rigid(symmetry) or ["its stream does not rotate"])
    insides = [place for place in lie if place.space.fibre]
    parts = roles(symmetry, found.module, stream, insides)
    try:
        text = auto_round.script(found.module, stream, insides, parts, _what(found, [stream], []))
    except auto_round.Unfit as error:
        raise _refusal(found, "auto-round", [str(error)]) from error
    _check(found, [stream])
    return QuantiserMapping("auto-round", text, (stream.space.name,), ())


_WRITERS: Mapping[str, Callable[[Model, SymmetryGraph, list[Places]], QuantiserMapping]] = {
    "llm-compressor": _recipe,
    "auto-round": _mapping,
}
TOOLS = tuple(_WRITERS)


def _stream(lie: list[Places]) -> Places | None:
    """Of the spaces that are no part of heads the one with the most modules."""
    free = [place for place in lie if not place.space.fibre]
    return max(free, key=lambda place: len(place.writers) + len(place.readers), default=None)


def _rigid(symmetry: SymmetryGraph) -> list[str]:
    """What is said of a stream that has no rotations."""
    stream = max(symmetry.active, key=lambda space: len(symmetry.parameters_of[space.id]), default=None)
    if stream is None or stream in turnable(symmetry):
        return []
    return [f"{stream.name} ({stream.size}): its group is {stream.group}, which has no rotations"]


def _what(found: Model, turned: list[Places], left: list[str]) -> str:
    names = shorten(f"{place.space.name} ({place.space.size})" for place in turned)
    stays = (f"Left as it is: {why}." for why in left)
    return "\n# ".join([f"rotations of {type(found.module).__name__}: {names}", *stays])


def _why(place: Places, obstacles: Sequence[str]) -> str:
    more = f" (and {len(obstacles) - 1} more reasons)" if len(obstacles) > 1 else ""
    return f"{place.space.name} ({place.space.size}): {obstacles[0]}{more}"


def _refusal(found: Model, tool: str, why: list[str]) -> UsageError:
    remedy = "`symgraph rotate` without a tool writes a rotated checkpoint, which is quantised as it is"
    return UsageError(f"{tool} cannot rotate {found.spec} and keep its function", cause=shorten(why), remedy=remedy)


def _check(found: Model, turned: list[Places]) -> None:
    """Does what the tool will do, but for the mean that a layer norm takes away, and compares what is computed."""
    state: dict[str, Tensor] = float64(state_of(found.module))
    generator = torch.Generator().manual_seed(0)
    for place in turned:
        whole = SymmetryClass.ORTHOGONAL in place.space.bound
        size = place.block if whole else place.space.size
        state = place.turned(state, hadamard(size, (), not whole, generator))
    Endpoint(found, state).check()
