"""Peers and symgraph side by side, in one run on one thread: process time, memory, distance, loss barrier.

    python tests/benchmarks/bench_peers.py [align] [graph] [merge] [--packages FOLDER] [--repetitions 3] [--epochs 15]

align   two MLPs, two CNNs and two ResNet-20s, trained here from two seeds on scikit-learn's handwritten digits, the
        second of each brought to the first: `rebasin` (git re-basin), `sinkhorn-rebasin` (its distance loss),
        layerwise optimal transport by POT (Singh and Jaggi 2020; chains of layers), and `symgraph.align` by weights
graph   Torch-Pruning's dependency graph beside trace and inference, the first and the second time
merge   mergekit and `symgraph merge --no-align` of two checkpoints of a small Llama, with random weights in bfloat16

Peers are installed into the folder from the package index where it lacks them; one that cannot be had is said. The
times of `align` are medians of the calls after a first one, memory is the peak of these over what was held before.
The barrier is that of 450 images that training has not seen, at 11 points, over the line between the losses of A and of
B as they were trained: what a peer changes of B's function counts. Statistics of batch norms are interpolated and, in
brackets, computed anew on training images; those of a B that has lost its own are computed anew in any case.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import logging
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_checkpoints import save
from bench_memory import forget_peak, resident, warm_up
from measure import Batch, one_thread, seconds
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.utils.logging import disable_progress_bar

import symgraph
from symgraph.cli import main as command_line

HERE = Path(__file__).parent
PACKAGES = HERE / "peer_packages.txt"
# Both of these are imported as `rebasin`.
APART = "sinkhorn-rebasin==0.0.2"
TRAINING, HELD_OUT = 1347, 450
SINKHORN_STEPS = 200
# Seconds beyond which one call is enough.
SLOW = 5.0


# -- packages --------------------------------------------------------------------------------------------------------


def install(folder: Path) -> None:
    """Puts the peers into a folder, each by itself, so that one that cannot be had leaves the others."""
    lines = [line for line in PACKAGES.read_text().splitlines() if line and not line.startswith("#")]
    for package, place in [*((line, folder) for line in lines), (APART, folder / "sinkhorn")]:
        mark = place / f".{package}"
        if mark.exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        if subprocess.run([*pip, "--target", str(place), package], check=False).returncode == 0:
            mark.touch()
        else:
            print(f"    {package} could not be installed", flush=True)
    sys.path.append(str(folder))


@cache
def git_rebasin() -> Any:
    return importlib.import_module("rebasin").PermutationCoordinateDescent


@cache
def sinkhorn(folder: Path) -> tuple[Any, Any]:
    """The other package of that name, from its own folder."""
    mine = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "rebasin"}
    for name in mine:
        del sys.modules[name]
    sys.path.insert(0, str(folder / "sinkhorn"))
    try:
        return importlib.import_module("rebasin").RebasinNet, importlib.import_module("rebasin.loss").DistL2Loss
    finally:
        sys.path.remove(str(folder / "sinkhorn"))
        for name in [n for n in sys.modules if n.partition(".")[0] == "rebasin"]:
            del sys.modules[name]
        sys.modules.update(mine)


# -- networks --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inside = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inside)) + self.short(x))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def cnn() -> nn.Module:
    layers: list[nn.Module] = []
    before = 1
    for width in (32, 64, 128):
        layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
        before = width
    return nn.Sequential(*layers[:4], nn.MaxPool2d(2), *layers[4:], nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 10))


def resnet20() -> nn.Module:
    """Three stages of three blocks, of width 16, 32 and 64."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width in (16, 32, 64):
        for number in range(3):
            layers.append(Block(before, width, 2 if number == 0 and width > 16 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"MLP": mlp, "CNN": cnn, "ResNet-20": resnet20}


@cache
def digits() -> tuple[list[Batch], list[Batch]]:
    """Handwritten digits, (N, 1, 8, 8) in [-1, 1], in batches: for training, and held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    x, y = torch.from_numpy(images).float().view(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)
    made = [{"input": x[i], "labels": y[i]} for i in torch.split(chosen[:TRAINING], 64)]
    return made, [{"input": x[i], "labels": y[i]} for i in torch.split(chosen[TRAINING:], 150)]


def trained(make: Callable[[], nn.Module], seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    network, (data, _) = make().train(), digits()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=epochs * len(data))
    for _ in range(epochs):
        for i in torch.randperm(len(data)).tolist():
            optimiser.zero_grad()
            torch.autograd.backward(cross_entropy(network(data[i]["input"]), data[i]["labels"]))
            optimiser.step()
            schedule.step()
    return network.eval()


# -- ways of bringing one to the other -------------------------------------------------------------------------------


def by_symgraph(a: nn.Module, b: nn.Module, x: Tensor) -> nn.Module:
    return symgraph.align(a, b, x).module


def by_git_rebasin(a: nn.Module, b: nn.Module, x: Tensor) -> nn.Module:
    made = copy.deepcopy(b)
    torch.manual_seed(0)
    git_rebasin()(a, made, x).rebasin()
    return made


def by_sinkhorn(folder: Path, a: nn.Module, b: nn.Module, x: Tensor) -> nn.Module:
    """Descent on the distance of all parameters, as the package's example of alignment has it."""
    network, loss = sinkhorn(folder)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = network(copy.deepcopy(b), input_shape=tuple(x.shape))
    found.identity_init()
    found.train()
    distance = loss(copy.deepcopy(a))
    optimiser = torch.optim.AdamW(found.p.parameters(), lr=0.1)
    for _ in range(SINKHORN_STEPS):
        optimiser.zero_grad()
        torch.autograd.backward(distance(found()))
        optimiser.step()
    found.eval()
    made: nn.Module = copy.deepcopy(found())
    return made.eval()


def by_transport(a: nn.Module, b: nn.Module, x: Tensor) -> nn.Module:
    """Layers of B one after the other by optimal transport of their units, at the transport of those before."""
    import ot

    made, before = copy.deepcopy(b), None
    layers = [m for m in made.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    like = [m for m in a.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if any(isinstance(m, Block) for m in made.modules()):
        raise RuntimeError("chains of layers only")
    with torch.no_grad():
        for one, other in zip(like, layers, strict=True):
            weight = other.weight.data
            if before is not None:
                parts = torch.unflatten(weight, 1, (len(before), -1))
                other.weight.data = torch.einsum("oi...,ij->oj...", parts, before).reshape(weight.shape)
            if other is layers[-1]:
                break
            rows, wanted = (torch.cat([m.weight.flatten(1), _bias(m)[:, None]], 1).double() for m in (other, one))
            mass = np.full(len(rows), 1 / len(rows))
            plan = torch.from_numpy(ot.emd(mass, mass, torch.cdist(rows, wanted).numpy())).float() * len(mass)
            before = plan
            other.weight.data = torch.einsum("oj,o...->j...", plan, other.weight.data)
            _bias(other).copy_(plan.T @ _bias(other))
    return made


def _bias(layer: nn.Linear | nn.Conv2d) -> Tensor:
    if layer.bias is None:
        raise RuntimeError("layers with biases only")
    return layer.bias


def ways(folder: Path) -> dict[str, Callable[[nn.Module, nn.Module, Tensor], nn.Module]]:
    return {
        "git re-basin (rebasin)": by_git_rebasin,
        f"sinkhorn-rebasin, {SINKHORN_STEPS} steps": partial(by_sinkhorn, folder),
        "layerwise transport (POT)": by_transport,
        "symgraph": by_symgraph,
    }


@dataclass(frozen=True)
class Row:
    """What one way makes of a pair: seconds, MiB, relative distance of all parameters, barriers.

    `change` is that of the loss of B, which none of them should change.
    """

    taken: float
    memory: float
    distance: float
    change: float
    barrier: float
    recalibrated: float | None

    def __str__(self) -> str:
        anew = "" if self.recalibrated is None else f" ({self.recalibrated:.3f})"
        return (
            f"{self.taken:.2f} s | {self.memory:.0f} MiB | distance {self.distance:.3f} | "
            f"change of B's loss {self.change:.3f} | barrier {self.barrier:.3f}{anew}"
        )


def distance(a: nn.Module, b: nn.Module) -> float:
    """|A - B| / |A| over all parameters."""
    pairs = [(p.detach().double(), q.detach().double()) for p, q in zip(a.parameters(), b.parameters(), strict=True)]
    apart = sum(float((p - q).square().sum()) for p, q in pairs)
    return math.sqrt(apart / sum(float(p.square().sum()) for p, _ in pairs))


@torch.no_grad()
def loss_of(network: nn.Module, batches: Sequence[Batch]) -> float:
    """The mean loss over all examples."""
    total, count = 0.0, 0
    for batch in batches:
        total += float(cross_entropy(network(batch["input"]), batch["labels"], reduction="sum"))
        count += len(batch["labels"])
    return total / count


def measured(a: nn.Module, b: nn.Module, made: nn.Module, taken: float = 0.0, memory: float = 0.0) -> Row:
    """The figures of what a way has made of B; what it loses of B's function counts in the barrier."""
    training, test = digits()
    stored = any(n.endswith("running_var") for n, _ in a.named_buffers())
    ends = [loss_of(m, test) for m in (a, b, made)]
    if stored and abs(ends[2] - ends[1]) > 1e-3:
        # It does not move statistics, and they are to be computed anew.
        made = copy.deepcopy(made)
        made.load_state_dict(symgraph.recalibrated(made, made.state_dict(), training[:16]))
    heights = []
    for recalibrate in (None, training[:16])[: 1 + stored]:
        curve = symgraph.loss_barrier(a, made, test, module=a, loss=cross_entropy, recalibrate=recalibrate).loss
        chord = [(1 - at) * ends[0] + at * ends[1] for at in np.linspace(0, 1, len(curve.values))]
        heights.append(max(float(v) - c for v, c in zip(curve.values, chord, strict=True)))
        change = float(curve.values[-1]) - ends[1]
    return Row(taken, memory, distance(a, made), change, heights[0], heights[1] if stored else None)


def timed(way: Callable[..., nn.Module], a: nn.Module, b: nn.Module, repetitions: int) -> Row:
    """A first call, and the median and peak of further ones; where it takes long the first stands for them."""
    x = digits()[1][0]["input"][:2]
    forget_peak()
    held = resident("VmRSS")
    taken, made = seconds(partial(way, a, b, x))
    if taken < SLOW:
        forget_peak()
        held = resident("VmRSS")
        taken = median(seconds(partial(way, a, b, x))[0] for _ in range(repetitions))
    return measured(a, b, made, taken, resident("VmHWM") - held)


def align(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for network, make in NETWORKS.items():
        a, b = (trained(make, seed, options.epochs) for seed in (0, 1))
        rows = found[network] = {"as trained": measured(a, b, b)}
        print(f"{network}, as trained: {rows['as trained']}", flush=True)
        for name, way in ways(folder).items():
            with said(f"    {name}"):
                rows[name] = timed(way, a, b, options.repetitions)
                print(f"    {name}: {rows[name]}", flush=True)
    return found


@contextmanager
def said(name: str) -> Iterator[None]:
    """Whatever a peer raises is a line of the table."""
    try:
        yield
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}", flush=True)


# -- graphs ----------------------------------------------------------------------------------------------------------


def transformers_models() -> Iterator[tuple[str, nn.Module, Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification
    from transformers import ResNetConfig as Stages
    from transformers import ResNetForImageClassification as ResNet

    stages: dict[str, Any] = {"hidden_sizes": [16, 32, 64], "depths": [3, 3, 3], "layer_type": "basic"}
    images = torch.randn(1, 3, 32, 32)
    yield "transformers' ResNet-20", ResNet(Stages(embedding_size=16, **stages)), images
    vit: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512, "image_size": 32}
    yield "ViT, 12 layers", ViTForImageClassification(ViTConfig(**vit, patch_size=4)), images
    gpt: dict[str, Any] = {"n_embd": 128, "n_head": 4, "vocab_size": 512, "bos_token_id": 0, "eos_token_id": 0}
    yield "GPT-2, 12 layers", GPT2LMHeadModel(GPT2Config(**gpt, use_cache=False)), torch.zeros(1, 8, dtype=torch.long)


def graph(repetitions: int) -> dict[str, tuple[float, ...]]:
    """Seconds of the peer's graph, of our trace and of our inference: the first time, then medians of further ones."""
    own = [(name, make(), torch.randn(1, 1, 8, 8)) for name, make in NETWORKS.items()]
    found = {}
    for name, network, x in [*own, *transformers_models()]:
        network.eval()
        runs = [_graphs(network, x) for _ in range(repetitions + 1)]
        (first, trace, infer), again = runs[0], [median(times) for times in zip(*runs[1:], strict=True)]
        found[name] = (*runs[0], *again)
        print(
            f"{name}: first {first:.3f} s against {trace:.3f} + {infer:.3f} s; again {again[0]:.4f} s against "
            f"{again[1]:.4f} + {again[2]:.4f} s, ratio {sum(again[1:]) / again[0]:.1f}",
            flush=True,
        )
    return found


def _graphs(network: nn.Module, x: Tensor) -> tuple[float, float, float]:
    given = () if hasattr(network, "config") else (x,)
    theirs, _ = seconds(partial(_dependencies, network, x))
    trace, traced = seconds(partial(symgraph.trace, network, *given))
    return theirs, trace, seconds(partial(symgraph.infer, traced))[0]


def _dependencies(network: nn.Module, x: Tensor) -> Any:
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(network, example_inputs=x)


# -- merges ----------------------------------------------------------------------------------------------------------


def by_mergekit(folder: Path) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    models = [{"model": str(folder / name), "parameters": {"weight": 0.5}} for name in ("a", "b")]
    recipe = {"merge_method": "linear", "models": models, "dtype": "bfloat16"}
    quiet: dict[str, Any] = {"copy_tokenizer": False, "lazy_unpickle": True, "quiet": True}
    run_merge(MergeConfiguration.model_validate(recipe), str(folder / "mergekit"), options=MergeOptions(**quiet))


def by_command(folder: Path) -> None:
    given = ["merge", str(folder / "a"), str(folder / "b"), "--weights", "0.5", "0.5", "--no-align", "--quiet"]
    with redirect_stdout(StringIO()):
        code = command_line([*given, "--out", str(folder / "symgraph"), "--overwrite"])
    if code:
        raise RuntimeError("symgraph merge failed")


def merge(repetitions: int) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of a linear merge."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for seed, name in enumerate("ab"):
            save(folder / name, seed, 512, 10, 8000)
        for name, way in {"mergekit": by_mergekit, "symgraph": by_command}.items():
            with said(name):
                way(folder)
                forget_peak()
                held = resident("VmRSS")
                taken = median(seconds(partial(way, folder))[0] for _ in range(repetitions))
                found[name] = taken, resident("VmHWM") - held
                print(f"{name}: {taken:.2f} s, {found[name][1]:.0f} MiB", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["align", "graph", "merge"])
    parser.add_argument("--packages", type=Path, default=Path("build/peers"), help="a folder for the peers")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args(arguments)
    install(options.packages.resolve())
    logging.disable(logging.WARNING)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    warm_up()
    with one_thread():
        if "align" in options.parts:
            align(options.packages.resolve(), options)
        if "graph" in options.parts:
            with said("Torch-Pruning"):
                graph(options.repetitions)
        if "merge" in options.parts:
            merge(options.repetitions)


if __name__ == "__main__":
    main()
