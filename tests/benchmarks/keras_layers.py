"""A torch module of a model that Keras wrote as HDF5: its list of layers is plain JSON, its weights are arrays.

Axes are channels first inside; what goes in and comes out has channels last, as in Keras.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Config = Mapping[str, Any]
Weights = Mapping[str, Tensor]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(1),
    "tanh": nn.Tanh,
}


class Sum(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


class Cropped(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return x[..., self.before : x.shape[-1] - self.after]


def convolution(config: Config, weights: Weights) -> nn.Module:
    kernel = weights["kernel"]
    size, inputs, outputs = kernel.shape
    stride, dilation = config["strides"][0], config["dilation_rate"][0]
    layer = nn.Conv1d(inputs, outputs, size, stride, config["padding"], dilation, bias=config["use_bias"])
    filled(layer, weight=kernel.permute(2, 1, 0), **({"bias": weights["bias"]} if config["use_bias"] else {}))
    return activated(layer, config)


def dense(config: Config, weights: Weights) -> nn.Module:
    kernel = weights["kernel"]
    inputs, outputs = kernel.shape
    layer = nn.Linear(inputs, outputs, bias=config["use_bias"])
    filled(layer, weight=kernel.T, **({"bias": weights["bias"]} if config["use_bias"] else {}))
    return activated(layer, config)


def batch_norm(config: Config, weights: Weights) -> nn.Module:
    # Keras keeps so much of what was stored, torch takes so much of what is new.
    layer = nn.BatchNorm1d(len(weights["moving_mean"]), config["epsilon"], 1 - config["momentum"])
    given = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    filled(layer, **{given[name]: tensor for name, tensor in weights.items()})
    return layer


def cropping(config: Config, weights: Weights) -> nn.Module:
    return Cropped(*config["cropping"])


LAYERS: dict[str, Callable[[Config, Weights], nn.Module]] = {
    "Conv1D": convolution,
    "Dense": dense,
    "BatchNormalization": batch_norm,
    "Activation": lambda config, weights: ACTIVATIONS[config["activation"]](),
    "Add": lambda config, weights: Sum(),
    "Cropping1D": cropping,
}


def activated(layer: nn.Module, config: Config) -> nn.Module:
    """The layer, followed by the activation that Keras holds inside of it."""
    name = config["activation"]
    return layer if name == "linear" else nn.Sequential(layer, ACTIVATIONS[name]())


def filled(layer: nn.Module, **tensors: Tensor) -> None:
    layer.load_state_dict(tensors, strict=False)


class KerasModel(nn.Module):
    """The layers of a model under their names, run in the order of the list."""

    def __init__(self, layers: list[Config], weights: Mapping[str, Weights]) -> None:
        super().__init__()
        self.inputs: dict[str, tuple[str, ...]] = {}
        for layer in layers:
            name, kind = layer["name"], layer["class_name"]
            self.inputs[name] = tuple(node[0] for node in (layer["inbound_nodes"] or [[]])[0])
            if kind == "InputLayer":
                continue
            if kind not in LAYERS:
                raise ValueError(f"no layer {kind} ({name}): add it to LAYERS")
            self.add_module(name, LAYERS[kind](layer["config"], weights.get(name, {})))

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for name, read in self.inputs.items():
            value = self.get_submodule(name)(*(values[n] for n in read)) if read else x.movedim(-1, 1)
            values[name] = value
        return value.movedim(1, -1)


def read(file: Path) -> KerasModel:
    """The model of an HDF5 file, for evaluation."""
    import h5py

    with h5py.File(file) as found:
        config = json.loads(found.attrs["model_config"])["config"]
        groups = found["model_weights"]
        weights = {name: arrays(groups[name]) for name in groups}
    return KerasModel(config["layers"], weights).eval()


def arrays(group: Any) -> dict[str, Tensor]:
    """The arrays of one layer, by what they are: `conv1d_1/kernel:0` is the kernel."""
    paths = [p.decode() if isinstance(p, bytes) else p for p in group.attrs["weight_names"]]
    return {p.rsplit("/", 1)[-1].split(":")[0]: torch.from_numpy(group[p][()]) for p in paths}
