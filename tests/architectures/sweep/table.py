"""The page `docs/architectures.md` from the records of a sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from .summary import complete, covered, moves, ok
from .third_party import catalogue

Record = dict[str, Any]
STAGES = ("build", "export", "infer", "verify")
LACKING = "What audits found missing"
HEADER = (
    "kind",
    "model",
    "outcome",
    "residual",
    "spaces by class",
    "moving",
    "attention",
    "operators without a rule",
    "audit",
)
INTRO = """\
<!-- Written by `python -m tests.architectures.sweep --page docs/architectures.md`; run it again instead of editing. -->

# Architectures

Every entry of the auto-model mappings of transformers {transformers}, built tiny from its config by one generic
builder and taken through every stage with torch {torch}: traced, inferred, verified by random elements of everything
inferred. *Residual* is the group on the stream that the most tensors read and write; *moving* the share of the
parameters that lie on at least one axis that is not rigid. *Audit* is the number of continuous directions that are
inferred, of those measured, at the smallest sizes that a builder or a hand-written config gives; — where that is too
large for a dense Jacobian. A stage that failed is named with its cause, and the stages
after it did not run. Stages and audits are run apart: `--renew` puts the audits of some entries into a page whose other
cells stay as they are.
"""


THIRD_PARTY = """\
<!-- Written by `python -m tests.architectures.sweep --third-party --page docs/third-party.md`; run it again instead of
editing. -->

# Models of other packages

Small models of {versions}, through the same stages as [those of transformers](architectures.md): of
timm one for each module of its registry, made small by the names of its settings; of the others what `third_party.yaml`
in the folder of the sweep lists. The packages are no dependency: `make sweep` installs them, and what is not installed
is left out. The columns are those of that page; *attention* is how many query-key and value-output spaces were found.
Entries are those that were run: a page may be made of a part (timm has 98 modules, and `--resume` goes on). Beside what
an audit lacks stands why, where that is known (`limits.yaml` in the same folder).
"""


def transformers_page(records: Sequence[Record]) -> str:
    """The page of transformers' architectures."""
    return page(records, INTRO.format(transformers=version("transformers"), torch=version("torch")))


def third_party_page(records: Sequence[Record]) -> str:
    """The page of the packages that records are of."""
    names = dict.fromkeys(r["mapping"] for r in records)
    versions = [f"{name} {version(catalogue()[name].get('package', name))}" for name in names]
    return page(records, THIRD_PARTY.format(versions=", ".join(versions)))


def page(records: Sequence[Record], intro: str) -> str:
    """The whole page below its words."""
    groups: defaultdict[str, list[Record]] = defaultdict(list)
    for r in records:
        groups[r["mapping"]].append(r)
    parts = [intro, _rates(groups)]
    parts = [*parts, *_missing(records)]
    parts += [f"## {name}\n\n{_table(sorted(rows, key=lambda r: str(r['kind'])))}" for name, rows in groups.items()]
    return "\n".join(parts)


def _rates(groups: dict[str, list[Record]]) -> str:
    lines = [
        "mapping",
        "entries",
        "built",
        "exported",
        "sound",
        "sound and residual not rigid",
        "every operator covered",
    ]
    rows = [_row(lines), _row(["---"] * len(lines))]
    for name, found in groups.items():
        sound = [r for r in found if ok(r, "verify")]
        counts = [
            len(found),
            sum(ok(r, "build") for r in found),
            sum(ok(r, "export") for r in found),
            len(sound),
            sum(map(moves, sound)),
            sum(map(covered, found)),
        ]
        rows.append(_row([f"[{name}](#{name.lower()})", *map(str, counts)]))
    return "\n".join(rows) + "\n"


def _table(records: Iterable[Record]) -> str:
    return "\n".join([_row(HEADER), _row(["---"] * len(HEADER)), *(_row(_cells(r)) for r in records)]) + "\n"


