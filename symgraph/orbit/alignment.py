"""An alignment as an artifact: elements and constants by name, with hashes of what they belong to.

It can be applied to any checkpoint of the architecture (or to a task vector), inverted, composed, saved and loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from symgraph.errors import CheckpointError, UsageError, one_line
from symgraph.groups.elements import Element
from symgraph.io.files import atomic_path
from symgraph.orbit.action import GroupElement, neutral
from symgraph.orbit.blend import Blend
from symgraph.orbit.constant_steps import Lift, Offset, Push
from symgraph.orbit.spectral_gains import Isospectral
from symgraph.orbit.steps import Act, Rescale, State, Step, Stretch, Trade, Transform, rescale
from symgraph.orbit.uneven import Restate, Slant, Turn
from symgraph.symmetry.families import Place
from symgraph.symmetry.graph import SymmetryGraph

FORMAT = "symgraph alignment 1"
_LEAN = ("parameter", "start", "rows")


@dataclass(frozen=True)
class Alignment:
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

    def apply(self, state: Mapping[str, Tensor], *, task_vector: bool = False) -> State:
        """The transformed state, with the same function; computed in float64, returned in the dtype of each tensor.

        The state may be that of another model of the architecture: its own gains and biases then stand in for those
        of `source`. A tied tensor may come under one or all of its names. Tensors that the graph does not read pass
        through.

        Args:
            task_vector: the state is a difference of two models that are both near `source`: only the linear part of
                what happens to `source` applies, constants that it adds are left out.

        Raises:
            CheckpointError: a tensor has another shape than in the models that were aligned, or a gain is zero where
                a bias would have to be divided by it.
        """
        tied = self.symmetry.graph.tied
        found = {tied.get(n, n): t.detach() for n, t in state.items()}
        self._check(found)
        wide = {n: t.double() if t.is_floating_point() else t for n, t in found.items() if n in self.symmetry.terms}
        done = self.transform.apply(wide, linear=True) if task_vector else self.transform.carry(wide)
        return {n: done[k].to(t.dtype) if (k := tied.get(n, n)) in done else t for n, t in state.items()}

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
            raise UsageError("two alignments of different architectures cannot be composed")
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
        steps = [_dump(i, s, self.symmetry, tensors) for i, s in enumerate(self.transform.steps)]
        meta = {
            "format": FORMAT,
            "source": self.source,
            "target": self.target,
            "rules": self.symmetry.rules_hash,
            "symmetry": self.symmetry.fingerprint,
            "objective": list(self.objective),
            "notes": list(self.notes),
            "steps": steps,
        }
        with atomic_path(Path(path), overwrite=overwrite) as temporary:
            save_file(
                {k: v.clone().contiguous() for k, v in tensors.items()}, temporary, {"symgraph": json.dumps(meta)}
            )
        return Path(path)

    @staticmethod
    def load(path: str | Path, symmetry: SymmetryGraph) -> Alignment:
        """Reads an alignment for an architecture.

        Raises:
            CheckpointError: not an alignment file, or one made for another architecture.
        """
        meta, tensors = _read(Path(path))
        if meta.get("symmetry") != symmetry.fingerprint:
            raise CheckpointError(
                f"{path} was made for another architecture",
                cause="its symmetry graph differs from this model's (shapes, operators or rules)",
                remedy="use it with the models it was made from, or align anew",
            )
        try:
            steps = tuple(_load(i, m, symmetry, tensors) for i, m in enumerate(meta["steps"]))
            texts, numbers = [str(meta[k]) for k in ("source", "target")], [float(x) for x in meta["objective"]]
            return Alignment(symmetry, Transform(steps), texts[0], texts[1], tuple(numbers), tuple(meta["notes"]))
        except (LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise CheckpointError(
                f"{path} is damaged", cause=one_line(error), remedy="write it anew with `symgraph align`"
            ) from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist", remedy="`symgraph align A B --out FOLDER --alignment FILE` writes one"
        )
    try:
        with safe_open(path, framework="pt") as f:
            meta = json.loads((f.metadata() or {}).get("symgraph", "{}"))
            # Copies: a product with memory that lies at an odd address of the file may round otherwise.
            tensors = {k: f.get_tensor(k).clone() for k in f.keys()}  # noqa: SIM118 - no iterator on this type
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a safetensors file", cause=str(error)) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CheckpointError(f"{path} holds no alignment", cause=f"its metadata does not say {FORMAT!r}")
    return meta, tensors


def _dump(i: int, step: Step, symmetry: SymmetryGraph, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(step, Act):
        for space, e in step.element.elements.items():
            for part, tensor in e.tensors().items():
                tensors[f"{i}.{symmetry.spaces[space].name}.{part}"] = tensor.cpu()
        return {"kind": "act", "spaces": [symmetry.spaces[s].name for s in step.element.elements]}
    if isinstance(step, Blend):
        name = symmetry.spaces[step.space].name
        tensors.update({f"{i}.{name}.{part}": t.cpu() for part, t in step.element.tensors().items()})
        return {"kind": "blend", "space": name, **({"merging": True} if step.merging else {})}
    if isinstance(step, Rescale):
        tensors[f"{i}.factor"] = step.factor.cpu()
        return {"kind": "rescale", "parameter": step.parameter}
    if isinstance(step, Turn | Isospectral | Restate):
        raise UsageError(f"an alignment holds no step of the kind {type(step).__name__}")
    if isinstance(step, Trade):
        tensors[f"{i}.factor"] = step.factor.cpu()
        return {"kind": "trade", "parameter": step.paired.gains[0][0]}
    if isinstance(step, Stretch):
        return {"kind": "stretch", "parameter": step.radial.tensors[0], "factor": step.factor}
    tensors[f"{i}.constant"] = step.constant.cpu()
    if isinstance(step, Push):
        return {"kind": "push", "parameter": step.source.parameter, "start": step.source.start}
    if isinstance(step, Lift):
        p = step.piece
        return {"kind": "lift", "parameter": p.parameter, "axis": p.axis, "start": p.start}
    if isinstance(step, Slant):
        return {"kind": "slant", **dict(zip(_LEAN, step.lean.place, strict=True))}
    return {"kind": "offset", **asdict(step.place)}


def _load(i: int, m: dict[str, Any], symmetry: SymmetryGraph, tensors: dict[str, Tensor]) -> Step:
    kind = m["kind"]
    if kind == "act":
        return Act(GroupElement(symmetry, dict(_element(f"{i}.{n}", n, symmetry, tensors) for n in m["spaces"])))
    if kind == "blend":
        space = symmetry.space(m["space"])
        element = _blended(f"{i}.{space.name}", space.size, tensors)
        return Blend(symmetry, space.id, element, m.get("merging") is True and element.index is not None)
    if kind == "rescale":
        return rescale(symmetry, symmetry.gain_sites[m["parameter"]], tensors[f"{i}.factor"])
    if kind == "trade":
        paired = {p.gains[0][0]: p for p in symmetry.paired}
        return Trade(symmetry, paired[m["parameter"]], tensors[f"{i}.factor"])
    if kind == "stretch":
        radial = {r.tensors[0]: r for r in symmetry.radial}
        return Stretch(radial[m["parameter"]], float(m["factor"]))
    constant = tensors[f"{i}.constant"]
    if kind == "push":
        at = (m["parameter"], m["start"])
        moves = {(x.source.parameter, x.source.start): x for x in symmetry.moves}
        return Push(moves[at].source, moves[at].sinks, constant)
    if kind == "lift":
        pieces = {(p.parameter, p.axis, p.start): p for c in symmetry.centred for p in c.pieces}
        return Lift(pieces[m["parameter"], m["axis"], m["start"]], constant)
    if kind == "slant":
        leans = {x.place: x for x in symmetry.leans}
        return Slant(leans[tuple(m[k] for k in _LEAN)], constant)
    if kind != "offset" or m["parameter"] not in symmetry.terms:
        raise ValueError(f"step {i + 1} is of no known kind or parameter")
    return Offset(Place(m["parameter"], int(m["axis"]), tuple(map(int, m["window"]))), constant)


def _element(place: str, name: str, symmetry: SymmetryGraph, tensors: dict[str, Tensor]) -> tuple[int, Element]:
    space = symmetry.space(name)
    parts = {k: tensors[f"{place}.{k}"] for k in ("index", "scale", "sign", "matrix") if f"{place}.{k}" in tensors}
    whole = {k: v.shape for k, v in neutral(symmetry, space).tensors().items()}
    if not parts.keys() & {"index", "matrix"} or any(v.shape != whole.get(k) for k, v in parts.items()):
        raise ValueError(f"the element of {name} is incomplete or has other shapes")
    return space.id, Element(**parts)


def _blended(place: str, size: int, tensors: dict[str, Tensor]) -> Element:
    shapes = {"index": (size,), "scale": (1, size), "matrix": (size, size)}
    parts = {k: tensors[f"{place}.{k}"] for k in shapes if f"{place}.{k}" in tensors}
    if parts.keys() not in ({"index", "scale"}, {"matrix"}) or any(t.shape != shapes[k] for k, t in parts.items()):
        raise ValueError(f"the step at {place} is incomplete or has other shapes")
    return Element(**parts)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Relative distance |A - B| / |A| over the floating tensors that both have."""
    names = [n for n in a if n in b and a[n].is_floating_point()]
    one, other = ({n: s[n].detach().double() for n in names} for s in (a, b))
    top = sum(float((one[n] - other[n]).square().sum()) for n in names)
    scale = max(sum(float(t.square().sum()) for t in one.values()), 1e-300)
    return math.sqrt(top / scale)
