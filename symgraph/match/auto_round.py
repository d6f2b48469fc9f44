"""What auto-round has to be told about a model so that its rotations keep the function: a mapping in Python.

Its in-place backend describes a model by one list of names that holds in every layer, and then does all at once: it
unties tables, takes gains (and shifts and means of layer norms) into linear maps, turns the stream, and hooks modules
by the ends of their names. A model that is not quite of this form is refused: the tool would change it silently.

Source: auto-round 0.16: RotationMapping, apply_rotation_transform.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from math import gcd
from pprint import pformat
from typing import Any

from torch import nn

from symgraph.groups.class_names import SymmetryClass
from symgraph.match.module_places import Places
from symgraph.match.module_roles import Roles

VERSION = "auto-round 0.16"
_TEXT = '''\
"""{version}: {what}

Made from the symmetries of the model. Import this module, then give ROTATION to AutoRound as its `rotation_config`.
"""

from auto_round.algorithms.transforms.hadamard.inplace.model_config import RotationMapping, register_mapping

MAPPING = RotationMapping(
{fields}
)
register_mapping({key!r}, MAPPING)

ROTATION = {rotation}
'''


class Unfit(Exception):
    """The model is not of the form that the tool's mapping can describe."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The names of one layer, as all layers have them."""

    attn_input_ln: str
    attn_q: str
    attn_k: str
    attn_v: str
    attn_o: str
    mlp_input_ln: str
    mlp_in: list[str]
    mlp_out: str


def script(module: nn.Module, stream: Places, insides: Sequence[Places], roles: Roles, what: str) -> str:
    """The mapping as a module of Python.

    Args:
        insides: where the spaces inside of heads are that can be turned.

    Raises:
        Unfit: the tool would change the function, and how.
    """
    _refuse_others(module, stream)
    container = _container(module, stream)
    layer = _layer(module, container, stream, roles)
    count = len(module.get_submodule(container))  # type: ignore[arg-type]
    one_by_one = {role: name for role, name in asdict(layer).items() if role != "mlp_in"}
    names = {role: [f"{container}.{number}.{name}" for number in range(count)] for role, name in one_by_one.items()}
    head_dim = _head_dim(insides, names)
    numbers = Numbers.of(module, stream, names, head_dim)
    first, second = _hooked(module, layer)
    if odd := {*first, *second} ^ {*names["mlp_out"], *names["attn_o"]}:
        raise Unfit(f"the tool tells modules by the ends of their names, and would hook {min(odd)} as well")
    whole = set(first) == set(names["mlp_out"]) and _turns_whole(module, names["attn_v"], numbers)
    top = _top(module, container, stream, roles)
    fields = {**top, "layers_attr": container, **asdict(layer), **numbers.fields(module.config)}
    rotation: dict[str, Any] = {"algorithm": "hadamard", "hadamard_type": "inplace_hadamard"}
    rotation |= {"fuse_online_to_weight": True} | ({} if whole else {"block_size": numbers.block()})
    return _TEXT.format(
        version=VERSION,
        what=what,
        fields="\n".join(f"    {name}={value!r}," for name, value in fields.items()),
        key=module.config.model_type,  # type: ignore[union-attr]
        rotation=pformat(rotation, sort_dicts=False),
    )


# -- what must not be there ----------------------------------------------------------------------------------------


def _refuse_others(module: nn.Module, stream: Places) -> None:
    """Refuses what the tool leaves as it is, and what it changes though it has nothing to do with the stream."""
    whole = SymmetryClass.ORTHOGONAL in stream.space.bound
    norms = {place.norm for place in stream.norms}
    shifts = set() if whole else {f"{norm}.bias" for norm in norms}
    if left := [name for name in stream.others if name not in shifts]:
        raise Unfit(f"{left[0]} is no weight or bias of a Linear or an Embedding")
    if stream.parts:
        raise Unfit(f"only a part of {stream.parts[0]} belongs to {stream.space.name}")
    if stream.stuck:
        raise Unfit(stream.stuck[0])
    centred = {name for name, inner in module.named_modules() if isinstance(inner, nn.LayerNorm)}
    if odd := (centred if whole else centred ^ norms):
        raise Unfit(f"{min(odd)} would be made an RMS norm, or is no LayerNorm of torch where the others are")


