"""Parameters that several calls share: what moves where one call uses them moves where all do, and no more.

A network that is applied to two inputs, or whose layers are all one, has the symmetries of one application.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import symgraph


class Encoder(nn.Module):
    """Linear maps around a norm; the bias of the norm goes into the next one's."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.into, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
        self.up, self.out = nn.Linear(4, 3, bias=bias), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(self.norm(self.into(x)))
        found: Tensor = self.out(torch.tanh(hidden) if self.up.bias is not None else hidden)
        return found


class Batched(nn.Module):
    """A batch norm with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Conv1d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.relu(self.norm(self.conv(x))))
        return found


class Lengthless(nn.Module):
    """What the first map writes is divided by its length."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(F.normalize(self.into(x), dim=-1, eps=0.0))
        return found


class Tied(nn.Module):
    """Tied embeddings in front of a softmax, with position embeddings and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(7, 4), nn.Embedding(3, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.words(x) + self.places.weight)
        return F.linear(hidden, self.words.weight).softmax(-1)


class Attention(nn.Module):
    """One pre-norm block of attention in a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.norm, self.last, self.out = nn.Linear(3, 4), nn.LayerNorm(4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.qkv, self.back = nn.Linear(4, 12), nn.Linear(4, 4)

    def block(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 2, 2).permute(2, 0, 3, 1, 4)
        found: Tensor = x + self.back(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.last(self.block(self.into(x))))
        return found


class Universal(Attention):
    """The same block three times."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for _ in range(3):
            x = self.block(x)
        found: Tensor = self.out(self.last(x))
        return found


class Siamese(nn.Module):
    """One network on two inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), self.inner(y)


def _ready(model: nn.Module, *inputs: Tensor) -> nn.Module:
    torch.manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5
    model.example_inputs = inputs  # type: ignore[assignment]
    return model.eval()


def _number(model: nn.Module) -> int:
    found = symgraph.infer(model)
    assert symgraph.verify(model, symmetry=found).passed
    return found.dimension().number


ROWS, IMAGE = (torch.randn(5, 3), torch.randn(4, 3)), (torch.randn(3, 2, 4), torch.randn(3, 2, 5))
WORDS, TEXT = (torch.randint(0, 7, (2, 3)), torch.randint(0, 7, (4, 3))), (torch.randn(2, 3, 3), torch.randn(2, 5, 3))


@pytest.mark.parametrize(
    ("inner", "inputs"),
    [
        (Encoder(), ROWS),
        (Encoder(bias=False), ROWS),
        (Batched(), IMAGE),
        (Lengthless(), ROWS),
        (Tied(), WORDS),
        (Attention(), TEXT),
    ],
    ids=["biases", "planes", "statistics", "lengths", "tied", "attention"],
)
def test_a_network_on_two_inputs_has_the_symmetries_of_one(inner: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
    assert _number(_ready(Siamese(inner), *inputs)) == _number(_ready(inner, inputs[0]))


def test_layers_that_are_all_one_have_the_symmetries_of_one() -> None:
    assert _number(_ready(Universal(), TEXT[0])) == _number(_ready(Attention(), TEXT[0]))


class Norms(nn.Module):
    """One linear map behind two norms: their biases may differ by nothing that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.first, self.second = nn.Linear(3, 4), nn.LayerNorm(4), nn.LayerNorm(4)
        self.up, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        one, other = self.first(self.into(x)), self.second(self.into(y))
        found: Tensor = self.out(torch.tanh(torch.cat([self.up(one), self.up(other)])))
        return found


class One(Norms):
    """The same, and the second input comes from outside."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.out(torch.tanh(torch.cat([self.up(self.first(self.into(x))), self.up(y)])))
        return found


def test_a_bias_takes_what_all_its_calls_read_alike() -> None:
    both = symgraph.infer(_ready(Norms(), *ROWS))
    (moved,) = both.constants
    assert {moved.source.piece.parameter} | {s.port.piece.parameter for s in moved.shares} == {
        "first.bias",
        "second.bias",
        "up.bias",
    }
    assert symgraph.verify(_ready(Norms(), *ROWS), symmetry=both).passed
    assert not symgraph.infer(_ready(One(), ROWS[0], torch.randn(4, 4))).constants


def test_a_plane_through_zero_adds_no_constant() -> None:
    encoder = Encoder(bias=False)
    model = _ready(encoder, ROWS[0])
    nn.init.zeros_(encoder.norm.bias)
    assert symgraph.verify(model).passed


class Masked(nn.Module):
    """Rows replaced by a learned one where a mask says so, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.token, self.places = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mask = mask.unsqueeze(-1).type_as(x)
        found: Tensor = self.out(torch.tanh(self.into(x) * (1.0 - mask) + self.token * mask + self.places))
        return found


def test_a_constant_in_both_that_a_mask_mixes_goes_on() -> None:
    model = _ready(Masked(), ROWS[0], torch.arange(5) % 2 == 0)
    (constant,) = symgraph.infer(model).constants
    named = {constant.source.piece.parameter, *(s.port.piece.parameter for s in constant.shares)}
    assert named == {"into.bias", "token", "places"}
    assert symgraph.verify(model).passed


class Narrowing(nn.Module):
    """One network from seven dimensions to four, behind several norms; their gains keep the entries in their places."""

    def __init__(self, norms: int, bias: bool) -> None:
        super().__init__()
        self.into, self.norms = nn.Linear(6, 7), nn.ModuleList([nn.LayerNorm(7) for _ in range(norms)])
        self.up, self.down, self.out = nn.Linear(7, 4, bias), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.into(x))
        seen = [torch.sigmoid(hidden * (number + 1)) for number in range(len(self.norms))]
        read = [self.down(F.gelu(self.up(norm(part)))) for norm, part in zip(self.norms, seen, strict=True)]
        found: Tensor = self.out(F.gelu(torch.stack(read).prod(0)))
        return found


# Where the network has a bias it takes what the first of them makes of anything; so does the reader of one norm alone.
@pytest.mark.parametrize(
    ("norms", "bias", "lost"), [(1, True, ()), (2, True, (1,)), (3, True, (1, 2)), (1, False, ()), (2, False, (0, 1))]
)
def test_what_a_matrix_that_writes_fewer_loses_of_biases(norms: int, bias: bool, lost: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Narrowing(norms, bias), torch.randn(5, 6)
    found = symgraph.infer(model, x)
    constants = [constant for constant in found.constants if constant.lost]
    assert [constant.source.piece.parameter for constant in constants] == [f"norms.{number}.bias" for number in lost]
    assert all(constant.shape == (3,) for constant in constants)
    symgraph.verify(model, x).raise_if_failed()
    audit = symgraph.audit(model, x)
    assert audit.complete, str(audit)
    assert found.dimension().number == audit.inferred
