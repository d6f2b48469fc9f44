"""An alignment as an artifact: elements and constants by name, with hashes of what they belong to.

It can be applied to any checkpoint of the architecture (or to a task vector), inverted, composed, saved and loaded.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from symgraph.errors import CheckpointError, UsageError, either, one_line
from symgraph.groups.elements import Element
from symgraph.io.decode import Malformed, decode
from symgraph.io.files import atomic_path
from symgraph.io.shown import Shown
from symgraph.io.sums import norm, noted
from symgraph.orbit.blend import Blend
from symgraph.orbit.constant_steps import Lift, Shift
from symgraph.orbit.step import Step
from symgraph.orbit.steps import Act, Rescale, State, Stretch, Transform
from symgraph.orbit.uneven import Slant
from symgraph.symmetry.graph import SymmetryGraph
from symgraph.tracing.deferred import later, made
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

FORMAT = "symgraph alignment 1"
KINDS: dict[str, type[Step]] = {k.kind: k for k in (Act, Blend, Rescale, Shift, Lift, Stretch, Slant)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What a file says beside its tensors."""

    format: str
    source: str
    target: str
    rules: str
    symmetry: str
    objective: tuple[float, ...]
    notes: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]


@dataclass(frozen=True, repr=False)
class Alignment(Shown):
    """A transform from the gauge and basis of one model (`source`) to those of another (`target`).

    `source` and `target` are hashes of the two states. The file also keeps the hash of the rules and the fingerprint of
    the symmetry graph; the latter decides whether the alignment may be applied to a model.
    """

    symmetry: SymmetryGraph
    transform: Transform
    source: str
    target: str
    objective: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = ", ".join(dict.fromkeys(step.kind for step in self.transform.steps)) or "nothing"
        moved = [s.name for s in self.symmetry.active if self.element(s.name) is not None]
        spaces = f"{len(moved)} of {len(self.symmetry.active)} spaces"
        head = f"alignment of {self.source[:8] or 'a model'} to {self.target[:8] or 'another'}, on {spaces}: {kinds}"
        return "\n".join([head, *self.notes])

    def apply(
        self, state: Mapping[str, Tensor], *, task_vector: bool = False, keep: Callable[[Tensor], Tensor] = made
    ) -> State:
        """The transformed state, with the same function; computed in float64, returned in the dtype of each tensor.

        The state may be that of another model of the architecture: its own gains and biases then stand in for those
        of `source`. A tied tensor may come under one or all of its names. Tensors that the graph does not read pass
        through.

        Args:
            task_vector: the state is a difference of two models that are both near `source`: only the linear part of
                what happens to `source` applies, constants that it adds are left out.
            keep: called with each tensor as it is done, one at a time; what it returns is returned. Of a deferred state
                no more than the largest tensors are held then.

        Raises:
            CheckpointError: a tensor has another shape than in the models that were aligned, or a gain is zero where
                a bias would have to be divided by it.
            UsageError: a bias is given without the matrix that says how much of a constant arrives there.
        """
        tied = self.symmetry.graph.tied
        moved = {n: _put(keep, t) for n, t in self.each(state, task_vector=task_vector)}
        return {n: moved.get(tied.get(n, n), t) for n, t in state.items()}

    def each(self, state: Mapping[str, Tensor], *, task_vector: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the graph reads, one after the other, as `apply` gives them; shared ones once.

        Raises:
            CheckpointError, UsageError: as for `apply`.
        """
        tied = self.symmetry.graph.tied
        found = {tied.get(n, n): t.detach() for n, t in state.items()}
        self._check(found)
        moving = {n: t for n, t in found.items() if n in self.symmetry.terms}
        wide = {n: later(t, torch.float64) if t.is_floating_point() else t for n, t in moving.items()}
        done = self.transform.carried(wide, linear=task_vector)
        for name, t in counted(_log, moving.items(), len(moving), "tensor"):
            yield name, made(done[name]).to(t.dtype)

    def _check(self, state: Mapping[str, Tensor]) -> None:
        wrong = [
            f"{n}: {tuple(state[n].shape)} against {node.shape}"
            for n, node in self.symmetry.graph.state.items()
            if n in state and tuple(state[n].shape) != node.shape
        ]
        if wrong:
            raise CheckpointError(
                f"the alignment does not fit this state: {wrong[0]}"
                + (f" and {len(wrong) - 1} more" if wrong[1:] else ""),
                cause="it was made for another architecture",
                remedy="align the models of this architecture anew",
            )

    def inverse(self) -> Alignment:
        """The alignment from target to source."""
        return replace(self, transform=self.transform.inverse(), source=self.target, target=self.source, objective=())

    def then(self, other: Alignment) -> Alignment:
        """This alignment, then `other`."""
        if self.symmetry.fingerprint != other.symmetry.fingerprint:
            remedy = "compose alignments of models of one architecture"
            raise UsageError("two alignments of different architectures cannot be composed", remedy=remedy)
        return replace(self, transform=self.transform.then(other.transform), target=other.target, objective=())

    def element(self, space: str) -> Element | None:
        """The element that acts on one space (the last one, where several act)."""
        wanted = self.symmetry.space(space).id
        for step in reversed(self.transform.steps):
            if isinstance(step, Act) and wanted in step.element.elements:
                return step.element.elements[wanted]
        return None

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes one safetensors file; readable without symgraph, since spaces are named."""
        tensors: dict[str, Tensor] = {}
        steps = []
        for i, step in enumerate(self.transform.steps):
            plain, parts = step.dump()
            steps.append({"kind": step.kind, **plain})
            tensors |= {f"{i}.{name}": t.cpu().clone().contiguous() for name, t in parts.items()}
        header = _Header(
            format=FORMAT,
            source=self.source,
            target=self.target,
            rules=self.symmetry.rules_hash,
            symmetry=self.symmetry.fingerprint,
            objective=self.objective,
            notes=self.notes,
            steps=tuple(steps),
        )
        with atomic_path(Path(path), overwrite=overwrite) as temporary:
            save_file(tensors, temporary, {"symgraph": json.dumps(asdict(header))})
        return Path(path)

    @staticmethod
    def load(path: str | Path, symmetry: SymmetryGraph) -> Alignment:
        """Reads an alignment for an architecture.

        Raises:
            CheckpointError: not an alignment file, or one made for another architecture.
        """
        plain, tensors = _read(Path(path))
        if plain.get("symmetry") != symmetry.fingerprint:
            raise CheckpointError(
                f"{path} was made for another architecture",
                cause="its symmetry graph differs from this model's (shapes, operators or rules)",
                remedy="use it with the models it was made from, or align anew",
            )
        try:
            header = decode(_Header, plain)
            steps = tuple(_step(symmetry, i, s, tensors) for i, s in enumerate(header.steps))
        except (LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise CheckpointError(
                f"{path} is damaged", cause=one_line(error), remedy="write it anew with `symgraph align`"
            ) from error
        return Alignment(symmetry, Transform(steps), header.source, header.target, header.objective, header.notes)


def _put(keep: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """What is kept of a tensor, with its norm and its extremes."""
    return noted(keep(tensor), tensor)


def _step(symmetry: SymmetryGraph, number: int, plain: dict[str, Any], tensors: Mapping[str, Tensor]) -> Step:
    kind, head = plain.pop("kind"), f"{number}."
    if kind not in KINDS:
        raise Malformed(f"step {number + 1} is of no known kind")
    own = {name.removeprefix(head): t for name, t in tensors.items() if name.startswith(head)}
    return KINDS[kind].load(symmetry, plain, own)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    remedy = either(
        "`symgraph.align(a, b).alignment.save(FILE)` writes one",
        "`symgraph align A B --out FOLDER --alignment FILE` writes one",
    )
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", remedy=remedy)
    try:
        with safe_open(path, framework="pt") as f:
            plain = json.loads((f.metadata() or {}).get("symgraph", "{}"))
            # Copies: a product with memory that lies at an odd address of the file may round otherwise.
            tensors = {k: f.get_tensor(k).clone() for k in f.keys()}  # noqa: SIM118 - no iterator on this type
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file", cause=str(error), remedy=remedy) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        cause = f"its metadata does not say {FORMAT!r}"
        raise CheckpointError(f"{path} holds no alignment", cause=cause, remedy=remedy)
    return plain, tensors


def growth(after: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> dict[str, float]:
    """Norms of tensors over the largest ones in other states, most first; without those that are zero there."""
    return growth_of(norms(after), *map(norms, others))


def norms(state: Mapping[str, Tensor]) -> dict[str, float]:
    """The norm of every floating tensor, each read once."""
    return {n: norm(t.detach()) for n, t in state.items() if t.is_floating_point()}


def growth_of(after: Mapping[str, float], *others: Mapping[str, float]) -> dict[str, float]:
    """The same of norms that are known."""
    largest = {n: max(o.get(n, 0.0) for o in others) for n in after}
    found = {n: after[n] / size for n, size in largest.items() if size > 0}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Relative distance |A - B| / |A| over the floating tensors that both have."""
    names = [n for n in a if n in b and a[n].is_floating_point()]
    one, other = ({n: s[n].detach().double() for n in names} for s in (a, b))
    top = sum(float((one[n] - other[n]).square().sum()) for n in names)
    scale = max(sum(float(t.square().sum()) for t in one.values()), 1e-300)
    return math.sqrt(top / scale)
