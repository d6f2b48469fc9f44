"""Models by their names, an adapter on its base among them: the folder of one, or BASE+ADAPTER."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from symgraph.errors import CheckpointError
from symgraph.io.adapters import CONFIG, config_of, is_adapter, read_adapter
from symgraph.io.files import existing
from symgraph.io.models import Model, load


def load_named(spec: str | Path, *, weights: bool = True, deferred: bool = False, **how: Any) -> Model:
    """The model that `spec` names, as `symgraph.io.models.load`; where that is an adapter, its base with it added.

    An adapter is named by its folder, whose configuration says what its base is, or after its base, BASE+ADAPTER.

    Raises:
        CheckpointError: as for `load`; or it fits no module of its base, or nothing says what that is.
        UsageError: it is of a kind that has no two factors, or PEFT is not installed.
    """
    base, adapter = parts_of(str(spec))
    if adapter is None:
        return load(spec, weights=weights, deferred=deferred, **how)
    try:
        model = load(base, weights=weights, **how)
    except CheckpointError as error:
        remedy = f"name it before the adapter: BASE+{adapter}"
        raise CheckpointError(f"the base of {adapter} cannot be read", cause=error.what, remedy=remedy) from error
    return _added(model, adapter, str(spec)) if weights else replace(model, spec=str(spec))


def refuse_alone(*specs: str | Path) -> None:
    """Raise where what is to be aligned is named by an adapter's folder alone: it would come back as a whole model.

    Raises:
        CheckpointError: with the command that carries an adapter, and the name of its base with it added.
    """
    for spec in map(str, specs):
        base, adapter = parts_of(spec)
        if adapter == spec:
            carried = f"symgraph transport --base {base} --tuned {spec} --to A` carries the adapter at its rank"
            remedy = f"`{carried}, and {base}+{spec} is its base with it added"
            cause = "aligned it would be a whole model, and no adapter any more"
            raise CheckpointError(f"{spec} is an adapter, not a model", cause=cause, remedy=remedy)


def parts_of(spec: str) -> tuple[str, str | None]:
    """The base and the adapter that a name means; the name and None where it means no adapter."""
    if is_adapter(spec) and not (Path(spec) / "config.json").exists():
        return _base_of(Path(spec)), spec
    base, plus, adapter = spec.rpartition("+")
    if not plus or existing(spec) is not None:
        return spec, None
    if is_adapter(adapter):
        return base, adapter
    if existing(base) is not None:
        remedy = f"name a folder with {CONFIG} after the +"
        raise CheckpointError(f"{adapter} is no adapter", cause="no such folder holds one", remedy=remedy)
    return spec, None


def _base_of(folder: Path) -> str:
    base = config_of(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        remedy = f"name it before the adapter: BASE+{folder}"
        raise CheckpointError(f"{folder} does not say what its base is", remedy=remedy)
    return base


def _added(base: Model, adapter: str, spec: str) -> Model:
    """A model that was just read, with an adapter added to its parameters."""
    parameters = dict(base.module.named_parameters())
    for name, delta in read_adapter(adapter, base).deltas.items():
        held = parameters[name]
        held.data = (held.data.double() + delta).to(held.dtype)
    # What its files keep are weights without it.
    kept = [file for file in base.files if file.name == "config.json"]
    return replace(base, spec=spec, files=(*kept, Path(adapter) / CONFIG))
