"""The derivative of a traced graph's outputs with respect to its parameters, stacked over random inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from symgraph.errors import VerifyError
from symgraph.ir import Graph
from symgraph.tracing.interpreter import Interpreter
from symgraph.tracing.sampling import in_float64, random_inputs

# Rows that are computed for one batch of inputs: outputs beyond that are mixed at random.
ROWS = 96


def singular(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular values of rows, with their vectors.

    Divide and conquer may fail where many of them are equal, as of a space that is spanned twice; QR steps do not.
    """
    try:
        left, values, right = torch.linalg.svd(rows, full_matrices=False)
    except RuntimeError:
        from scipy.linalg import svd

        factors = svd(rows.numpy(), full_matrices=False, lapack_driver="gesvd")
        left, values, right = map(torch.from_numpy, factors)
    return left, values, right


class Jacobian:
    """Rows of d outputs / d parameters at one point, for one batch of random inputs after another.

    Args:
        names: the tensors to differentiate by, in order.
    """

    def __init__(self, graph: Graph, state: Mapping[str, Tensor], names: Sequence[str], seed: int) -> None:
        self.graph, self.names = graph, tuple(names)
        self.state = dict(state)
        self.sizes = [state[name].numel() for name in names]
        if not names:
            raise _no_derivative("it has no parameters")
        self.point = torch.cat([state[name].reshape(-1) for name in names])
        self.generator = torch.Generator().manual_seed(seed)
        self.run = Interpreter(graph, dtype=torch.float64)

    def batches(self) -> Iterator[Tensor]:
        """Rows for fresh inputs, without end; shapes (rows, numbers)."""
        while True:
            yield self._rows()

    def _rows(self) -> Tensor:
        point = self.point.clone().requires_grad_(True)
        parts = zip(self.names, torch.split(point, self.sizes), strict=True)
        moved = {name: values.reshape(self.state[name].shape) for name, values in parts}
        outputs = self.run.run(self.state | moved, random_inputs(self.graph, self.generator))
        values = [in_float64(output) for output in outputs if output.is_floating_point() or output.is_complex()]
        smooth = [value.reshape(-1) for value in values if value.requires_grad]
        if not smooth:
            raise _no_derivative("no output is a differentiable function of its parameters")
        flat = torch.cat(smooth)
        if not bool(flat.isfinite().all()):
            raise VerifyError(
                "the model's outputs are not finite at random inputs",
                cause="its parameters or the inputs are outside the domain of an operator",
                remedy="audit it at other parameters, or give a smaller perturbation",
            )
        return _pull(flat, point, self._cotangents(flat.numel()))

    def _cotangents(self, count: int) -> Tensor:
        if count <= ROWS:
            return torch.eye(count, dtype=torch.float64)
        mixed: Tensor = torch.randn(ROWS, count, generator=self.generator, dtype=torch.float64) / count**0.5
        return mixed


def _pull(outputs: Tensor, point: Tensor, cotangents: Tensor) -> Tensor:
    """Vector-Jacobian products; at once where every operator has a batching rule."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            products: Tensor = torch.autograd.grad(
                outputs, point, cotangents, retain_graph=True, is_grads_batched=True
            )[0]
            return products
    except NotImplementedError as missing:
        raise _no_derivative(str(missing).rstrip(".")) from missing
    except RuntimeError:
        rows = [torch.autograd.grad(outputs, point, cotangent, retain_graph=True)[0] for cotangent in cotangents]
        return torch.stack(rows)


def _no_derivative(cause: str) -> VerifyError:
    return VerifyError(
        "the model has no Jacobian",
        cause=cause,
        remedy="verify it, which needs none; an audit needs outputs that parameters change smoothly",
    )
