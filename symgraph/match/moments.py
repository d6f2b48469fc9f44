"""The moments of AdamW carried with a model: those of the gradients in another basis.

A gradient goes by the inverse transpose of what the weights go by, and so does its running mean. The running mean of
its squares goes by the squares of that map's entries, which is what the moments would be where the map takes entries
to entries (permutations, signs, scales); of a map that mixes entries it is what independent gradients would have. A
gain that multiplies a stream which turns has other entries there, of whose gradients nothing is known: it starts anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, one_line, shorten
from symgraph.inference.sources import RuleSources, Source
from symgraph.io.example import Size
from symgraph.io.files import atomic_path
from symgraph.io.shown import Shown
from symgraph.match.aligned import Aligned
from symgraph.match.transport import alignment_between, ends_of
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.steps import Act, Transform
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing import state_of
from symgraph.tracing.sampling import float64

MEANS, SQUARES = ("exp_avg",), ("exp_avg_sq", "max_exp_avg_sq")
_PROBES, _SAME = 32, 1e-9
State = Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class CarriedMoments(Shown):
    """The state of an optimiser, as `torch.optim` loads it, for a model in another basis.

    `mixed` names the parameters whose entries the alignment mixes: their squares are those of independent gradients.
    `anew` names the gains that start anew, with the mean of their squares.
    """

    state: dict[str, Any]
    alignment: Alignment
    mixed: tuple[str, ...]
    anew: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the state by `torch.save`.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        with atomic_path(path, overwrite) as temporary:
            torch.save(self.state, temporary)
        return Path(path)

    def to_plain(self) -> dict[str, Any]:
        """What was carried, as plain data."""
        return {
            "parameters": len(self.state["state"]),
            "mixed": list(self.mixed),
            "anew": list(self.anew),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [f"moments of {len(self.state['state'])} parameters"]
        if self.mixed:
            lines.append(f"squares as of independent gradients, for entries are mixed: {shorten(self.mixed)}")
        else:
            lines.append("exact: the alignment takes entries to entries")
        if self.anew:
            lines.append(f"gains of streams that turn start anew: {shorten(self.anew)}")
        return "\n".join([*lines, *self.notes])


def transport_moments(
    base: Source,
    moments: Mapping[str, Any] | str | Path,
    to: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    alignment: Alignment | Aligned | str | Path | None = None,
    rules: RuleSources = None,
    scratch: str | Path | None = None,
    **how: Any,
) -> CarriedMoments:
    """Carries the moments of Adam or AdamW from one model to another, through their alignment.

    Args:
        moments: `state_dict()` of the optimiser of `base`, or a file of it. Its parameters are those of the module, in
            order, unless its groups name them.
        example, input_size, alignment, rules, scratch, how: as for `transport`.

    Raises:
        UsageError: it is no state of Adam or AdamW.
        CheckpointError: it cannot be read, or does not fit the model.

    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> a, b, x = make(), make(), torch.randn(5, 6)
    >>> optimiser = torch.optim.AdamW(a.parameters())
    >>> a(x).square().mean().backward(); optimiser.step()
    >>> symgraph.transport_moments(a, optimiser.state_dict(), b, x).mixed
    ()

    Source: signed-permutation transport, arXiv 2606.31963 (AdamW's state is moved too).
    """
    given = _read(moments) if isinstance(moments, str | Path) else dict(moments)
    ends = ends_of(base, to, example, input_size)
    names = _names(given, ends["base"].module)
    found, notes = alignment_between(ends, alignment, rules, scratch, how)
    wide = float64(state_of(ends["base"].module))
    back = found.inverse().transform.fitted(wide).inverse()
    anew = _turned(found.symmetry, back)
    moved, mixed = _moved(given, names, wide, back, found.symmetry.graph.tied)
    for number, name in names.items():
        if name in anew:
            moved["state"][number] |= _afresh(given["state"][number])
    apart = tuple(name for name in mixed if name not in anew)
    return CarriedMoments(moved, found, apart, tuple(name for name in anew if name in names.values()), notes)


def _turned(symmetry: SymmetryGraph, back: Transform) -> tuple[str, ...]:
    """Gains that multiply along a space of which entries are mixed."""
    mixing = {
        s
        for step in back.steps
        if isinstance(step, Act)
        for s, element in step.element.elements.items()
        if element.index is None
    }
    return tuple(
        gain
        for gain, sites in symmetry.gain_sites.items()
        if {symmetry.frame(frame).space for site in sites for frame in site.frames} & mixing
    )


def _afresh(one: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {k: torch.zeros_like(one[k]) for k in MEANS}
    return found | {k: torch.full_like(one[k], float(one[k].mean())) for k in SQUARES if k in one}


def _read(path: str | Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        foreign = isinstance(error, UnpicklingError)
        cause = "it is no file of torch.save, or holds objects, whose code would run" if foreign else one_line(error)
        remedy = "name a file of optimiser.state_dict(), written by torch.save"
        raise CheckpointError(f"{path} cannot be read", cause=cause, remedy=remedy) from error
    # Trainers keep it beside other things.
    inner = found.get("optimizer", found) if isinstance(found, dict) else found
    return dict(inner) if isinstance(inner, Mapping) else {}


def _names(given: Mapping[str, Any], module: nn.Module) -> dict[int, str]:
    """The parameter behind every number of the optimiser."""
    groups, kept = given.get("param_groups"), given.get("state")
    if not isinstance(groups, list) or not isinstance(kept, Mapping) or not kept:
        remedy = "give optimiser.state_dict() of Adam or AdamW, after a step"
        raise UsageError("this is no state of an optimiser, or it has taken no step", remedy=remedy)
    if not all(MEANS[0] in one and SQUARES[0] in one for one in kept.values()):
        remedy = "give that of Adam or AdamW; momentum of SGD is a mean of gradients as well, and is not read"
        raise UsageError("the optimiser keeps no moments of first and second order", remedy=remedy)
    numbers = [number for group in groups for number in group["params"]]
    own = dict(module.named_parameters())
    named = [name for group in groups for name in group.get("param_names", ())]
    found = dict(zip(numbers, named or own, strict=False))
    for number, one in kept.items():
        name = found.get(number, "")
        if name not in own or own[name].shape != one[MEANS[0]].shape:
            what = f"parameter {number} of the optimiser has shape {tuple(one[MEANS[0]].shape)}"
            cause = f"{name or 'no parameter'} of the model stands there"
            remedy = "give the state of an optimiser of this model's parameters, in their order"
            raise CheckpointError(what, cause=cause, remedy=remedy)
    return {number: found[number] for number in kept}


def _moved(
    given: Mapping[str, Any], names: Mapping[int, str], wide: State, back: Transform, tied: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    kept = given["state"]

    def gathered(key: str) -> dict[str, Tensor]:
        return {tied.get(n, n): kept[k][key].double() for k, n in names.items() if key in kept[k]}

    found = {key: _pulled(back, wide, gathered(key)) for key in MEANS}
    mixed: set[str] = set()
    for key in SQUARES:
        if roots := {name: tensor.clamp_min(0).sqrt() for name, tensor in gathered(key).items()}:
            found[key], apart = _squares(back, wide, roots)
            mixed |= apart
    state = {}
    for number, name in names.items():
        own, first = kept[number], tied.get(name, name)
        moved = {key: moments[first].to(own[key].dtype) for key, moments in found.items() if key in own}
        state[number] = {**own, **moved}
    return {**given, "state": state}, tuple(sorted(mixed))


def _pulled(back: Transform, wide: State, gradients: State) -> dict[str, Tensor]:
    """Gradients in the new basis: by the transpose of the linear map that leads back from it."""
    floating = {name: tensor for name, tensor in wide.items() if tensor.is_floating_point()}
    points = {name: torch.zeros_like(tensor).requires_grad_(name in gradients) for name, tensor in floating.items()}
    with torch.enable_grad():
        there = back.apply({**wide, **points}, linear=True)
        products = ((there[name] * gradient).sum() for name, gradient in gradients.items())
        value = sum(products, torch.zeros((), dtype=torch.float64))
        found = torch.autograd.grad(value, [points[name] for name in gradients], allow_unused=True)
    pairs = zip(gradients, found, strict=True)
    return {name: torch.zeros_like(points[name]) if pulled is None else pulled for name, pulled in pairs}


def _squares(back: Transform, wide: State, roots: State) -> tuple[dict[str, Tensor], set[str]]:
    """The squared entries of the map on squares, by random signs: the same for all where no entries are mixed."""
    generator = torch.Generator().manual_seed(0)
    total: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    mixed: set[str] = set()
    count = 0
    while count < _PROBES and (count < 2 or mixed):
        signs = {
            name: tensor * (torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1)
            for name, tensor in roots.items()
        }
        seen = {name: tensor.square() for name, tensor in _pulled(back, wide, signs).items()}
        first = first or seen
        for name, tensor in seen.items():
            if float((tensor - first[name]).abs().max()) > _SAME * float(first[name].abs().max() or 1.0):
                mixed.add(name)
        total = {name: total[name] + tensor if total else tensor for name, tensor in seen.items()}
        count += 1
    return {name: tensor / count for name, tensor in total.items()}, mixed
