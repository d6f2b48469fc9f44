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
from symgraph.tracing.deferred import later_in_float64, made
from symgraph.tracing.progress import counted

_log = logging.getLogger(__name__)

FORMAT = "symgraph alignment 1"
KINDS: dict[str, type[Step]] = {step.kind: step for step in (Act, Blend, Rescale, Shift, Lift, Stretch, Slant)}


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
        moved = [space.name for space in self.symmetry.active if self.element(space.name) is not None]
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
        moved = {name: _put(keep, tensor) for name, tensor in self.each(state, task_vector=task_vector)}
        return {name: moved.get(tied.get(name, name), tensor) for name, tensor in state.items()}

    def each(self, state: Mapping[str, Tensor], *, task_vector: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The tensors that the graph reads, one after the other, as `apply` gives them; shared ones once.

        Raises:
            CheckpointError, UsageError: as for `apply`.
        """
        tied = self.symmetry.graph.tied
        canonical = {tied.get(name, name): tensor.detach() for name, tensor in state.items()}
        self._check(canonical)
        moving = {name: tensor for name, tensor in canonical.items() if name in self.symmetry.terms}
        wide = later_in_float64(moving)
        done = self.transform.carried(wide, linear=task_vector)
        for name, tensor in counted(_log, moving.items(), len(moving), "tensor"):
            yield name, made(done[name]).to(tensor.dtype)

    def _check(self, state: Mapping[str, Tensor]) -> None:
        wrong = [
            f"{name}: {tuple(state[name].shape)} against {node.shape}"
            for name, node in self.symmetry.graph.state.items()
            if name in state and tuple(state[name].shape) != node.shape
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
        for number, step in enumerate(self.transform.steps):
            plain, parts = step.dump()
            steps.append({"kind": step.kind, **plain})
            tensors |= {f"{number}.{name}": tensor.cpu().clone().contiguous() for name, tensor in parts.items()}
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
            steps = tuple(_step(symmetry, number, step, tensors) for number, step in enumerate(header.steps))
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
    own = {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}
    return KINDS[kind].load(symmetry, plain, own)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    remedy = either(
        "`symgraph.align(a, b).alignment.save(FILE)` writes one",
        "`symgraph align A B --out FOLDER --alignment FILE` writes one",
    )
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", remedy=remedy)
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {}).get("symgraph", "{}"))
            # Copies: a product with memory that lies at an odd address of the file may round otherwise.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no iterator on this type
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
    return {name: norm(tensor.detach()) for name, tensor in state.items() if tensor.is_floating_point()}


def growth_of(after: Mapping[str, float], *others: Mapping[str, float]) -> dict[str, float]:
    """The same of norms that are known; a mask, which may hold infinite values, has none that grows."""
    largest = {name: max(norms_before.get(name, 0.0) for norms_before in others) for name in after}
    growth = {name: after[name] / size for name, size in largest.items() if 0 < size < math.inf}
    return dict(sorted(growth.items(), key=lambda item: -item[1]))


def distance(one_state: Mapping[str, Tensor], other_state: Mapping[str, Tensor]) -> float:
    """Relative distance |A - B| / |A| over the floating tensors that both have, but for masks with infinite values."""
    common = [name for name in one_state if name in other_state and one_state[name].is_floating_point()]
    names = [name for name in common if bool(one_state[name].isfinite().all())]
    one, other = ({name: state[name].detach().double() for name in names} for state in (one_state, other_state))
    top = sum(float((one[name] - other[name]).square().sum()) for name in names)
    scale = max(sum(float(tensor.square().sum()) for tensor in one.values()), 1e-300)
    return math.sqrt(top / scale)
