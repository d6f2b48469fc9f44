"""The network of a model with something added to its parameters, and its loss, differentiable in what is added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symgraph.measure.forward import fixed_tensors, usual_dtype
from symgraph.measure.losses import Named
from symgraph.measure.objective import Objective


class Added:
    """A network at a state, to which something is added before it is run."""

    def __init__(self, network: nn.Module, state: Mapping[str, Tensor], loss: Named) -> None:
        self.dtype = dtype = usual_dtype(network)
        self.objective = Objective(network, loss, dtype)
        floating = {name: tensor.detach().to(dtype) for name, tensor in state.items() if tensor.is_floating_point()}
        self.state = fixed_tensors(network, floating, dtype, torch.device("cpu")) | floating

    def loss(self, added: Mapping[str, Tensor], batch: Any, where: str) -> Tensor:
        """The mean loss of a batch.

        Raises:
            DataError: the batch does not fit the model, or no loss fits its outputs.
        """
        return self.objective.mean(self._with(added), batch, where)[0]

    @torch.no_grad()
    def over(self, added: Mapping[str, Tensor], batches: Any, where: str) -> float:
        """The mean loss over all batches, without derivatives.

        Raises:
            DataError: there are none, or they do not fit the model.
        """
        return self.objective.over(self._with(added), batches, where)

    def _with(self, added: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.state | {name: self.state[name] + tensor for name, tensor in added.items()}
