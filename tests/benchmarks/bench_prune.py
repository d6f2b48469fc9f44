"""Pruning trained models: units fused or dropped, before and after a short fine-tuning, beside Torch-Pruning.

    SYMGRAPH_ZOO=../shared/zoo python tests/benchmarks/bench_prune.py [resnet] [vgg] [llama] [vit-cifar10]
        [gpt2-shakespeare] [--what units one heads stream] [--ratios 0.2 0.4 0.6] [--importance l1] [--validation]
    ... bench_prune.py --split vgg

`units`: all hidden units and channels. `one`: each of their spaces alone, as the paper of Intra-Fusion has it. `heads`:
heads, or groups of keys with their queries. `stream`: the residual stream by directions of weights, of data, and of
inputs that the model invents. With --split two networks that each saw half of the data are pruned and merged, or merged
and pruned. With --validation everything is measured on examples set apart from the training split: that is where
defaults were chosen. Times are process time on one thread; Torch-Pruning is measured where it is installed.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_zoo import zoo
from measure import one_thread, seconds
from prune_subjects import NAMES, NETWORKS, Subject, as_model, images, labels, network, outputs, score, subject, trained
from torch import nn
from torch.nn.functional import cross_entropy

import symgraph
from symgraph.io.data import NoData

Row = tuple[str, Callable[[], nn.Module]]
# Epochs of the networks that see half of the data.
HALVES = 3
HEADS = ("*.heads", "*.head-groups")


def ours(s: Subject, ratio: float, spaces: Sequence[str] | None, how: dict[str, Any]) -> nn.Module:
    data: dict[str, Any] = {"data": s.data.plain(16)} if how.get("importance") == "taylor" else {}
    return symgraph.prune(s.model, ratio=ratio, spaces=spaces, **data | how).module


def theirs(s: Subject, ratio: float, kind: str, only: str | None = None) -> nn.Module:
    """The same by Torch-Pruning: groups of coupled layers, of the same importance."""
    import torch_pruning as peer

    made = copy.deepcopy(s.model.module)
    batch = s.data.measured[0]
    x = batch["pixel_values"][:2] if "pixel_values" in batch else {"input_ids": batch["input_ids"][:2]}
    made_by = {
        "l1": lambda: peer.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: peer.importance.GroupMagnitudeImportance(p=2),
        "lamp": lambda: peer.importance.LAMPImportance(),
        "taylor": lambda: peer.importance.GroupTaylorImportance(),
    }
    if kind == "taylor":
        for each in s.data.plain(16):
            torch.autograd.backward(cross_entropy(outputs(made, each), labels(each)))
    ignored = _kept(made, only)
    pruner = peer.pruner.BasePruner(made, x, made_by[kind](), pruning_ratio=ratio, ignored_layers=ignored)
    pruner.step()
    return made.eval()


def _kept(module: nn.Module, only: str | None) -> list[nn.Module]:
    """What Torch-Pruning leaves alone: the outputs, of a transformer all but the hidden units; or all but one layer."""
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if only is not None:
        return [m for n, m in layers if n != only]
    if any("attn" in n or "attention" in n for n, _ in module.named_modules()):
        return [m for n, m in layers if not n.endswith(("fc1", "intermediate.dense", "gate_proj", "up_proj"))]
    return [layers[-1][1]]


def _peer() -> bool:
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        return False
    return True


def rows(s: Subject, ratio: float, what: str, kinds: Sequence[str]) -> Iterator[Row]:
    """Every way of pruning."""
    if what == "stream":
        ways: dict[str, dict[str, Any]] = {"by its weights": {}, "by data": {"data": s.data.plain(16)}}
        for way, how in (ways | {"by invented inputs": {"data": NoData(examples=512)}}).items():
            yield way, partial(ours, s, ratio, ["residual"], how)
        return
    spaces = HEADS if what == "heads" else None
    found = [] if spaces is None else [p for p in spaces if _has(s, p)]
    yield "merged where nearest", partial(ours, s, ratio, found or None, {})
    for kind in kinds:
        for fate in ("dropped", "fused"):
            how = {"importance": kind, "drop": fate == "dropped"}
            yield f"{kind}, {fate}", partial(ours, s, ratio, found or None, how)
        if what == "units" and _peer():
            yield f"Torch-Pruning, {kind}", partial(theirs, s, ratio, kind)


def _has(s: Subject, pattern: str) -> bool:
    names = [x.name for x in symgraph.infer(s.model).active]
    return any(n.endswith(pattern.removeprefix("*")) for n in names)


def told(s: Subject, way: str, make: Callable[[], nn.Module], options: argparse.Namespace) -> None:
    """Prunes, measures, and prints a line."""
    try:
        taken, made = seconds(make)
    except Exception as error:
        print(f"  {way:<22} fails: {' '.join(str(error).split())[:100]}", flush=True)
        return
    figures = {"as it is": score(made, s.data.measured)}
    if any(n.endswith("running_var") for n, _ in made.named_buffers()):
        again = copy.deepcopy(made)
        again.load_state_dict(symgraph.recalibrated(made, made.state_dict(), s.data.plain(10)))
        figures["recalibrated"] = score(again, s.data.measured)
    if options.steps:
        tuned = trained(made, s.data, options.steps / len(s.data), s.rate)
        figures["tuned"] = score(tuned, s.data.measured)
    size = sum(p.numel() for p in made.parameters()) / sum(p.numel() for p in s.model.module.parameters())
    line = "  ".join(f"{when} {loss:.3f} {right:.2%}" for when, (loss, right) in figures.items())
    print(f"  {way:<22} {size:4.0%} of the parameters  {line}  {taken:.1f} s", flush=True)


def one_by_one(s: Subject, ratio: float, options: argparse.Namespace) -> None:
    """Each space of units alone: what is left without any data."""
    for fold in symgraph.prune(s.model, ratio=ratio).reduction.spaces:
        print(f" {fold.name} ({fold.before})", flush=True)
        for way, how in (("dropped", {"drop": True}), ("fused", {})):
            make = partial(ours, s, ratio, [fold.name], {"importance": "l1", **how})
            told(s, f"l1, {way}", make, argparse.Namespace(steps=0))


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    s = subject(name, folder, options.kept, validation=options.validation)
    del s.data.measured[options.batches :]
    loss, right = score(s.model.module, s.data.measured)
    print(f"{name}: loss {loss:.3f}, accuracy {right:.2%}, {len(s.data.measured)} batches", flush=True)
    for what in options.what:
        for ratio in options.ratios:
            print(f" {what}, {ratio:.0%}", flush=True)
            if what == "one":
                one_by_one(s, ratio, options)
                continue
            for way, make in rows(s, ratio, what, options.importance):
                told(s, way, make, options)


def split(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Two networks of half the data each: pruned and merged, merged and pruned; beside one of all data, and a half."""
    data = images(folder, validation=options.validation)
    del data.measured[options.batches :]
    halves = [
        as_model(name, network(name, data.half(i), options.kept, seed=i + 1, part="-half", epochs=HALVES))
        for i in (0, 1)
    ]
    whole = as_model(name, network(name, data, options.kept))
    batches = data.plain(10)
    for label, model in (("all data", whole), ("half of it", halves[0])):
        print(f"{name}, {label}: accuracy {score(model.module, data.measured)[1]:.2%}", flush=True)

    def merged(models: Sequence[symgraph.Model]) -> symgraph.Model:
        made = copy.deepcopy(models[0].module)
        made.load_state_dict(symgraph.merge(list(models), recalibrate=batches).state)
        return as_model(name, made)

    def pruned(model: symgraph.Model, ratio: float) -> symgraph.Model:
        return as_model(name, symgraph.prune(model, ratio=ratio, recalibrate=batches).module)

    for ratio in options.ratios:
        print(f" {ratio:.0%}", flush=True)
        ways: dict[str, Callable[[], symgraph.Model]] = {
            "all data, pruned": lambda r=ratio: pruned(whole, r),  # type: ignore[misc]
            "half, pruned": lambda r=ratio: pruned(halves[0], r),  # type: ignore[misc]
            "prune and fuse": lambda r=ratio: merged([pruned(m, r) for m in halves]),  # type: ignore[misc]
            "fuse and prune": lambda r=ratio: pruned(merged(halves), r),  # type: ignore[misc]
        }
        for way, make in ways.items():
            s = Subject(name, whole, data, NETWORKS[name].rate / 10)
            told(s, way, lambda m=make: m().module, options)  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--what", nargs="+", default=["units"], choices=["units", "one", "heads", "stream"])
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.2, 0.4, 0.6])
    parser.add_argument("--importance", nargs="+", default=["l1"], choices=["l1", "l2", "lamp", "taylor"])
    parser.add_argument("--steps", type=int, default=60, help="of the fine-tuning")
    parser.add_argument("--batches", type=int, default=None, help="of what is measured on (default: all)")
    parser.add_argument("--kept", type=Path, default=Path("networks"), help="where trained networks are kept")
    parser.add_argument("--split", action="store_true", help="networks of half the data each")
    parser.add_argument("--validation", action="store_true", help="measure on a part of the training split")
    options = parser.parse_args()
    folder = zoo()
    if folder is None:
        print("prune: set SYMGRAPH_ZOO to a folder of trained pairs")
        return
    with one_thread():
        for name in options.names:
            (split if options.split else measure)(name, folder, options)


if __name__ == "__main__":
    main()
