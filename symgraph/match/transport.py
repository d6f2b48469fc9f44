"""What was learned on one model carried to another: a task vector or a low-rank adapter, through their alignment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.errors import CheckpointError, UsageError, argument, called
from symgraph.inference.sources import RuleSources, Source, infer, stored, with_inputs, with_state
from symgraph.io import checkpoint
from symgraph.io.adapters import Adapter, is_adapter, read_adapter, write_adapter
from symgraph.io.checkpoint import module_hash
from symgraph.io.example import Size
from symgraph.io.files import SHARD_SIZE
from symgraph.io.models import Model
from symgraph.io.options import given
from symgraph.io.same_architecture import check_same_architecture
from symgraph.io.shown import Shown
from symgraph.io.spool import Spool
from symgraph.match.align import align
from symgraph.match.aligned import Aligned
from symgraph.match.cards import Card, Ingredient, element_spaces
from symgraph.match.each_scale import each_scale
from symgraph.match.match_options import LEARNED
from symgraph.match.taught import TEACHING, taught
from symgraph.match.unchanged import Endpoint
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.batches import counted, held
from symgraph.measure.result import LossBarrier
from symgraph.orbit.alignment import Alignment
from symgraph.orbit.descent_options import DescentOptions
from symgraph.tracing import state_of
from symgraph.tracing.deferred import Deferred, cast, later_in_float64, made

State = dict[str, Tensor]
# Scales that are tried on data: from none of it to twice as much, in steps of an eighth.
LARGEST, STEPS = 2.0, 16


@dataclass(frozen=True, repr=False)
class Transported(Shown):
    """What a model learned, in the basis and gauge of another one.

    `base` is the model it was learned on, `tuned` names the one that learned it, `to` the one it is carried to. `delta`
    holds what is added to the parameters of `to` at scale one; `scale` is how much of it `state` has. `alignment` leads
    from `to` to `base`; its inverse carried `delta`. `fitted` is the loss by scale, over `LARGEST`, where it was chosen
    on data. `scales` are those of single tensors, where each has its own; `delta` has them in it. `adapter` is the
    low-rank adapter that was carried, as it is there.
    """

    base: Model
    tuned: str
    to: Model
    alignment: Alignment
    delta: State
    scale: float
    fitted: LossBarrier | None = None
    scales: Mapping[str, float] | None = None
    adapter: Adapter | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def state(self) -> State:
        """The state of `to` with so much of it, in its own dtypes."""
        return {name: made(tensor) for name, tensor in _added(self.to, self.delta, self.scale).items()}

    @cached_property
    def module(self) -> nn.Module:
        """The same as a module; the one that was given stays as it is."""
        return with_state(self.to.module, self.state)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it as a checkpoint, or as an adapter of `to` where it is one; see `write_transported`.

        Raises:
            CheckpointError: the folder exists or cannot be written.
        """
        return write_transported(self, folder, overwrite=overwrite)

    @property
    def share(self) -> float:
        """The norm of what is added over that of the parameters that it is added to."""
        own = state_of(self.to.module)
        added = sum(float(made(tensor).square().sum()) for tensor in self.delta.values())
        there = sum(float(made(own[name]).detach().double().square().sum()) for name in self.delta)
        return self.scale * (added / there) ** 0.5 if there else 0.0

    def to_plain(self) -> dict[str, Any]:
        """Names and figures as plain data."""
        names = {"base": self.base.spec, "tuned": self.tuned, "to": self.to.spec}
        fitted = None if self.fitted is None else self.fitted.to_plain()
        scales = None if self.scales is None else dict(self.scales)
        found = {"scale": self.scale, "scales": scales, "norm": self.share, "fitted": fitted, "notes": list(self.notes)}
        return names | found | {"adapter": self.adapter is not None, "distance": list(self.alignment.objective)}

    def __str__(self) -> str:
        what = "the adapter" if self.adapter else "what was learned by"
        lines = [f"{what} {self.tuned} on {self.base.spec}, carried to {self.to.spec}"]
        scale = "a scale for each tensor" if self.scales else f"scale {self.scale:g}"
        lines.append(f"  {scale}: {self.share:.2%} of the norm of what it is added to")
        if self.fitted is not None:
            lines.append(f"  loss {self.fitted.losses[0]:.4f} without it, {min(self.fitted.losses):.4f} with it")
        return "\n".join([*lines, *self.notes])


