"""The demo: two small vision transformers on scikit-learn's handwritten digits, aligned, measured and written.

Everything is real: the networks are trained here from two seeds, and every figure is of images that neither has seen.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symgraph import api
from symgraph.cli.console import Console
from symgraph.io import checkpoint, data
from symgraph.io.checkpoint import module_hash
from symgraph.io.files import OutputError, atomic_dir, refuse_existing, write_text
from symgraph.io.models import Model
from symgraph.io.shown import in_columns
from symgraph.match.align import align
from symgraph.match.aligned import Aligned, write_aligned
from symgraph.match.cards import Card, Ingredient
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.mixture import interpolate
from symgraph.measure.plots import barrier_plot
from symgraph.measure.result import LossBarrier
from symgraph.prove.verify import Verification
from symgraph.tracing import state_of
from symgraph.tracing.progress import tell

_log = logging.getLogger(__name__)

FOLDER = "symgraph-demo"
MARKER = "demo.json"
DATA = "symgraph.cli.demo_run:held_out"
_HELD_OUT = 360
_VALIDATION = 180
_BATCH = 120
# So many times over the images, each time with other noise.
_PASSES = 15


@dataclass(frozen=True, slots=True)
class Settings:
    """Shape and training of the two networks, and how their alignment is learned: for so many steps, and on images
    with noise of this size, which keep it from learning the images by heart."""

    width: int = 64
    hidden: int = 256
    layers: int = 2
    heads: int = 4
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    learned_steps: int = 300
    noise: float = 0.2


@dataclass(frozen=True, slots=True)
class Demo:
    """What a run found, and where it is: as trained, matched by weights, and learned from there."""

    folder: Path
    verified: float
    distances: tuple[float, float]
    before: LossBarrier
    matched: LossBarrier
    learned: LossBarrier
    seconds: float

    def to_plain(self) -> dict[str, Any]:
        """The run as plain data."""
        measured = {"before": self.before, "matched": self.matched, "learned": self.learned}
        return {
            "symgraph-demo": 1,
            "folder": str(self.folder),
            "largest_relative_change": self.verified,
            "distance": dict(zip(("before", "after"), self.distances, strict=True)),
            "loss_barrier": {when: r.to_plain() for when, r in measured.items()},
            "seconds": round(self.seconds, 1),
        }

    def __str__(self) -> str:
        ways = _ways(self.before, self.matched, self.learned)
        return "\n".join([_measures(ways), "", _contents(self.folder), "", _next(self.folder)])


def run(
    out: str | Path | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
    console: Console | None = None,
    settings: Settings | None = None,
) -> Demo:
    """Trains, infers, verifies, aligns, measures and writes.

    Args:
        out: the folder to write; by default the first of symgraph-demo, symgraph-demo-2, ... that does not exist.
        seed: of the first network; the second has the next.
        overwrite: replace `out` if an earlier demo wrote it; any other folder is left alone.

    Raises:
        OutputError: `out` exists or cannot be written.
        VerifyError: an inferred symmetry does not hold.
    """
    console, settings = console or Console(quiet=True), settings or Settings()
    folder = _folder(out, overwrite)
    with _one_thread():
        found, aligned = _compute(folder, seed, settings, console)
    with atomic_dir(folder, overwrite) as temporary:
        _write(found, aligned, temporary, f"symgraph demo --seed {seed}", settings)
    return found


def _compute(folder: Path, seed: int, settings: Settings, console: Console) -> tuple[Demo, Aligned]:
    start = time.monotonic()
    images = f"{len(_training())} handwritten digits"
    console.say(f"training two vision transformers on {images}, seeds {seed} and {seed + 1}")
    a, b = (_trained(name, s, settings, console) for name, s in (("a", seed), ("b", seed + 1)))
    proof = _inspect(a, console)
    with console.working("aligning b to a"):
        aligned = align(a, b)
    console.say(f"\naligned b to a: {aligned}\n")
    with console.working("learning the rest of the way"):
        learned = _learned(a, b, settings)
    before, matched, after = _measured(aligned, learned, console)
    distances = (aligned.before, aligned.after)
    seconds = time.monotonic() - start
    return Demo(folder, proof.together, distances, before, matched, after, seconds), learned


def _learned(a: Model, b: Model, settings: Settings) -> Aligned:
    """Both models moved down the loss between them, on the images that they were trained on."""
    images, labels = _digits()
    generator = torch.Generator().manual_seed(0)
    noise = settings.noise * torch.randn((_PASSES, *images.shape), generator=generator)
    training = [
        {"pixel_values": images[i] + noise[number][i], "labels": labels[i]}
        for number in range(_PASSES)
        for i in torch.split(_training(), settings.batch)
    ]
    chosen = _order()[_HELD_OUT : _HELD_OUT + _VALIDATION]
    validation = [{"pixel_values": images[chosen], "labels": labels[chosen]}]
    options = {"steps": settings.learned_steps, "dual": True, "gauge": True}
    how: dict[str, Any] = {"data": training, "validation": validation, "dtype": torch.float32}
    return align(a, b, method="learned", learning=options, **how)


def held_out() -> list[dict[str, Tensor]]:
    """The images that the demo's networks have not seen, in batches: `--data symgraph.cli.demo_run:held_out`.

    Shapes: pixel_values (N, 1, 8, 8) in [-1, 1], labels (N,).
    """
    images, labels = _digits()
    chosen = _order()[:_HELD_OUT]
    return [{"pixel_values": images[i], "labels": labels[i]} for i in torch.split(chosen, _BATCH)]


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)


def _order() -> Tensor:
    return torch.randperm(len(_digits()[1]), generator=torch.Generator().manual_seed(0))


def _training() -> Tensor:
    """The images that both networks are trained on: all that are neither held out nor for validation."""
    return _order()[_HELD_OUT + _VALIDATION :]


# -- training ----------------------------------------------------------------------------------------------------------


def _trained(name: str, seed: int, settings: Settings, console: Console) -> Model:
    with torch.random.fork_rng(devices=[]), console.working(f"training {name}"):
        torch.manual_seed(seed)
        module = _network(settings)
        _train(module, seed, settings)
    return replace(api.model(module.eval()), spec=name)


@contextmanager
def _one_thread() -> Iterator[None]:
    # Matrices this small gain nothing from threads, and on a busy machine waiting for each other costs tenfold.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _network(settings: Settings) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    make: Any = ViTConfig
    config = make(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=settings.width,
        intermediate_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def _train(module: nn.Module, seed: int, settings: Settings) -> None:
    images, labels = _digits()
    chosen = _training()
    per_epoch = len(chosen) // settings.batch
    total = per_epoch * settings.epochs
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=total, pct_start=0.1)
    module.train()
    for epoch in range(settings.epochs):
        shuffled = chosen[torch.randperm(len(chosen), generator=generator)]
        for step, batch in enumerate(torch.split(shuffled, settings.batch)[:per_epoch]):
            loss = nn.functional.cross_entropy(module(pixel_values=images[batch]).logits, labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done = epoch * per_epoch + step + 1
            tell(_log, None, f"step {done} of {total}", done, total)


# -- the account -------------------------------------------------------------------------------------------------------


def _inspect(a: Model, console: Console) -> Verification:
    symmetry = api.infer(a)
    console.say(f"\n{symmetry}\n")
    with console.working("verifying"):
        proof = api.verify(a, symmetry=symmetry)
    proof.raise_if_failed()
    console.say(
        f"verified: random elements of all {len(proof.checks)} families, together and each alone, change the outputs "
        f"by at most {max(proof.together, *(c.error for c in proof.checks)):.0e} (relative, float64)"
    )
    return proof


def _measured(aligned: Aligned, learned: Aligned, console: Console) -> list[LossBarrier]:
    batches = data.load(DATA)
    module = aligned.a.module
    trained = (state_of(module), state_of(aligned.b.module))
    ends = (trained, *((found.reference, found.state) for found in (aligned, learned)))
    found = []
    with console.working("measuring"):
        for first, second in ends:
            found.append(loss_barrier(first, second, batches, module=module, metrics=["accuracy"]))
    return found


def _ways(*measured: LossBarrier) -> dict[str, LossBarrier]:
    return dict(zip(("as trained", "matched by weights", "learned"), measured, strict=True))


def _measures(ways: Mapping[str, LossBarrier]) -> str:
    rows = [["", *ways]]
    for name in ("loss", "accuracy"):
        curves = [r.loss if name == "loss" else r.metric(name) for r in ways.values()]
        rows.append([f"{name} of a, b", *(f"{c.values[0]:.3f}, {c.values[-1]:.3f}" for c in curves)])
        rows.append([f"{name} of their mean", *(f"{c.values[c.lambdas.index(0.5)]:.3f}" for c in curves)])
        rows.append([f"{name} barrier", *(f"{c.barrier:.3f} \u00b1 {c.standard_error:.3f}" for c in curves)])
    return f"on {next(iter(ways.values())).examples} held-out digits\n{in_columns(rows, indent=2)}"


def _contents(folder: Path) -> str:
    rows = [
        (
            "a, b, midpoint",
            "ordinary checkpoints: AutoModelForImageClassification.from_pretrained opens them",
        ),
        ("b-aligned, b-aligned-reference", "b, and a moved towards it: each computes what it computed"),
        ("barrier.png", "loss and accuracy on the line between the two, as trained, matched and learned"),
        ("alignment.safetensors", "the alignment of b, for `symgraph apply`"),
        ("program.yaml", "the steps that made it"),
        (MARKER, "all figures"),
    ]
    return f"written to {folder}\n{in_columns(rows, indent=2)}"


def _next(folder: Path) -> str:
    def at(name: str) -> str:
        return shlex.quote(str(folder / name))

    commands = [
        f"explain {at('a')} residual",
        f"barrier {at('b-aligned-reference')} {at('b-aligned')} --data {DATA} --metrics accuracy",
        f"merge {at('a')} {at('b')} --weights 0.5 0.5 --out {shlex.quote(f'{folder}-merged')}",
        "inspect YOUR-CHECKPOINT",
    ]
    return "\n".join(["try next", *(f"  {_program()} {c}" for c in commands)])


def _program() -> str:
    """How this program can be called from here: its name if that is on the path, else through its interpreter."""
    python, found = Path(sys.executable), shutil.which("symgraph")
    # Another installation of the same name may come first on the path.
    if found and Path(found).resolve().parent == python.parent.resolve():
        return "symgraph"
    here = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(os.fspath(here))} -m symgraph"


# -- files -------------------------------------------------------------------------------------------------------------


def _folder(out: str | Path | None, overwrite: bool) -> Path:
    if out is None:
        names = (FOLDER if i == 1 else f"{FOLDER}-{i}" for i in range(1, sys.maxsize))
        return next(p for p in map(Path, names) if not p.exists())
    folder = Path(out)
    refuse_existing(folder, overwrite, folder=True)
    if folder.exists() and not (folder / MARKER).exists():
        cause = f"it has no {MARKER}, so it is not the folder of an earlier demo"
        raise OutputError(f"{folder} is not replaced", cause=cause, remedy="choose another path")
    return folder


def _write(found: Demo, aligned: Aligned, folder: Path, command: str, settings: Settings) -> None:
    measured = _ways(found.before, found.matched, found.learned)
    for m in (aligned.a, aligned.b):
        checkpoint.write(m, m.module.state_dict(), folder / m.spec, card=str(_card(m, command, settings)))
    write_aligned(aligned, folder / "b-aligned", command=command, loss_barriers=tuple(measured.items()))
    state = interpolate([aligned.reference, aligned.state], (0.5, 0.5))
    checkpoint.write(aligned.a, state, folder / "midpoint", card=str(_midpoint(aligned, command, found)))
    aligned.alignment.save(folder / "alignment.safetensors")
    aligned.program.save(folder / "program.yaml")
    title = "Between two vision transformers trained from different seeds (held-out digits)"
    barrier_plot(measured, folder / "barrier.png", title=title)
    write_text(folder / MARKER, json.dumps({**found.to_plain(), "settings": asdict(settings)}, indent=2))


def _card(found: Model, command: str, settings: Settings) -> Card:
    return Card(
        title=f"Handwritten digits, network {found.spec}",
        about="A small vision transformer for scikit-learn's handwritten digits (8 x 8 pixels, scaled to [-1, 1]).",
        model=found,
        ingredients=(Ingredient("trained", found.spec, module_hash(found.module)),),
        method=f"trained with {', '.join(f'{k} {v}' for k, v in asdict(settings).items())}",
        command=command,
    )


def _midpoint(aligned: Aligned, command: str, found: Demo) -> Card:
    a, b = aligned.alignment.target, aligned.alignment.source
    return Card(
        title="Handwritten digits, midpoint of a and b aligned",
        about="The mean of the weights of two networks that were trained from different seeds.",
        model=aligned.a,
        ingredients=(Ingredient("reference", "a", a, 0.5), Ingredient("merged", "b", b, 0.5)),
        method="learned matching from weight matching on, both models moving, then the mean of the parameters",
        command=command,
        symmetry=aligned.alignment.symmetry,
        loss_barriers=tuple(_ways(found.before, found.matched, found.learned).items()),
    )
