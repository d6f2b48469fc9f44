"""Many random models; each distinct failure is made small and printed, and none ends the run.

python -m tests.fuzz 2000 --seed 1
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, Phase, given, seed, settings

from .checks import check
from .net import Description
from .shrink import shrunk
from .strategies import descriptions


def main() -> int:
    """Runs the models, prints what failed, and says whether anything did."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("number", type=int, help="how many models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="do not make failures smaller")
    parser.add_argument("--only", help="print one description's failure instead")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.only:
        print(outcome(eval(asked.only, {"Description": Description})) or "holds")
        return 0
    found, tried, seconds = run(asked.number, asked.seed, small=not asked.plain)
    print(f"{tried} models in {seconds:.0f} s, {sum(found.values())} failures: {dict(found)}")
    return int(bool(found))


def run(number: int, start: int, *, small: bool) -> tuple[Counter[str], int, float]:
    """The number of failures of each kind, of models tried, and the time it took."""
    found: Counter[str] = Counter()
    seen: set[str] = set()
    tried = 0
    began = time.monotonic()

    @seed(start)
    @settings(
        max_examples=number, phases=[Phase.generate], database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(descriptions())
    def one(description: Description) -> None:
        nonlocal tried
        tried += 1
        if tried % 100 == 0:
            print(f"{tried} models, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        text = outcome(description)
        if text:
            found[kind(text)] += 1
            least = shrunk(description, lambda d: kind(outcome(d)) == kind(text)) if small else description
            if repr(least) not in seen:
                seen.add(repr(least))
                print(f"{least}\n    {outcome(least)}", flush=True)

    one()
    return found, tried, time.monotonic() - began


def outcome(description: Description) -> str:
    """What fails, in one line; empty where nothing does."""
    try:
        return str(check(description) or "")
    except Exception as e:
        return f"crash: {type(e).__name__}: {e}"[:300].replace("\n", " ")


def kind(text: str) -> str:
    """The law that a failure breaks."""
    return ":".join(text.split(":")[: 2 if text.startswith("crash") else 1])


if __name__ == "__main__":
    sys.exit(main())
