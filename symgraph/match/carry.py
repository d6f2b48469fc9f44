"""What was found in one model's values carried to another: directions, probes, sparse autoencoders.

Two aligned models differ by a linear map of each value and a constant (`symgraph.match.value_map`). What is added to a
value goes by that map, what reads it by the inverse transpose, and biases by the constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from symgraph.errors import CheckpointError, UsageError, argument, one_line
from symgraph.inference.sources import RuleSources, Source
from symgraph.io.example import Size
from symgraph.io.files import atomic_path
from symgraph.io.models import Model
from symgraph.io.shown import Shown
from symgraph.match.aligned import Aligned
from symgraph.match.match_options import AUTOENCODER, DIRECTIONS, PROBE, VECTOR_KINDS
from symgraph.match.transport import alignment_between, ends_of
from symgraph.match.value_fit import fitted_at, made_up
from symgraph.match.value_map import ValueMap, value_map
from symgraph.orbit.alignment import Alignment

# Names of the four tensors of an autoencoder, and whether the value is the last axis of the matrices there.
_LAYOUTS = (
    (("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"), (True, False)),
    (("W_enc", "b_enc", "W_dec", "b_dec"), (False, True)),
)


@dataclass(frozen=True, repr=False)
class CarriedVectors(Shown):
    """Tensors that belonged to a value of one model, as they belong to that of another.

    `kind` is what they were taken for; `map` is how the value moves; `alignment` leads from the other model to the
    first. `tensors` are in the dtypes of those given.
    """

    kind: str
    map: ValueMap
    alignment: Alignment
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes them as a safetensors file.

        Raises:
            OutputError: the file exists or cannot be written.
        """
        from safetensors.torch import save_file

        with atomic_path(path, overwrite) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary)
        return Path(path)

    def to_plain(self) -> dict[str, Any]:
        """What was carried, as plain data."""
        where = {"value": self.map.value, "axis": self.map.axis, "size": len(self.map.matrix)}
        return {"kind": self.kind, **where, "tensors": sorted(self.tensors), "notes": list(self.notes)}

    def __str__(self) -> str:
        names = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in self.tensors.items())
        return "\n".join([f"{self.kind} at {self.map}: {names}", *self.notes])


def transport_vectors(
    base: Source,
    vectors: Mapping[str, Tensor] | str | Path,
    to: Source,
    example: Any = None,
    *,
    at: str,
    kind: str = "",
    centred: bool = False,
    input_size: Size | None = None,
    method: str | None = None,
    data: Any = None,
    alignment: Alignment | Aligned | str | Path | None = None,
    rules: RuleSources = None,
    scratch: str | Path | None = None,
    **how: Any,
) -> CarriedVectors:
    """Carries steering vectors, a probe or a sparse autoencoder of one model to another, through their alignment.

    Args:
        vectors: tensors by name, or a safetensors file of them: directions (..., d); a probe, `weight` (k, d) and
            `bias` (k,); an autoencoder, `encoder.weight` (m, d), `decoder.weight` (d, m) and their biases, or `W_enc`
            (d, m), `b_enc`, `W_dec` (m, d), `b_dec`. Other tensors of a probe or autoencoder pass through.
        at: the value that they belong to, of size d along the axis that moves: a name of the graph, or a module.
        kind: "directions", "probe" or "autoencoder"; by default what the names say.
        centred: the encoder reads x - b_dec rather than x.
        method: by default the models are aligned by that very value, on `data`, or on text that they write themselves;
            those that write none, by weights. Else a method of `align`.
        data: batches on which the value is seen.
        example, input_size, alignment, rules, scratch, how: as for `transport`.

    Raises:
        UsageError: there is no such value, it moves along no axis or several, or the tensors do not fit it, are not
            floating or not finite.
        VerifyError: the value does not move by one map and constant.
        DataError: the data does not fit the models.

    >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> a, b, x = make(), make(), torch.randn(5, 6)
    >>> carried = symgraph.transport_vectors(a, {"steer": torch.randn(8)}, b, x, at="1")
    >>> carried.tensors["steer"].shape
    torch.Size([8])

    Source: arXiv 2605.24577 (autoencoders between seeds by one rotation), 2606.31963 (by signed permutations).
    """
    tensors = _read(vectors) if isinstance(vectors, str | Path) else dict(vectors)
    if not tensors:
        raise UsageError("there are no vectors to carry", remedy="give at least one tensor by its name")
    ends = ends_of(base, to, example, input_size)
    how |= {name: given for name, given in (("method", method), ("data", data)) if given is not None}
    found, means, notes = _alignment(ends, at, alignment, rules, scratch, how)
    moved = value_map(ends["base"], found.inverse(), at)
    moved = moved.about(*means) if means else moved
    kind = kind or _kind(tensors)
    done = _carrier(kind)(tensors, moved, centred)
    result = {name: done.get(name, tensor).to(tensor.dtype) for name, tensor in tensors.items()}
    if moved.centred:
        notes = (*notes, f"the mean along {moved.value} is not carried: nothing in the model reads it")
    return CarriedVectors(kind, moved, found, result, notes)


