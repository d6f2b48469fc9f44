"""What one space is and why, as text: its class, the parameters it touches, the evidence, what would make it larger."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from symgraph.symmetry.account import Account, account
from symgraph.symmetry.dimension import dimension
from symgraph.symmetry.fold import WIDTH
from symgraph.symmetry.structure import Structure

READERS, WRITERS = "the weights that read from it", "the weights that write into it"


def explain(symmetry: Structure, name: str) -> str:
    """Everything known about one space, as text.

    Raises:
        UsageError: no space has that name; near names are suggested.
    """
    space = symmetry.space(name)
    said = account(symmetry, space, dimension(symmetry))
    sections = [
        list(_class(said, space.rigid)),
        ["parameters", *_indented(_touched(said))],
        list(_absorbed(said)),
        ["evidence", *_indented(_evidence(said))],
        ["what would make it larger", *_indented(iter(said.larger))],
    ]
    return "\n\n".join("\n".join(section) for section in sections if section)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        depth = len(line) - len(line.lstrip()) + 2
        yield from wrap(
            line.strip(),
            WIDTH,
            initial_indent=" " * depth,
            subsequent_indent=" " * (depth + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )


def _class(said: Account, rigid: bool) -> Iterator[str]:
    yield f"{said.name}: a space of size {said.size}, class {said.group}"
    yield f"  {said.meaning}"
    if said.scales:
        yield f"  free positive scales of each position: {said.scales}"
    if said.signs:
        yield f"  free signs of each position: {said.signs}"
    if said.splits:
        yield "  positions may also be split and merged (semi-permutation), which changes its size"
    if said.fibre:
        outer = ", ".join(f"{other.name} ({other.size})" for other in said.fibre)
        yield f"  fibred over {outer}: another element for each position there"
    if not rigid:
        yield f"  dimension {said.dimension:,}" + (f" = {said.formula}" if said.formula else "")


def _touched(said: Account) -> Iterator[str]:
    for one in said.touched:
        place = f", {one.place}" if one.place else ""
        yield f"{one.parameters}  {list(one.shape)}  axis {one.axis}{place}  {one.variance}"


def _absorbed(said: Account) -> Iterator[str]:
    for absorbed in said.absorbed:
        yield f"gains absorbed into {READERS if absorbed.readers else WRITERS} (one in the canonical gauge)"
        yield from _indented(iter([", ".join(absorbed.gains)]))


def _evidence(said: Account) -> Iterator[str]:
    if not said.evidence:
        yield "no rule lowers its class: every operator that touches it is linear along it"
    for number, step in enumerate(said.evidence, 1):
        partly = " on the axes it touches" if step.partly else ""
        yield f"{number}. rule {step.rule} admits {step.admits}{partly}"
        yield f"   at {step.where}"
        yield f"   because: {step.because}"
