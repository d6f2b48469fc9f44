"""What llm-compressor has to be told about a model so that its rotations keep the function: a recipe in YAML.

Its `SpinQuantModifier` fuses block-wise Hadamard matrices into modules by name. A recipe names them all: without one
the names of Llama are taken for every model, and tables are centred, which changes what is behind an RMS norm.

Source: llm-compressor 0.14, compressed-tensors 0.19: SpinQuantModifier, TransformConfig.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import yaml
from torch import nn

from symgraph.groups.class_names import SymmetryClass
from symgraph.match.module_places import Places
from symgraph.match.module_roles import Names, Roles
from symgraph.match.name_patterns import pattern, patterns

VERSION = "llm-compressor 0.14"
_HEAD = """\
# {version}: {what}
# Made from the symmetries of the model; `oneshot(model=..., recipe=THIS_FILE)` applies it.
# transform_config is what rotates, norm_mappings which gains go into which maps first. mappings.embedding matches
# nothing: what it names would be centred, and behind RMS norms that changes the function. The tool unties embeddings.
"""


def obstacles(module: nn.Module, found: Places) -> tuple[str, ...]:
    """Why the tool cannot rotate a space, or would change the function."""
    whole = SymmetryClass.ORTHOGONAL in found.space.bound
    keeps = () if whole else ("its rotations have to keep the mean of a layer norm, and Hadamard matrices do not",)
    small = () if found.block > 1 else (f"no Hadamard matrix divides its {found.space.size} entries",)
    others = tuple(f"{name} is no weight or bias of a Linear or an Embedding" for name in found.others)
    parts = tuple(f"only a part of {name} belongs to it" for name in found.parts)
    return (*keeps, *small, *found.stuck, *others, *parts, *_own_kinds(module, found))


def _own_kinds(module: nn.Module, found: Places) -> Iterator[str]:
    """Modules that do more than torch's own, which the tool does not take."""
    for name in (*found.tables, *found.writers, *found.readers):
        kind = type(module.get_submodule(name))
        if kind not in (nn.Linear, nn.Embedding):
            yield f"{name} is a {kind.__name__}, and no Linear or Embedding of torch itself"


def recipe(module: nn.Module, turned: Sequence[Places], roles: Roles, what: str) -> str:
    """The recipe that rotates these spaces, the first of which is R1 if it is a stream."""
    return _HEAD.format(version=VERSION, what=what) + yaml.safe_dump(_plain(module, turned, roles), sort_keys=False)


def _plain(module: nn.Module, turned: Sequence[Places], roles: Roles) -> dict[str, Any]:
    names = [name for name, _ in module.named_modules()]
    groups: dict[str, dict[str, Any]] = {}
    for found in turned:
        groups.setdefault(_label(found), {"block": found.block, "places": []})["places"].append(found)
    norms = {place.norm: list(place.readers) for found in turned for place in found.norms}
    modifier = {
        "rotations": sorted({label[:2] for label in groups}),
        "transform_type": "hadamard",
        "mappings": {k: _said(v, names) for k, v in _mapping(roles).items()},
        "norm_mappings": [{"norm": norm, "linears": readers} for norm, readers in norms.items()],
        "transform_config": {"config_groups": {k: _scheme(**group, names=names) for k, group in groups.items()}},
    }
    return {"transform_stage": {"transform_modifiers": {"SpinQuantModifier": modifier}}}


def _mapping(roles: Roles) -> dict[str, Names | list[Names]]:
    """The parts of modules under the tool's names, but for the tables, which it would centre."""
    attention = tuple(dict.fromkeys(name.rpartition(".")[0] for name in roles.out))
    return {
        "embedding": (),
        "attn": attention,
        "attn_q": roles.query,
        "attn_k": roles.key,
        "attn_v": roles.value,
        "attn_o": roles.out,
        "mlp_in": [roles.mlp_in],
        "mlp_out": [roles.mlp_out],
        "lm_head": roles.head,
    }


def _label(found: Places) -> str:
    """R1 for what is no part of a head, R2 inside of heads; one group for each size of block."""
    return f"R{2 if found.space.fibre else 1}_{found.block}"


def _said(names: Names | list[Names], among: Sequence[str]) -> str | list[str]:
    """Names as the tool takes them: one text, or a list where it takes several."""
    if isinstance(names, list):
        return _listed([name for some in names for name in some], among)
    return f"re:({pattern(names, among)})$"


def _listed(names: Collection[str], among: Sequence[str]) -> list[str]:
    return [f"re:{one}$" for one in patterns(names, among)]


def _scheme(block: int, places: Sequence[Places], names: Sequence[str]) -> dict[str, Any]:
    written = {name: None for found in places for name in (*found.tables, *found.writers)}
    read = {name: None for found in places for name in found.readers}
    apply = [
        {"targets": _listed(written, names), "location": "weight_output"},
        {"targets": _listed(read, names), "location": "weight_input", "inverse": True},
    ]
    return {"type": "hadamard", "head_dim": block, "apply": apply}