def transport(
    base: Source,
    tuned: Source,
    to: Source,
    example: Any = None,
    *,
    input_size: Size | None = None,
    scale: float = 1.0,
    fit: Iterable[Any] | None = None,
    per_tensor: bool = False,
    loss: Any = "cross-entropy",
    alignment: Alignment | str | Path | None = None,
    rules: RuleSources = None,
    scratch: str | Path | None = None,
    **how: Any,
) -> Transported:
    """Carries what `tuned` learned on `base` to another model of the architecture, which never learned it.

    `to` is aligned to `base`; both `base` and `tuned` are then taken into the basis and gauge of `to`, each with its
    function as it was, and their difference there is added to `to`.

    Args:
        tuned: a checkpoint that was trained from `base` on, or the folder of a PEFT adapter of it (LoRA), which is
            carried to an adapter of the same rank.
        example, input_size: inputs of modules that bring none, or the shape of one, as for `trace`.
        scale: how much of the difference is added.
        fit: batches of the new task to choose the scale on instead: the least loss, from 0 to 2 in steps of 1/8.
        per_tensor: a scale for each tensor, by a short descent from there on, on the same batches.
        loss: of `fit`, as for `loss_barrier`.
        alignment: from `to` to `base`, if it is known already, or its file.
        rules: a user's, in front of the shipped ones.
        scratch: a folder on whose disk states wait in float64, instead of in memory; nothing is left there.
        how: arguments of `align` where it is not: method, options, data, and more. With method "learned" the alignment
            is trained from weights on, down the loss of what results on `data` of what was learned; `learning` says how
            to descend (fields of `DescentOptions`).

    Raises:
        CheckpointError: the models are of different shapes, a gain of `to` is zero, or the adapter fits no module.
        UsageError: an adapter of a kind that has no two factors, a scale that is not finite, or no data to learn on.
        VerifyError: a model in the basis of `to` does not compute what it computed.

    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> base, tuned, to, x = make(), make(), make(), torch.randn(5, 6)
    >>> symgraph.transport(base, tuned, to, x, scale=0.5).module(x).shape
    torch.Size([5, 3])

    Source: Ilharco et al., arXiv 2212.04089 (task vectors); transport by symmetry, arXiv 2505.22697, without its data.
    """
    if not (isinstance(scale, int | float) and isfinite(scale)):
        raise UsageError(f"the scale is {scale!r}", remedy="give a finite number")
    if per_tensor and fit is None:
        what = "nothing says what the scales of tensors are chosen on"
        raise UsageError(what, remedy=f"name data of what was learned, {argument('fit')}")
    ends = ends_of(base, to, example, input_size)
    adapter = read_adapter(tuned, ends["base"]) if is_adapter(tuned) else None
    after = ends["base"] if adapter else with_inputs(tuned, example, input_size)
    check_same_architecture(ends["base"], after)
    if not adapter and module_hash(after.module) == module_hash(ends["base"].module):
        tuned_one, to_one = called("tuned"), called("to")
        raise UsageError(
            f"{after.spec} has learned nothing: its weights are those of {ends['base'].spec}",
            cause=f"what is carried is what {tuned_one} has in the place of {called('base')}",
            remedy=f"name the model after its training as {tuned_one}, and the other one as {to_one}",
        )
    how, lesson = _lesson(how)
    found, notes = alignment_between(ends, alignment, rules, scratch, how)
    through = partial(_through, ends, after, adapter, scale=scale, scratch=scratch)
    batches = None if fit is None else held(fit)
    result = _scaled(through(found, notes), batches, loss)
    if lesson is not None:
        # As much of it is added in training as was best before.
        better, said = taught(ends["to"], result.delta, found, scale=result.scale or 1.0, loss=loss, **lesson)
        result = _scaled(through(better, (*notes, said)), batches, loss)
    return _each_scaled(result, batches, loss) if per_tensor else result


