"""The smallest description that still breaks the same law."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .net import Description, Step

# Options without which a step cannot be built.
NEEDED = frozenset({"kind", "act", "hidden", "heads", "groups", "size", "to", "how", "experts", "top", "like"})


def shrunk(description: Description, fails: Callable[[Description], bool]) -> Description:
    """Leaves out steps and options, one after another, as long as it `fails`."""
    changed = True
    while changed:
        changed = False
        for smaller in _smaller(description):
            if fails(smaller):
                description, changed = smaller, True
                break
    return description


def _smaller(d: Description) -> Iterator[Description]:
    for i in range(len(d.steps)):
        yield replace(d, steps=_without(d.steps, i))
    if d.head not in ("linear", "none"):
        yield replace(d, head="linear")
        yield replace(d, head="none")
    if d.stem != "linear":
        yield replace(d, stem="linear")
    for i, step in enumerate(d.steps):
        for simpler in _simpler(step):
            yield replace(d, steps=(*d.steps[:i], simpler, *d.steps[i + 1 :]))
    if d.length > 3:
        yield replace(d, length=d.length - 1)
    if d.width > 3:
        yield replace(d, width=d.width - 1)


def _without(steps: tuple[Step, ...], at: int) -> tuple[Step, ...]:
    """The other steps, those that share weights with one of them still doing so."""
    kept = []
    for i, step in enumerate(steps):
        like = step.get("like")
        if i != at:
            kept.append(step | {"like": like - 1} if like is not None and like > at else step)
    return tuple(kept)


def _simpler(step: Step) -> Iterator[Step]:
    for option in step.keys() - NEEDED:
        if not (step["kind"] == "norm" and option == "norm"):
            yield {k: v for k, v in step.items() if k != option}
    if "like" in step:
        yield {k: v for k, v in step.items() if k != "like"}
    if step["kind"] not in ("norm", "act") and step.get("act", "none") != "none":
        yield step | {"act": "none"}
    if step.get("heads", 1) > 1:
        yield step | {"heads": 1, "groups": 1}
    for option, least in (("hidden", 2), ("size", 2), ("to", 3), ("top", 1)):
        if step.get(option, least) > least:
            yield step | {option: least if option == "size" else step[option] - 1}
