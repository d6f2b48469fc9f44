"""Every architecture of a library, tiny, through every stage; the records go to a file, rates to the terminal.

python -m tests.architectures.sweep --out results.jsonl                        all stages, some 20 minutes
python -m tests.architectures.sweep --audit --audits audits.jsonl              what is small enough, an hour or two
python -m tests.architectures.sweep --audit --audits audits.jsonl --incomplete   those that lacked something, again
python -m tests.architectures.sweep --audits audits.jsonl --renew docs/architectures.md     only the audits of the page
python -m tests.architectures.sweep --rotate --mapping causal-lm --out rotations.jsonl    what rotates exactly
python -m tests.architectures.sweep --summary --out results.jsonl --audits audits.jsonl --page docs/architectures.md

With --third-party the same for what is installed of timm and others (make sweep) in the place of
transformers: one model for each module of timm, or with --every its whole registry; the page is docs/third-party.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}

from . import third_party
from .builder import MAPPINGS, entries
from .rotations import rotations
from .runner import Task, sweep
from .summary import audits, complete, summary
from .table import renewed, third_party_page, transformers_page


def main() -> int:
    """Sweeps the chosen entries and prints the rates."""
    parser = argparse.ArgumentParser(prog="python -m tests.architectures.sweep", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mapping",
        action="append",
        choices=[*MAPPINGS, *third_party.catalogue()],
        help="may be repeated; all when left out",
    )
    parser.add_argument("--third-party", action="store_true", help="packages beside transformers that are installed")
    parser.add_argument("--every", action="store_true", help="all of timm's registry, not one model for each module")
    parser.add_argument("--only", action="append", help="a kind of config or a class of model; may be repeated")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds for one architecture")
    parser.add_argument("--out", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--resume", action="store_true", help="leave out what the file already has")
    parser.add_argument("--page", type=Path, help="also write the table of all architectures to this file")
    parser.add_argument("--audits", type=Path, help="the file of audits: written by --audit, read for the page")
    parser.add_argument("--audit", action="store_true", help="audit instances that are small enough instead")
    parser.add_argument("--incomplete", action="store_true", help="of an audit: those whose last one was incomplete")
    parser.add_argument(
        "--renew", type=Path, help="put the audits of the file --audits into this page, and run nothing"
    )
    parser.add_argument("--rotate", action="store_true", help="rotate every instance for quantisers instead")
    parser.add_argument("--summary", action="store_true", help="only print what the file says")
    args = parser.parse_args()
    if (args.audit or args.renew) and args.audits is None:
        parser.error(f"{'--audit' if args.audit else '--renew'} needs a file: --audits FILE")
    if args.renew:
        made = read(args.audits)
        args.renew.write_text(renewed(args.renew.read_text(encoding="utf-8"), made), encoding="utf-8")
        print(audits(made))
        return 0
    if not args.summary:
        _run(args)
    if args.audit:
        print(audits(read(args.audits)))
        return 0
    records = read(args.out)
    if args.rotate:
        print(rotations(records))
        return 0
    if args.audits is not None:
        found = {(r["mapping"], r["kind"]): r for r in read(args.audits)}
        records = [with_audit(r, found.get((r["mapping"], r["kind"]), {})) for r in records]
    if args.page:
        write = third_party_page if _is_third_party(args) else transformers_page
        args.page.write_text(write(records), encoding="utf-8")
    print(summary(records))
    return 0


def _run(args: argparse.Namespace) -> None:
    out = args.audits if args.audit else args.out
    if not (args.resume or args.incomplete):
        out.unlink(missing_ok=True)
    known = {(r["mapping"], r["kind"]): r for r in read(out)}
    every = [(m, *e) for m in _mappings(args) for e in _entries(m, args.every)]
    wanted = [e for e in every if _is_wanted(args, e, known.get(e[:2]))]
    task: Task = "audit" if args.audit else "rotate" if args.rotate else "stages"
    for i, record in enumerate(sweep(wanted, out, args.jobs, args.timeout, task=task), 1):
        failed = next((f"{k}: {v['cause']}" for k, v in record["stages"].items() if not v["ok"]), "ok")
        print(f"{i}/{len(wanted)} {record['mapping']} {record['kind']} {failed}", file=sys.stderr, flush=True)


def _is_wanted(args: argparse.Namespace, entry: tuple[str, str, str], last: dict[str, object] | None) -> bool:
    """Whether an entry is run, whose last record in the file is given."""
    if args.only and not {entry[1], entry[2]} & set(args.only):
        return False
    if args.incomplete:
        return last is not None and bool(last.get("audit")) and not complete(last)
    return last is None


def _mappings(args: argparse.Namespace) -> list[str]:
    installed = [p for p in third_party.catalogue() if third_party.installed(p)]
    return args.mapping or (installed if args.third_party else list(MAPPINGS))


def _entries(mapping: str, every: bool) -> list[tuple[str, str]]:
    return entries(mapping) if mapping in MAPPINGS else third_party.entries(mapping, every)


def _is_third_party(args: argparse.Namespace) -> bool:
    return args.third_party or any(m not in MAPPINGS for m in args.mapping or ())


def with_audit(record: dict[str, object], audit: dict[str, object]) -> dict[str, object]:
    """The record with its audit: of the instance that audits.py has by hand, or else of a generic one."""
    from .audits import CONFIGS, measured

    name = next((n for n, (_, kind, _) in CONFIGS.items() if kind == record["model"]), None)
    if name is None:
        return record | {"audit": audit.get("audit"), "missing": audit.get("missing", [])}
    found = measured(name)
    return record | {"audit": f"{found.inferred} of {found.measured}", "missing": [str(s) for s in found.missing]}


def read(path: Path) -> list[dict[str, object]]:
    """The records of a file, the last one for every entry."""
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({(r["mapping"], r["kind"]): r for r in records}.values())


if __name__ == "__main__":
    raise SystemExit(main())
