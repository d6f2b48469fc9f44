"""A symmetry graph as text for a terminal: one row for each space, one line for each family, what is missing and why.

Net: 1,264 parameters, 97.2% on a non-rigid axis; 17 spaces, 9 active; continuous dimension 390

space                    size  group                   fibred over  dim  tensors  also           count
residual                    8  orthogonal fixing ones                21       20
h.{0..1}.attn.heads         2  permutation                            0        3  splits/merges  x2
h.{0..1}.attn.query-key     4  invertible              heads         32        2  splits/merges  x2
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from math import prod

from symgraph.groups.index_maps import IndexMaps
from symgraph.groups.lattice import SymmetryClass
from symgraph.groups.map_class import MapClass
from symgraph.symmetry.coverage import report
from symgraph.symmetry.dimension import Dimension, Family, Part, dimension
from symgraph.symmetry.fold import WIDTH, Folded, fold, wrapped
from symgraph.symmetry.structure import Space, Structure
from symgraph.symmetry.terms import blocks

NOTHING = "no space admits more than the identity"
SHOWN = 8
LEAST_NAME = 24
HEADER = ("space", "size", "group", "fibred over", "dim", "tensors", "also", "count")
RIGHT = (1, 4, 5)
FIBRE = 3
# A place up to its last number.
_LAYER = re.compile(r"(.*\b\d+)\.")
Row = tuple[str, ...]


def table(symmetry: Structure, fold: bool = True, rigid: bool = False) -> str:
    """The whole graph as text of at most 120 columns.

    Args:
        fold: one row for the same space of repeated layers; `dim` and `tensors` are those of each of them.
        rigid: also the spaces on which nothing but the identity acts.
    """
    spaces = [space for space in symmetry.spaces if rigid or not space.rigid]
    counted = dimension(symmetry)
    rows = list(_rows(symmetry, spaces, counted, fold))
    parts = [
        headline(symmetry, counted),
        _columns([HEADER, *rows]) if rows else NOTHING,
        "\n".join(_families(symmetry, counted, fold)),
        "\n".join(report(symmetry.uncovered)),
        "\n".join(f"note: {note}" for note in symmetry.notes),
    ]
    return "\n\n".join(part for part in parts if part)


def headline(symmetry: Structure, counted: Dimension) -> str:
    """Sizes, shares and dimensions of the whole graph in a sentence."""
    total = symmetry.graph.size
    share = 100 * _moving(symmetry) / total if total else 0.0
    line = (
        f"{symmetry.graph.model or 'model'}: {total:,} parameters, {share:.1f}% on a non-rigid axis; "
        f"{len(symmetry.spaces)} spaces, {len(symmetry.active)} active; "
        f"continuous dimension {'' if counted.exact else 'at most '}{counted.number:,}"
    )
    return "\n".join(wrapped(line, ""))


def _moving(symmetry: Structure) -> int:
    """Parameters (as numbers) with at least one axis on a space that is not rigid."""
    active = {space.id for space in symmetry.active}
    read = (name for stored in symmetry.graph.parameters for name in symmetry.reading.read(stored))
    return sum(
        prod(leaf.size for leaf in block)
        for terms in map(symmetry.read_terms.__getitem__, dict.fromkeys(read))
        for block in blocks(terms)
        if any(leaf.space in active for leaf in block)
    )


# -- spaces --------------------------------------------------------------------------------------------------------


def _rows(symmetry: Structure, spaces: Sequence[Space], counted: Dimension, folded: bool) -> Iterator[Row]:
    dims = {part.name: part.number for part in counted.parts if part.family is Family.SPACE}
    details = {space.name: _details(symmetry, space, dims.get(space.name, 0)) for space in spaces}
    groups: dict[Row, list[str]] = {}
    for name, row in details.items():
        groups.setdefault(row if folded else (name, *row), []).append(name)
    patterns = [
        (pattern, details[pattern.members[0]]) for names in groups.values() for pattern in fold_all(names, folded)
    ]
    order = {space.name: number for number, space in enumerate(spaces)}
    for pattern, row in sorted(patterns, key=lambda part: order[part[0].members[0]]):
        yield pattern.pattern, *row, f"x{pattern.count}" if pattern.count > 1 else ""


def fold_all(names: Iterable[str], folded: bool) -> list[Folded]:
    """The names folded, or each by itself."""
    return fold(names) if folded else [Folded(name, (name,)) for name in names]


def _details(symmetry: Structure, space: Space, dim: int) -> Row:
    resizes = "splits/merges" if SymmetryClass.SEMI_PERMUTATION in space.bound else ""
    tensors = len(symmetry.parameters_of[space.id])
    fibre = ", ".join(relative_name(symmetry.spaces[outer].name, space.name) for outer in space.fibre)
    return str(space.size), group_text(space), fibre, f"{dim:,}", str(tensors), resizes


def group_text(space: Space) -> str:
    """The group, with its free scales and signs where there are several."""
    counted = [(space.scales, "scale"), (space.signs, "sign")]
    if max(space.scales, space.signs) < 2:
        return str(space.group)
    extra = ", ".join(f"{count} {word}{'s' * (count > 1)}" for count, word in counted if count)
    return f"{space.group} ({extra})"


def relative_name(name: str, beside: str) -> str:
    """A space's name without the place that it shares with another one: the module, or else the layer.

    >>> relative_name("layers.0.attn.heads", "layers.0.attn.query-key")
    'heads'
    >>> relative_name("model.layers.0.mlp.hidden", "layers.0.mlp.experts.hidden")
    'mlp.hidden'
    """
    module = beside.rpartition(".")[0]
    for place in (module, *_LAYER.findall(f"{module}.")):
        head, _, rest = name.partition(f"{place}.")
        if place and rest and (not head or head.endswith(".")):
            return rest
    return name


def kind(maps: MapClass) -> str:
    """Classes by what their elements look like, which decides about the shape of a node."""
    if isinstance(maps, IndexMaps):
        if not maps.permutes:
            return "diagonal" if maps.scales or maps.signs else "rigid"
        return "monomial" if maps.scales or maps.signs else "permutation"
    if maps.paired:
        return "rotation"
    return "orthogonal" if getattr(maps, "compact", False) else "invertible"


def _columns(rows: Sequence[Row]) -> str:
    used = [column for column in range(len(HEADER)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    for column in (FIBRE, 0):
        room = WIDTH - sum(width + 2 for other, width in widths.items() if other != column)
        widths[column] = min(widths.get(column, 0), max(room, LEAST_NAME))
    lines = []
    for row in rows:
        cells = [
            row[column].rjust(widths[column]) if column in RIGHT else row[column].ljust(widths[column])
            for column in used
        ]
        if len(row[0]) > widths[0]:
            # A name is never cut, since commands take it as it stands here.
            lines.append(row[0])
            cells[0] = " " * widths[0]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# -- families without a space --------------------------------------------------------------------------------------


# For one member and for several; `Part.name` of the members is listed below each line.
SENTENCES: dict[tuple[Family, bool], tuple[str, str]] = {
    (Family.GAIN, True): (
        "1 gain can be absorbed by the weights that read from it",
        "{n} gains can be absorbed by the weights that read from them",
    ),
    (Family.GAIN, False): (
        "1 gain can be absorbed by the weights that write into it",
        "{n} gains can be absorbed by the weights that write into them",
    ),
    (Family.MOVE, True): (
        "1 bias holds a constant that can move into the next bias",
        "{n} biases hold a constant that can move into the next bias",
    ),
    (Family.NULL, True): ("1 bias holds a constant that nothing sees", "{n} biases hold a constant that nothing sees"),
    (Family.TRANSLATION, True): (
        "1 constant can move between summed terms",
        "{n} constants can move between summed terms",
    ),
    (Family.WRITTEN, True): (
        "1 tensor writes into a centred stream, so the mean of what it writes has no effect",
        "{n} tensors write into centred streams, so the mean of what they write has no effect",
    ),
    (Family.READ, True): (
        "1 tensor reads from a centred stream, so the mean of its weights along the stream has no effect",
        "{n} tensors read from centred streams, so the mean of their weights along the stream has no effect",
    ),
    (Family.LEAN, True): (
        "1 tensor reads from a norm that keeps its gain or bias, so one direction of its weights has no effect",
        "{n} tensors read from norms that keep gain or bias, so one direction of their weights has no effect",
    ),
    (Family.TILT, True): (
        "1 bias of a norm can be tilted if its readers are tilted back",
        "{n} biases of norms can be tilted if their readers are tilted back",
    ),
    (Family.THIN, True): (
        "1 tensor reads a stream of fewer dimensions than it is wide, so the other directions have no effect",
        "{n} tensors read streams of fewer dimensions than they are wide, so the other directions have no effect",
    ),
    (Family.OVERLOOKED, True): (
        "1 tensor writes a stream whose readers see fewer dimensions than it has, so what it writes along the others "
        "has no effect",
        "{n} tensors write streams whose readers see fewer dimensions than they have, so what they write along the "
        "others has no effect",
    ),
    (Family.SHEAR, True): (
        "1 stream can be sheared along what the norms at it do not see or do not write",
        "{n} streams can be sheared along what the norms at them do not see or do not write",
    ),
    (Family.SPECTRAL, True): (
        "1 gain can move along those of its spectrum while the streams before and after it turn",
        "{n} gains can move along those of their spectrum while the streams before and after them turn",
    ),
    (Family.UPDATE, True): (
        "1 matrix can make up for whatever is added beside it",
        "{n} times matrices can make up for whatever is added beside them",
    ),
    (Family.RADIAL, True): (
        "the length of what 1 map writes has no effect",
        "the lengths of what {n} maps write have no effect",
    ),
    (Family.NUMBER, True): (
        "1 learned number can be made up for by the maps that write or read what it multiplies",
        "{n} learned numbers can be made up for by the maps that write or read what they multiply",
    ),
    (Family.TRADED, True): (
        "1 factor can go from what writes a value into what reads it",
        "{n} factors can go from what writes a value into what reads it",
    ),
    (Family.STATISTICS, True): (
        "1 pair of stored statistics can be made up for by gain and bias",
        "{n} pairs of stored statistics can be made up for by gain and bias",
    ),
}


def family_kind(symmetry: Structure, part: Part) -> tuple[Family, bool]:
    """Under which of the sentences a member of a family is listed."""
    return part.family, part.family is not Family.GAIN or symmetry.gain_sites[part.name][0].forward


def _families(symmetry: Structure, counted: Dimension, folded: bool) -> Iterator[str]:
    members: dict[tuple[Family, bool], list[Part]] = {kind: [] for kind in SENTENCES}
    for part in counted.parts:
        if part.family is not Family.SPACE:
            members[family_kind(symmetry, part)].append(part)
    for kind, parts in members.items():
        if parts:
            text = SENTENCES[kind][len(parts) > 1].format(n=len(parts))
            yield f"{text}: dimension {sum(part.number for part in parts):,}"
            patterns = fold_all([part.name for part in parts], folded)
            yield from _listed([pattern.pattern for pattern in patterns], folded)


def _listed(names: Sequence[str], folded: bool) -> Iterator[str]:
    shown = names[:SHOWN] if folded else names
    more = f", and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    yield from wrapped(", ".join(shown) + more, "    ")
