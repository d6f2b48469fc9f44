"""What a device does of what the package does: matching, learned steps, barriers, polar factors.

    python tests/benchmarks/bench_devices.py --device cuda [PART ...] [--out FOLDER] [--limit SECONDS] [--tiny]

Every part prints what it found at once, writes it under --out, and is broken off after --limit seconds; one that fails
says so, and the next begins. Times are those of the clock, of a device that has done all that it was told.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bench_memory import warm_up
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import symgraph
from symgraph.groups import assignment
from symgraph.groups.rotations import polar_by_newton_schulz
from symgraph.match.learned_matching import Lesson, _Run
from symgraph.match.match_options import LearnOptions, MatchOptions
from symgraph.measure.objective import Objective
from symgraph.orbit.canonical import canonicalise
from symgraph.tracing import state_of

Figures = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """Where it is measured; `tiny`: sizes to try the script."""

    device: torch.device
    tiny: bool

    def seconds(self, function: Callable[[], Any]) -> tuple[float, Any]:
        """The time of one call, and its result."""
        self.wait()
        start = time.perf_counter()
        result = function()
        self.wait()
        return time.perf_counter() - start, result

    def typical(self, function: Callable[[], Any], repetitions: int) -> float:
        """The median time after one call that is not counted."""
        function()
        return median(self.seconds(function)[0] for _ in range(repetitions))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """GiB that tensors took at most since `forget`."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None

    def gpt2(self, seed: int) -> nn.Module:
        """The shape of GPT-2 small."""
        sizes: dict[str, Any] = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 256} if self.tiny else {}
        torch.manual_seed(seed)
        return evaluated(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)))

    def llama(self, seed: int) -> nn.Module:
        """A Llama of 0.95 billion."""
        sizes: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16}
        sizes |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
        if self.tiny:
            sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 256}
            sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        torch.manual_seed(seed)
        with torch.device(self.device):
            made: Any = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False))
        return evaluated(made.cpu())

    def tokens(self, count: int, length: int, batch: int) -> list[dict[str, Tensor]]:
        drawn = torch.randint(256, (count, length), generator=torch.Generator().manual_seed(0))
        return [{"input_ids": t, "labels": t} for t in torch.split(drawn, batch)]


def evaluated(model: nn.Module) -> nn.Module:
    model.train(False)
    return model


def rates(bench: Bench) -> Iterator[Figures]:
    """TFLOP/s of matrix products, which all else is to be held against."""
    size = 256 if bench.tiny else 8192
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a, b = (torch.randn(size, size, device=bench.device).to(dtype) for _ in range(2))
        taken = bench.typical(lambda a=a, b=b: a @ b, 3)  # type: ignore[misc]
        yield {"what": f"matrix product {size} {dtype}", "TFLOP/s": 2 * size**3 / taken / 1e12}


def polars(bench: Bench) -> Iterator[Figures]:
    """Orthogonal factors in float64, of Gaussian matrices and of badly conditioned ones, and how exact they are."""
    ways: dict[str, Callable[[Tensor], Tensor | None]] = {
        "newton-schulz": polar_by_newton_schulz,
        "eigh": by_eigh,
        "svd": by_svd,
    }
    shapes = [(2, 16)] if bench.tiny else [(144, 64), (32, 64), (1, 768), (12, 768), (1, 2048)]
    for count, size in shapes:
        for kind in ("gaussian", "condition 1e6"):
            c = torch.randn(count, size, size, dtype=torch.float64, device=bench.device)
            if kind != "gaussian":
                q, r = torch.linalg.qr(c), torch.logspace(0, -6, size, dtype=torch.float64, device=bench.device)
                c = (q.Q * r) @ torch.linalg.qr(torch.randn_like(c)).Q.mT
            found: dict[str, Tensor | None] = {}
            for name, way in ways.items():
                # What takes long at large sizes is done once, and not for every kind.
                if name == "svd" and count * size**2 > 1e6:
                    if count > 1 or kind != "gaussian":
                        continue
                    taken, q_found = bench.seconds(lambda way=way, c=c: way(c))  # type: ignore[misc]
                else:
                    taken = bench.typical(lambda way=way, c=c: way(c), 3)  # type: ignore[misc]
                    q_found = way(c)
                found[name] = q_found
                reference = found["newton-schulz"]
                figures: Figures = {"what": f"polar {count} x {size}", "kind": kind, "way": name, "ms": 1000 * taken}
                if q_found is not None:
                    eye = torch.eye(size, dtype=torch.float64, device=bench.device)
                    figures["off orthogonal"] = float((q_found.mT @ q_found - eye).abs().max())
                if q_found is not None and reference is not None:
                    figures["off Newton and Schulz's"] = float((q_found - reference).norm() / reference.norm())
                yield figures


