"""A copy of a module with smaller parameters, and with the sizes that torch's own layers keep beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from symgraph.errors import UsageError, shorten
from symgraph.resize.stored_shapes import Shapes


def smaller_module(module: nn.Module, shapes: Shapes, gone: Collection[str] = ()) -> nn.Module:
    """A copy whose parameters and buffers are cut to these shapes; what is left in them is no model yet.

    Args:
        gone: tensors of parts that go, with the entries of module lists that they are in.

    Raises:
        UsageError: a tensor that goes is in no list of modules.
    """
    copied = copy.deepcopy(module)
    _without(copied, gone)
    own = {name: tensor.shape for name, tensor in (*copied.named_parameters(), *copied.named_buffers())}
    with torch.no_grad():
        for name, tensor in (*copied.named_parameters(), *copied.named_buffers()):
            if name in shapes and tuple(tensor.shape) != shapes[name]:
                tensor.data = tensor.data[tuple(map(slice, shapes[name]))].clone()
                tensor.grad = None
    for prefix, layer in copied.named_modules():
        for kind, update in _KEPT.items():
            if isinstance(layer, kind):
                update(layer, own.get(f"{prefix}.weight" if prefix else "weight"))
    return copied.eval()


def _without(module: nn.Module, gone: Collection[str]) -> None:
    """Takes out the entries of module lists of which every tensor goes."""
    for prefix, held in list(module.named_modules()):
        if not isinstance(held, nn.ModuleList | nn.Sequential):
            continue
        for name, entry in reversed(list(held.named_children())):
            inside = [path for path, _ in (*entry.named_parameters(), *entry.named_buffers())]
            if inside and all(f"{prefix}.{name}.{path}".removeprefix(".") in gone for path in inside):
                del held[int(name)]
    left = [path for path, _ in (*module.named_parameters(), *module.named_buffers()) if path in gone]
    if left:
        cause = f"{shorten(left)} would go, and are in no list of modules of which everything goes"
        raise UsageError("the parts cannot be taken out", cause=cause, remedy="hold them in an nn.ModuleList")


def _linear(layer: Any, before: Any) -> None:
    layer.out_features, layer.in_features = layer.weight.shape


def _convolution(layer: Any, before: Any) -> None:
    first, second = layer.weight.shape[:2]
    # Where every channel is a group, so it stays.
    if layer.groups > 1 and layer.groups == before[0]:
        layer.groups = first
    ends = (first, second * layer.groups)
    layer.out_channels, layer.in_channels = reversed(ends) if layer.transposed else ends


def _embedding(layer: Any, before: Any) -> None:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape


def _batch_norm(layer: Any, before: Any) -> None:
    held = layer.weight if layer.weight is not None else layer.running_mean
    layer.num_features = layer.num_features if held is None else len(held)


def _norm(layer: Any, before: Any) -> None:
    layer.normalized_shape = layer.normalized_shape if layer.weight is None else tuple(layer.weight.shape)


def _groups(layer: Any, before: Any) -> None:
    layer.num_channels = layer.num_channels if layer.weight is None else len(layer.weight)


def _slopes(layer: Any, before: Any) -> None:
    layer.num_parameters = len(layer.weight)


_KEPT: Mapping[type[nn.Module], Callable[[Any, Any], None]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _convolution,
    nn.Embedding: _embedding,
    nn.modules.batchnorm._NormBase: _batch_norm,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
    nn.GroupNorm: _groups,
    nn.PReLU: _slopes,
}