def _hooked(module: nn.Module, layer: Layer) -> tuple[list[str], list[str]]:
    """The modules that the tool hooks as maps back from the MLP, and of the others those from attention."""
    linear = [name for name, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    first = [name for name in linear if name.endswith(_end(layer.mlp_out))]
    return first, [name for name in linear if name.endswith(_end(layer.attn_o)) and name not in first]


def _end(name: str) -> str:
    return name.rpartition(".")[2]


# -- names ---------------------------------------------------------------------------------------------------------


def _container(module: nn.Module, stream: Places) -> str:
    """The list of layers that all writers stand in."""
    lists: list[str] = [name for name, inner in module.named_modules() if isinstance(inner, nn.ModuleList)]
    for name in lists:
        if all(writer.startswith(f"{name}.") for writer in stream.writers):
            return name
    raise Unfit("no list of layers holds all that writes the stream")


def _layer(module: nn.Module, container: str, stream: Places, roles: Roles) -> Layer:
    """The names of every layer."""
    count = len(module.get_submodule(container))  # type: ignore[arg-type]
    found = [_names_in(f"{container}.{number}.", stream, roles) for number in range(count)]
    if odd := next((number for number, names in enumerate(found) if names != found[0]), 0):
        raise Unfit(f"{container}.{odd} has other modules on the stream than {container}.0")
    return found[0]


def _names_in(prefix: str, stream: Places, roles: Roles) -> Layer:
    def inside(names: Collection[str]) -> list[str]:
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    norms = {name: inside(place.readers) for place in stream.norms for name in inside([place.norm])}
    writers, readers, value, out = map(inside, (stream.writers, stream.readers, roles.value, roles.out))
    attending = [name for name, read in norms.items() if len(read) == 3 and (not value or value[0] in read)]
    if len(norms) != 2 or len(writers) != 2 or not attending:
        raise Unfit(f"a layer is two norms, one in front of three maps, and two maps back; {prefix}* is not")
    if sorted(readers) != sorted(name for read in norms.values() for name in read):
        raise Unfit(f"a map of {prefix}* reads the stream without a norm")
    first = attending[0]
    (second,) = norms.keys() - {first}
    last = value[0] if value else norms[first][2]
    back = out[0] if out else writers[0]
    query, key = (name for name in norms[first] if name != last)
    (mlp_out,) = (name for name in writers if name != back)
    return Layer(first, query, key, last, back, second, norms[second], mlp_out)


def _top(module: nn.Module, container: str, stream: Places, roles: Roles) -> dict[str, Any]:
    """The names outside of the layers."""
    tables = [name for name in stream.tables if module.get_submodule(name) is module.get_input_embeddings()]  # type: ignore[operator]
    others = [name for name in stream.tables if name not in tables]
    outer = [place for place in stream.norms if not place.norm.startswith(f"{container}.")]
    ends = len(outer) == len(roles.head) == 1 and outer[0].readers == roles.head
    if not tables or len(others) > 1 or not ends:
        raise Unfit("it is a table (and one of positions), the layers, one norm and one head; the model is not")
    position = {"positional_embedding": others[0]} if others else {}
    return {"embedding": tables[0], "lm_head": roles.head[0], **position, "pre_head_ln": outer[0].norm}


# -- numbers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Numbers:
    """Sizes that the tool reads from the config: of the stream, of what maps back read, of heads (0: unknown)."""

    hidden: int
    intermediate: int
    attention: int
    head_dim: int

    @classmethod
    def of(cls, module: nn.Module, stream: Places, names: dict[str, list[str]], head_dim: int) -> Numbers:
        ends = (names["mlp_out"], names["attn_o"])
        read = [{int(module.get_submodule(name).in_features) for name in own} for own in ends]  # type: ignore[arg-type]
        if any(len(sizes) > 1 for sizes in read):
            raise Unfit("its layers differ in size")
        intermediate, attention = (sizes.pop() for sizes in read)
        return cls(stream.space.size, intermediate, attention, head_dim)

    @property
    def heads(self) -> int:
        return self.attention // self.head_dim if self.head_dim else 0

    def block(self) -> int:
        """The largest power of two that divides all sizes."""
        common = gcd(self.hidden, self.intermediate, self.attention)
        if common % 2:
            raise Unfit(f"no Hadamard matrix divides {self.hidden}, {self.intermediate} and {self.attention}")
        return common & -common

    def fields(self, config: Any) -> dict[str, Any]:
        hidden = _attribute(config, "hidden_size", self.hidden)
        found = {"hidden_size_attr": hidden}
        found["intermediate_size_attr"] = _attribute(config, "intermediate_size", self.intermediate)
        if not self.head_dim:
            # Blocks ask for no number of heads, but the tool reads one.
            return found | {"num_heads_attr": hidden}
        heads = _attribute(config, "num_attention_heads", self.heads)
        return found | {"num_heads_attr": heads, "attn_head_dim": self.head_dim}


def _attribute(config: Any, usual: str, number: int) -> str:
    for name in map(str, (usual, *config.to_dict())):
        if type(getattr(config, name, None)) is int and getattr(config, name) == number:
            return name
    raise Unfit(f"nothing in its config is {number}, which the tool reads there as {usual}")


def _head_dim(insides: Sequence[Places], names: dict[str, list[str]]) -> int:
    """The size of the space between values and outputs, if it is the same in every layer and can be turned there."""
    wanted = list(zip(names["attn_v"], names["attn_o"], strict=True))
    found = {
        inside.writers + inside.readers: inside.space.size
        for inside in insides
        if not (inside.tables or inside.others or inside.parts or inside.norms)
    }
    sizes = {found.get(pair, 0) for pair in wanted}
    return sizes.pop() if len(sizes) == 1 else 0


def _turns_whole(module: nn.Module, values: Collection[str], numbers: Numbers) -> bool:
    """Whether the tool can turn all entries at once, and not by blocks: with heads, of which it forgets the biases."""
    biased = any(module.get_submodule(name).bias is not None for name in values)
    sizes = numbers.hidden, numbers.intermediate, numbers.heads, numbers.head_dim
    return not biased and all(size > 0 and size & (size - 1) == 0 for size in sizes)