def by_eigh(c: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(c.mT @ c)
    found: Tensor = c @ (vectors / values.clamp(min=1e-300).sqrt().unsqueeze(-2)) @ vectors.mT
    return found


def by_svd(c: Tensor) -> Tensor:
    u, _, vt = torch.linalg.svd(c)
    found: Tensor = u @ vt
    return found


def barriers(bench: Bench) -> Iterator[Figures]:
    """The loss barrier at 11 points over as many passes of the bare model, which go first: each is done once."""
    a, b = bench.gpt2(0), bench.gpt2(1)
    data = bench.tokens(8, 64, 4) if bench.tiny else bench.tokens(16, 1024, 8)
    network = bench.gpt2(0).to(bench.device)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(11):
            for batch in data:
                network(**{n: t.to(bench.device) for n, t in batch.items()})

    bare()
    ours = bench.seconds(lambda: symgraph.loss_barrier(a, b, data, device=bench.device))[0]
    theirs = bench.seconds(bare)[0]
    yield {"what": "barrier, GPT-2 small, float32", "ratio": ours / theirs, "seconds": ours, "bare": theirs}


def learned(bench: Bench) -> Iterator[Figures]:
    """A step of learned matching over a plain training step, float32 and autocast."""
    a, b = bench.gpt2(0), bench.gpt2(1)
    symmetry = symgraph.infer(a)
    wide = [{n: t.detach().double() if t.is_floating_point() else t for n, t in state_of(m).items()} for m in (a, b)]
    states = [canonicalise(symmetry, s).state for s in wide]
    data = bench.tokens(8, 64, 4) if bench.tiny else bench.tokens(32, 1024, 8)
    for autocast in (True, False):
        for dual in (False, True):
            options = LearnOptions(steps=1000, autocast=autocast, dual=dual)
            lesson = Lesson(a, data, data[:1], device=bench.device)
            bench.forget()
            run = _Run(symmetry, states, lesson, options)
            ours = bench.typical(lambda run=run: run.descent.take(run._loss), 10)  # type: ignore[misc]
            peak = bench.peak()
            retract = bench.typical(lambda run=run: [m.retract() for m in run.descent.motions.values()], 3)  # type: ignore[misc]
            del run
            bench.forget()
            theirs = bench.typical(plain_step(bench, a, data[0], autocast), 10)
            how = f"{'bf16 autocast' if autocast else 'float32'}{', dual' if dual else ''}"
            yield {
                "what": f"learned step, GPT-2 small, {how}",
                "ratio": ours / theirs,
                "ms": 1000 * ours,
                "plain ms": 1000 * theirs,
                "recentring ms": 1000 * retract,
                "peak GiB": peak,
                "plain peak GiB": bench.peak(),
            }


def plain_step(bench: Bench, model: nn.Module, batch: dict[str, Tensor], autocast: bool) -> Callable[[], Any]:
    """Adam on the weights themselves, by the same loss of the same functional call."""
    tensors = {n: p.detach().to(bench.device).requires_grad_() for n, p in model.named_parameters()}
    optimiser = torch.optim.Adam(tensors.values(), lr=1e-4)
    run = Objective(model, "cross-entropy", torch.float32)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=autocast):
            loss, _ = run.mean(tensors, batch, "here")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        float(loss.detach())

    return step


def align_gpt2(bench: Bench) -> Iterator[Figures]:
    """Two models of the shape of GPT-2 small, two sweeps; on the host as well."""
    a, b = bench.gpt2(0), bench.gpt2(1)
    for device in dict.fromkeys((str(bench.device), "cpu")):
        for precision in ("float32", "float64"):
            if (device, precision) != ("cpu", "float64"):
                yield aligned(bench, "GPT-2 small", a, b, device, precision)


def align_llama(bench: Bench) -> Iterator[Figures]:
    """Two Llamas of about a billion, two sweeps."""
    a, b = bench.llama(0), bench.llama(1)
    yield aligned(bench, "Llama 0.95 billion", a, b, str(bench.device), "float32", dtype=torch.float32)


def aligned(bench: Bench, name: str, a: nn.Module, b: nn.Module, device: str, precision: str, **how: Any) -> Figures:
    """Seconds until each step begins, those of all, of assignments on the host, and how near the models came."""
    marks: dict[str, float] = {}
    spent: list[float] = []
    solved = assignment._solved
    bench.forget()
    start = time.perf_counter()

    def mark(message: str) -> None:
        marks.setdefault(message.partition(" (")[0].partition(": ")[0], round(time.perf_counter() - start, 2))

    def timed(table: Tensor) -> Any:
        begun = time.perf_counter()
        found = solved(table)
        spent.append(time.perf_counter() - begun)
        return found

    assignment._solved = timed
    options = MatchOptions(sweeps=2, tolerance=-1.0, precision=precision)
    try:
        taken, found = bench.seconds(lambda: symgraph.align(a, b, options=options, device=device, progress=mark, **how))
    finally:
        assignment._solved = solved
    return {
        "what": f"align {name}, two sweeps, {precision} on {device}",
        "seconds": taken,
        "assignments s": sum(spent),
        "assignments": len(spent),
        "before": found.before,
        "after": found.after,
        "peak GiB": bench.peak() if device != "cpu" else None,
        "marks": marks,
    }


PARTS = {f.__name__: f for f in (rates, polars, barriers, learned, align_gpt2, align_llama)}


class TooLong(Exception):
    """A part took longer than it may."""


@contextmanager
def limited(limit: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong(f"broken off after {limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main(arguments: list[str] | None = None) -> dict[str, list[Figures]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args(arguments)
    bench = Bench(torch.device(args.device), args.tiny)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    warm_up()
    found: dict[str, list[Figures]] = {}
    for part in args.parts:
        found[part] = []
        try:
            with limited(args.limit):
                for figures in PARTS[part](bench):
                    _keep(found, part, figures, args.out)
        except Exception as e:
            _keep(found, part, {"what": part, "failed": f"{type(e).__name__}: {e}"}, args.out)
    return found


def _keep(found: dict[str, list[Figures]], part: str, figures: Figures, out: Path) -> None:
    found[part].append(figures)
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in figures.items() if k != "what"}
    print(f"{figures['what']}: {', '.join(f'{k} {v}' for k, v in shown.items())}", flush=True)
    (out / "devices.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