def _alignment(
    ends: Mapping[str, Model],
    at: str,
    given: Alignment | Aligned | str | Path | None,
    rules: RuleSources,
    scratch: str | Path | None,
    how: Mapping[str, Any],
) -> tuple[Alignment, tuple[Tensor, Tensor] | None, tuple[str, ...]]:
    """What leads from `to` to `base`, by the value alone where nothing else is asked for, and its means in both."""
    if given is None and "method" not in how:
        data = how["data"] if "data" in how else made_up(ends, at, rules)
        if data is not None:
            fit = fitted_at(ends, at, data, rules, scratch, {key: how[key] for key in how if key != "data"})
            return fit.alignment, fit.means, fit.notes
    found, notes = alignment_between(ends, given, rules, scratch, how)
    return found, None, notes


def _carrier(kind: str) -> Callable[[Mapping[str, Tensor], ValueMap, bool], dict[str, Tensor]]:
    """What carries tensors of a kind."""
    if kind not in VECTOR_KINDS:
        what = f"{argument('kind', kind)} is none of {', '.join(VECTOR_KINDS)}"
        raise UsageError(what, remedy=argument("kind", PROBE))
    return {DIRECTIONS: _directions, PROBE: _probe, AUTOENCODER: _autoencoder}[kind]


def _read(path: str | Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        remedy = "name a safetensors file of the tensors"
        raise CheckpointError(f"{path} cannot be read", cause=one_line(error), remedy=remedy) from error


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if any(names[0] in tensors for names, _ in _LAYOUTS):
        return AUTOENCODER
    return PROBE if "weight" in tensors else DIRECTIONS


def _directions(tensors: Mapping[str, Tensor], moved: ValueMap, centred: bool) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        _check(name, tensor, moved, tensor.dim() - 1)
    return {name: moved.directions(tensor) for name, tensor in tensors.items()}


def _probe(tensors: Mapping[str, Tensor], moved: ValueMap, centred: bool) -> dict[str, Tensor]:
    weight = _required(tensors, "weight", PROBE)
    _check("weight", weight, moved, weight.dim() - 1)
    return _reading("weight", "bias", tensors, moved)


def _reading(weight: str, bias: str, tensors: Mapping[str, Tensor], moved: ValueMap) -> dict[str, Tensor]:
    """w . x + b = w' . (L x + c) + b' for all x."""
    rows = moved.readers(tensors[weight])
    shift = rows @ moved.constant
    if bias in tensors:
        _check_bias(bias, tensors[bias], shift.shape)
        return {weight: rows, bias: tensors[bias].double() - shift}
    if bool(shift.abs().max() > 1e-9 * (1 + tensors[weight].abs().max())):
        remedy = f"add {bias}, zeros of shape {tuple(shift.shape)}"
        raise UsageError(f"{weight} has no bias to carry the constant by which the value moves", remedy=remedy)
    return {weight: rows}


def _autoencoder(tensors: Mapping[str, Tensor], moved: ValueMap, centred: bool) -> dict[str, Tensor]:
    names, (encoder_last, decoder_last) = next((x for x in _LAYOUTS if x[0][0] in tensors), _LAYOUTS[0])
    encoder, encoder_bias, decoder, decoder_bias = names
    for name, last in ((encoder, encoder_last), (decoder, decoder_last)):
        _check(name, _required(tensors, name, AUTOENCODER), moved, 1 if last else 0)
    rows = {name: tensor if encoder_last or name != encoder else tensor.T for name, tensor in tensors.items()}
    # Of x - b_dec the constant goes with the point b_dec, and the encoder's bias stays.
    read = {encoder: moved.readers(rows[encoder])} if centred else _reading(encoder, encoder_bias, rows, moved)
    found = {name: tensor if encoder_last or name != encoder else tensor.T for name, tensor in read.items()}
    columns = tensors[decoder] if decoder_last else tensors[decoder].T
    written = moved.directions(columns)
    found[decoder] = written if decoder_last else written.T
    if decoder_bias in tensors:
        _check_bias(decoder_bias, tensors[decoder_bias], moved.constant.shape)
        found[decoder_bias] = moved.points(tensors[decoder_bias])
    elif bool(moved.constant.abs().max() > 0):
        remedy = f"add {decoder_bias}, zeros of shape ({len(moved.constant)},)"
        raise UsageError(f"{decoder} has no bias to carry the constant by which the value moves", remedy=remedy)
    return found


def _required(tensors: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    if name not in tensors:
        cause = f"there is {', '.join(tensors) or 'nothing'}"
        raise UsageError(f"the {kind} has no {name}", cause=cause, remedy="name its tensors as the help says")
    return tensors[name]


def _check(name: str, tensor: Tensor, moved: ValueMap, axis: int) -> None:
    size = len(moved.matrix)
    _check_numbers(name, tensor)
    if tensor.dim() <= axis or axis < 0 or tensor.shape[axis] != size:
        what = f"{name} has shape {tuple(tensor.shape)}, and {moved.value} has {size} numbers"
        raise UsageError(what, remedy=f"give it with {size} along axis {max(axis, 0)}, or name another value")


def _check_bias(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    _check_numbers(name, tensor)
    if tensor.numel() != prod(shape):
        what = f"{name} has shape {tuple(tensor.shape)}, and what it belongs to {tuple(shape)}"
        raise UsageError(what, remedy="give one number for each row")


def _check_numbers(name: str, tensor: Tensor) -> None:
    """What a map gives is neither whole nor, of what is not finite, anything."""
    if not tensor.is_floating_point():
        raise UsageError(f"{name} has numbers of {tensor.dtype}", remedy="give it in float32")
    if not bool(tensor.isfinite().all()):
        raise UsageError(f"{name} is not finite", cause="it has NaN or infinite values", remedy="give others")