def _cells(r: Record) -> list[str]:
    spaces = ", ".join(f"{n} {group}" for group, n in sorted(r.get("spaces", {}).items()))
    uncovered = ", ".join(f"`{op.removesuffix('.default')}` x{n}" for op, n in sorted(r.get("uncovered", {}).items()))
    circuits = ", ".join(f"{n} {name}" for name, n in sorted(r.get("circuits", {}).items()))
    stream = r.get("residual")
    moving = f"{100 * r['moving']:.0f}%" if "moving" in r else ""
    return [
        r["kind"],
        f"`{r['model']}`",
        _outcome(r),
        stream[2] if stream else "",
        spaces,
        moving,
        circuits,
        uncovered,
        _audit(r),
    ]


def _missing(records: Sequence[Record]) -> list[str]:
    """What incomplete audits lack, one line for each; their symmetries are smaller, not wrong."""
    audited = [r for r in records if r.get("audit")]
    found = [_lack(r) for r in audited if not complete(r)]
    return [_lacking(found, len(audited))] if found else []


def _lacking(lines: Sequence[str], audited: int) -> str:
    intro = f"""\
Of {audited} audits {audited - len(lines)} are complete. What the others lack: what a direction looks like, and the
parameter that it moves most; see design.md."""
    return "\n".join([f"## {LACKING}", "", intro, "", *lines, ""])


def _lack(r: Record) -> str:
    """What one audit lacks, and why where that is known."""
    found = f"- {r['mapping']} {r['kind']}, {r['audit']}: {'; '.join(map(_briefly, r['missing']))}"
    why = _limits().get(r["mapping"], {}).get(r["kind"])
    return f"{found}. {why}" if why else found


@cache
def _limits() -> dict[str, dict[str, str]]:
    """Why audits lack something, by package and model."""
    found: dict[str, dict[str, str]] = yaml.safe_load(
        (Path(__file__).parent / "limits.yaml").read_text(encoding="utf-8")
    )
    return found


def renewed(text: str, audits: Iterable[Record]) -> str:
    """A page with these audits in the place of those that it has; all its other cells stay as they are.

    An instance that has become too large for an audit loses the one that it had.
    """
    found = {(r["mapping"], r["kind"]): r for r in audits if r.get("audit") or _too_large(r)}
    before, *sections = text.split("\n## ")
    lacking: dict[tuple[str, str], str] = {}
    tables, rows = list[str](), list[Record]()
    for title, _, body in (section.partition("\n") for section in sections):
        if title == LACKING:
            for line in (line for line in body.splitlines() if line.startswith("- ")):
                mapping, kind = line.removeprefix("- ").partition(", ")[0].split(" ", 1)
                lacking[mapping, kind] = line
            continue
        lines = body.splitlines()
        for i, line in enumerate(lines):
            kind = line.removeprefix("| ").partition(" | ")[0]
            record = found.get((title, kind))
            if line.startswith("| ") and record is not None:
                lines[i] = f"{line.removesuffix(' |').rpartition(' | ')[0]} | {_audit(record)} |"
            if line.startswith("| ") and " of " in (audit := lines[i].removesuffix(" |").rpartition(" | ")[2]):
                rows.append({"mapping": title, "kind": kind, "audit": audit})
        tables.append("\n".join([f"## {title}", *lines, ""]))
    texts = lacking | {place: _lack(r) for place, r in found.items() if r.get("audit") and not complete(r)}
    lines = [texts[r["mapping"], r["kind"]] for r in rows if not complete(r)]
    middle = [_lacking(lines, len(rows))] if lines else []
    return "\n".join([before, *middle, *tables]).rstrip("\n") + "\n"


def _too_large(r: Record) -> bool:
    return "audit" in r and all(stage["ok"] for stage in r["stages"].values())


def _briefly(shortfall: str) -> str:
    return shortfall.partition(",")[0]


def _outcome(r: Record) -> str:
    for stage in STAGES:
        outcome = r["stages"].get(stage)
        if outcome and not outcome["ok"]:
            return f"{stage}: {_short(outcome['cause'])}"
    return "sound"


def _audit(r: Record) -> str:
    return str(r["audit"]) if r.get("audit") else "—"


def _short(cause: str) -> str:
    text = cause.replace("|", "/").replace("<", "&lt;")
    return text if len(text) <= 110 else text[:109] + "…"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