def _lesson(how: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """How models are aligned at first, and what the alignment is trained with from there on, if it is."""
    if how.get("method") != LEARNED:
        return dict(how), None
    if how.get("data") is None:
        raise UsageError("nothing is learned without data", remedy=f"name some of what was learned: {argument('data')}")
    chosen = given(DescentOptions, TEACHING, how.get("learning") or {})
    rest = {name: value for name, value in how.items() if name not in ("method", "data", "validation", "learning")}
    taken = {name: how[name] for name in ("data", "validation", "progress") if name in how}
    return rest, {**taken, "options": chosen}


def ends_of(base: Source, to: Source, example: Any, input_size: Size | None) -> dict[str, Model]:
    """Both models, with inputs where they bring none.

    Raises:
        CheckpointError: they are of different shapes.
    """
    ends = {n: with_inputs(s, example, input_size) for n, s in {"base": base, "to": to}.items()}
    check_same_architecture(ends["base"], ends["to"])
    return ends


def alignment_between(
    ends: Mapping[str, Model],
    known: Alignment | Aligned | str | Path | None,
    rules: RuleSources,
    scratch: str | Path | None,
    how: Mapping[str, Any],
) -> tuple[Alignment, tuple[str, ...]]:
    """What leads from `to` to `base`, made or read, and what is to be said of it."""
    if known is None:
        aligned = align(ends["base"], ends["to"], rules=rules, scratch=scratch, **how)
        return aligned.alignment, (str(aligned).splitlines()[0], *aligned.notes)
    if how:
        remedy = "give either, not both"
        raise UsageError(f"an alignment is given, and how to make one: {', '.join(how)}", remedy=remedy)
    known = known.alignment if isinstance(known, Aligned) else known
    if not isinstance(known, Alignment):
        known = Alignment.load(known, infer(ends["to"], rules=rules))
    wanted = {"to": known.source, "base": known.target}
    other = [name for name, m in ends.items() if wanted[name] and module_hash(m.module) != wanted[name]]
    return known, tuple(f"the alignment was made with another model than {ends[name].spec}" for name in other)


def _through(
    ends: Mapping[str, Model],
    after: Model,
    adapter: Adapter | None,
    found: Alignment,
    notes: tuple[str, ...],
    *,
    scale: float,
    scratch: str | Path | None,
) -> Transported:
    """What was learned, through an alignment of `to` to `base`."""
    delta = _difference(ends["base"], after, adapter, found.inverse(), scratch)
    if adapter:
        adapter, delta, said = _factored(adapter, delta)
        notes = (*notes, *said)
    named = adapter.folder if adapter else after.spec
    return Transported(ends["base"], named, ends["to"], found, delta, scale, adapter=adapter, notes=notes)


def _difference(
    base: Model, tuned: Model, adapter: Adapter | None, there: Alignment, scratch: str | Path | None
) -> State:
    """What is between two models, after both were taken to another basis and were seen to compute what they computed.

    Stored statistics stay those of the model that it is added to.
    """
    keep = made if scratch is None else Spool(Path(scratch)).put
    _moved(base, _wide(base), there, keep)
    learned = _wide(tuned)
    after = _moved(tuned, {**learned, **_sums(learned, adapter.deltas)} if adapter else learned, there, keep)
    wanted = {name for name, parameter in base.module.named_parameters() if parameter.is_floating_point()}
    # What the base comes to there is made once more, so that two models are never held at once.
    return {name: keep(made(after.pop(name)) - tensor) for name, tensor in there.each(_wide(base)) if name in wanted}


def _wide(found: Model) -> State:
    return later_in_float64(state_of(found.module))


def _moved(found: Model, wide: State, there: Alignment, keep: Callable[[Tensor], Tensor]) -> State:
    moved = there.apply(wide, keep=keep)
    Endpoint(found, moved, there, start=wide).check()
    return moved


def _sums(wide: State, delta: Mapping[str, Tensor], scale: float = 1.0) -> State:
    """Tensors with a multiple of others added, each made when it is asked for."""

    def sum_of(name: str) -> Tensor:
        return made(wide[name]).detach() + scale * made(delta[name])

    return {name: Deferred(partial(sum_of, name), wide[name].shape, torch.float64) for name in delta}


def _added(to: Model, delta: State, scale: float) -> State:
    own = state_of(to.module)
    sums = _sums(_wide(to), delta, scale)
    return stored(
        to.module, {name: cast(sums[name], tensor.dtype) if name in sums else tensor for name, tensor in own.items()}
    )


def _scaled(found: Transported, data: Iterable[Any] | None, loss: Any) -> Transported:
    """The same at the scale of the least loss, where there is data."""
    if data is None:
        return found
    farthest = replace(found, scale=LARGEST)
    batches = counted(data, "to choose the scale on")
    points = [i / STEPS for i in range(STEPS + 1)]
    curve = loss_barrier(found.to, farthest.state, batches, points=points, module=found.to, loss=loss)
    best = min(range(len(points)), key=lambda i: curve.losses[i])
    notes = found.notes
    if best == 0:
        notes = (*notes, "no part of it lowers the loss on the data that the scale was chosen on: nothing is added")
    return replace(found, scale=LARGEST * curve.lambdas[best], fitted=curve, notes=notes)


def _each_scaled(found: Transported, data: Iterable[Any] | None, loss: Any) -> Transported:
    """The same with a scale for each tensor, which the difference has in it."""
    scales, said = each_scale(found.to, found.delta, data, scale=found.scale, loss=loss)
    delta: State = {name: scale * made(found.delta[name]) for name, scale in scales.items()}
    adapter = None if found.adapter is None else replace(found.adapter, deltas=delta)
    return replace(found, delta=delta, scale=1.0, scales=scales, adapter=adapter, notes=(*found.notes, said))


def _factored(adapter: Adapter, delta: State) -> tuple[Adapter, State, tuple[str, ...]]:
    """The adapter after a move: its products with their rank, and what an adapter has no place for.

    Raises:
        CheckpointError: a product has not kept its rank.
    """
    kept = {name: made(delta[name]) for name in adapter.deltas}
    moved = adapter.moved(kept)
    for name, product in moved.deltas.items():
        if not torch.allclose(product, kept[name], rtol=0, atol=1e-9 * float(kept[name].abs().max() or 1)):
            cause = "the alignment mixes it with other parameters"
            raise CheckpointError(f"{name}: the adapter has not kept its rank", cause=cause, remedy="merge it first")
    left = sum(float(made(tensor).square().sum()) for name, tensor in delta.items() if name not in kept) ** 0.5
    whole = sum(float(tensor.square().sum()) for tensor in kept.values()) ** 0.5
    said = f"{left / whole:.1e} of its norm would change biases, which it has no place for: left out"
    return moved, moved.deltas, (said,) if left > 1e-6 * whole else ()


def _amount(found: Transported) -> str:
    return f"{found.scale:g}" if found.scales is None else "a multiple of each tensor of"


def write_transported(
    found: Transported, out: str | Path, *, command: str = "", overwrite: bool = False, shard_size: int = SHARD_SIZE
) -> Path:
    """Writes what was carried: the model with it as a checkpoint of its class, or an adapter as one of PEFT.

    Raises:
        CheckpointError: the folder exists or cannot be written.
    """
    if found.adapter is not None:
        scaled = found.adapter.scaled(found.scale)
        return write_adapter(scaled, found.to, out, overwrite=overwrite)
    hashes = found.alignment.target, found.alignment.source
    card = Card(
        title=f"{Path(found.to.spec).name} with what {Path(found.tuned).name} learned",
        about="A model with a task vector that another model learned, carried over by their symmetry.",
        model=found.to,
        ingredients=(
            Ingredient("base", found.base.spec, hashes[0]),
            Ingredient("tuned", found.tuned, ""),
            Ingredient("to", found.to.spec, hashes[1]),
        ),
        method=f"{found.to.spec} + {_amount(found)} (tuned - base), in the basis and gauge of the former",
        command=command,
        symmetry=found.alignment.symmetry,
        spaces=element_spaces(found.alignment.symmetry, found.alignment),
        notes=found.notes,
    )
    how: dict[str, Any] = {"overwrite": overwrite, "shard_size": shard_size}
    state = _added(found.to, found.delta, found.scale)
    return checkpoint.write(found.to, state, out, card=str(card), **how)
