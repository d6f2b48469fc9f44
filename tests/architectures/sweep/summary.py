"""What the records of a sweep say: rates, uncovered operators, failures by cause."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = dict[str, Any]


def ok(record: Record, stage: str) -> bool:
    """Whether a stage was reached and passed."""
    return bool(record["stages"].get(stage, {}).get("ok"))


def moves(record: Record) -> bool:
    """Whether the residual space has more than the identity."""
    return bool(record.get("residual")) and record["residual"][2] != "identity"


def covered(record: Record) -> bool:
    """Whether every operator has a rule."""
    return ok(record, "infer") and not record.get("uncovered")


def summary(records: Sequence[Record]) -> str:
    """Rates for each mapping, operators without a rule, failures and rigid streams by cause, what is unsound."""
    parts = (_rates, _operators, _failures, _rigid, audits, _unsound)
    return "\n\n".join(part(records) for part in parts)


def _rates(records: Sequence[Record]) -> str:
    lines = [
        f"{'mapping':<26}{'entries':>8}{'built':>10}{'exported':>12}{'inferred':>12}{'sound':>12}{'moving':>12}{'covered':>12}"
    ]
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for r in records:
        groups[r["mapping"]].append(r)
    for name, rows in [*groups.items(), ("all", list(records))]:
        exported = [r for r in rows if ok(r, "export")]
        sound = [r for r in exported if ok(r, "verify")]
        counts = [
            (sum(ok(r, "build") for r in rows), len(rows)),
            (len(exported), len(rows)),
            (sum(ok(r, "infer") for r in exported), len(exported)),
            (len(sound), len(exported)),
            (sum(moves(r) for r in sound), len(exported)),
            (sum(covered(r) for r in exported), len(exported)),
        ]
        cells = "".join(f"{n:>6} {100 * n / total if total else 0:>4.0f}%" for n, total in counts)
        lines.append(f"{name:<26}{len(rows):>8}{cells}")
    lines.append(
        "built, exported: of the entries; the others of those exported; moving: sound, and the residual space not rigid"
    )
    return "\n".join(lines)


def _operators(records: Iterable[Record]) -> str:
    where: defaultdict[str, list[str]] = defaultdict(list)
    for r in records:
        for operator in r.get("uncovered", {}):
            where[operator].append(r["kind"])
    lines = [
        f"{len(kinds):>5}  {operator:<50} {', '.join(dict.fromkeys(kinds))[:90]}"
        for operator, kinds in sorted(where.items(), key=lambda x: (-len(x[1]), x[0]))
    ]
    return "\n".join(["operators without a rule, with the number of architectures:", *(lines or ["none"])])


def _failures(records: Iterable[Record]) -> str:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for r in records:
        for stage, outcome in r["stages"].items():
            if not outcome["ok"]:
                found[f"{stage}: {_without_numbers(outcome['cause'])}"].append(r["kind"])
    return "\n".join(["failures by cause:", *_grouped(found)])


def _rigid(records: Iterable[Record]) -> str:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for r in records:
        if ok(r, "verify") and not moves(r):
            found[_without_numbers(next(iter(r.get("because", [])), "no reason"))].append(r["kind"])
    return "\n".join(["residual spaces that are rigid, by the first reason:", *_grouped(found)])


def complete(record: Record) -> bool:
    """Whether an audit measured what was inferred."""
    inferred, _, measured = str(record.get("audit") or "0 of 1").partition(" of ")
    return inferred == measured


def audits(records: Iterable[Record]) -> str:
    """How many audits are complete, and what the others lack."""
    found = [r for r in records if r.get("audit")]
    lines = [f"audits: {sum(map(complete, found))} complete of {len(found)}; the others, with what is missing:"]
    for r in found:
        if not complete(r):
            lines.append(f"  {r['mapping']} {r['kind']}: {r['audit']}")
            lines += [f"      {text[:200]}" for text in r.get("missing", ())]
    return "\n".join(lines)


def _grouped(found: Mapping[str, list[str]]) -> list[str]:
    lines = [
        f"{len(kinds):>5}  {text[:220]}\n         {', '.join(dict.fromkeys(kinds))[:150]}"
        for text, kinds in sorted(found.items(), key=lambda x: (-len(x[1]), x[0]))
    ]
    return lines or ["none"]


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", text)


def _unsound(records: Iterable[Record]) -> str:
    lines = [
        f"  {r['mapping']} {r['kind']}: {name} ({group}) {error:.1e}"
        for r in records
        for name, (group, error) in r.get("unsound", {}).items()
    ]
    return "\n".join(["families that change the outputs:", *(lines or ["none"])])
