"""mergekit, where it is installed: which methods it has beside ours, how it is called, and what it has written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from symgraph.errors import CheckpointError, shorten
from symgraph.io.models import Model, load
from symgraph.io.shards import Stored, stored_tensors

# The methods that only mergekit has, each with the parameters that it takes. Source: mergekit 0.1.5.
_DELTAS = ("weight", "density", "normalize", "rescale", "lambda", "int8_mask")
THEIRS: dict[str, tuple[str, ...]] = {
    "breadcrumbs": (*_DELTAS, "gamma"),
    "breadcrumbs_ties": (*_DELTAS, "gamma"),
    "della": (*_DELTAS, "epsilon"),
    "della_linear": (*_DELTAS, "epsilon"),
    "sce": ("select_topk", "int8_mask"),
    "nuslerp": ("weight", "nuslerp_row_wise", "nuslerp_flatten"),
    "multislerp": ("weight", "normalize_weights", "eps"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
    "arcee_fusion": (),
    "nearswap": ("t",),
    "ram": ("epsilon",),
    "ramplus_tl": ("r", "alpha", "epsilon"),
}
# Of them those that are not about differences from a base.
BASELESS = ("nuslerp", "multislerp", "karcher")
INSTALL = 'install it: pip install "symgraph[mergekit]"'


def command() -> list[str] | None:
    """How mergekit is called; None where it is not installed."""
    if program := shutil.which("mergekit-yaml"):
        return [program]
    return [sys.executable, "-m", "mergekit.scripts.run_yaml"] if find_spec("mergekit") else None


@dataclass(frozen=True, slots=True)
class Run:
    """A run of mergekit in a folder of its own, and what there must be in the end.

    `base` is the checkpoint whose tensors the result must have, each in `dtype`.
    """

    folder: Path
    base: Path
    dtype: torch.dtype

    def merge(self, recipe: Mapping[str, Any], seed: int, trusted: Mapping[str, Any]) -> Model:
        """Runs a recipe, and opens the result in the class of the base.

        Raises:
            CheckpointError: it failed, or a tensor is missing, of another shape or dtype, or not finite.
        """
        file, out = self.folder / "recipe.yaml", self.folder / "merged"
        file.write_text(yaml.safe_dump(dict(recipe), sort_keys=False), encoding="utf-8")
        options = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet", "--random-seed", str(seed)]
        options += ["--trust-remote-code"] if trusted.get("trust_remote_code") else []
        # All models are in folders: nothing is to be fetched.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        called = [*(command() or ()), str(file), str(out), *options]
        done = subprocess.run(called, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it does not say why")
            remedy = "change the recipe as it says, or take a method that symgraph has; nothing was written"
            raise CheckpointError("mergekit could not run the recipe", cause=last.strip()[:300], remedy=remedy)
        return self._opened(out, trusted)

    def _opened(self, out: Path, trusted: Mapping[str, Any]) -> Model:
        written = stored_tensors(sorted(out.glob("*.safetensors")))
        # Its own config is not asked: what it wrote has to be a model of this one.
        out.mkdir(exist_ok=True)
        shutil.copyfile(self.base / "config.json", out / "config.json")
        try:
            merged = load(out, **trusted)
        except CheckpointError as error:
            raise self._refused(self._missing(written) or error.cause or error.what) from error
        if other := [
            name for name, stored in written.items() if stored.dtype.is_floating_point and stored.dtype != self.dtype
        ]:
            raise self._refused(f"not {self.dtype}, as was asked for: {shorten(other)}")
        return merged

    def _missing(self, written: Mapping[str, Stored]) -> str:
        wanted = stored_tensors(sorted(self.base.glob("*.safetensors")))
        missing = sorted(wanted.keys() - written.keys())
        return f"{len(missing)} of {len(wanted)} tensors are missing: {', '.join(missing)}" if missing else ""

    def _refused(self, cause: str) -> CheckpointError:
        remedy = "take a method that symgraph has, which needs no mergekit; nothing was written"
        return CheckpointError("what mergekit has written is not the merge", cause=cause, remedy=remedy)
