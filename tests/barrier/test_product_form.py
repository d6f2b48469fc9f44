"""The product form against explicit D x D products, at its ends, and under changes inside of heads."""

from __future__ import annotations

import pytest
import torch
from models_zoo import Case, State, case, relative
from torch import Tensor, nn
from torch.nn import functional

import symgraph
from symgraph.errors import UsageError
from symgraph.measure.barrier import loss_barrier
from symgraph.measure.product_form import ProductForm, circuit_spaces
from symgraph.orbit.action import random_element
from symgraph.orbit.freedoms import to_clean_gauge
from symgraph.orbit.steps import Act
from symgraph.rules.book import default_rules

MODELS = [("gpt2-untied", "sdpa"), ("gpt2-untied", "eager"), ("vit", "sdpa"), ("bert", "sdpa"), ("llama", "sdpa")]
CPU = torch.device("cpu")


def form(c: Case) -> ProductForm:
    return ProductForm(c.symmetry, c.graph, default_rules(), dtype=torch.float64, device=CPU)


def outputs(f: ProductForm, c: Case, a: State, b: State, point: float) -> Tensor:
    found: Tensor = f.run_mixed(f.mixed(a, b, point), c.inputs)[0]
    return found


@pytest.mark.parametrize(("name", "kind"), MODELS)
def test_the_ends_are_the_models_and_the_inside_of_heads_does_not_count(name: str, kind: str) -> None:
    c = case(name, kind)
    f = form(c)
    a, b = (to_clean_gauge(c.symmetry, c.state(seed))[1] for seed in (1, 2))
    f.check(a, b, c.inputs)
    assert relative(outputs(f, c, a, b, 0.0), c.run(a)) < 1e-9
    assert relative(outputs(f, c, a, b, 1.0), c.run(b)) < 1e-9
    inner = random_element(c.symmetry, generator=torch.Generator().manual_seed(0), spaces=circuit_spaces(c.symmetry))
    turned = Act(inner).apply(b)
    assert relative(outputs(f, c, a, b, 0.3), outputs(f, c, a, turned, 0.3)) < 1e-9
    plain = [
        c.run({n: torch.lerp(t, s[n], 0.3) if t.is_floating_point() else t for n, t in a.items()}) for s in (b, turned)
    ]
    assert relative(*plain) > 1e-2


def lerped(a: State, b: State, x: float, name: str) -> Tensor:
    return torch.lerp(a[name], b[name], x)


def circuits(one: Tensor, two: Tensor, heads: int) -> Tensor:
    """The products of two projections' heads: (D + 1, heads * k), (heads * k, D') -> (heads, D + 1, D')."""
    k = one.shape[1] // heads
    return torch.stack([one[:, h * k : (h + 1) * k] @ two[h * k : (h + 1) * k] for h in range(heads)])


def gpt2_by_hand(ids: Tensor, a: State, b: State, x: float) -> Tensor:
    """GPT-2 of the zoo with explicit circuits, of which the key bias is none (softmax does not see it)."""
    heads, width = 2, 8

    def norm(y: Tensor, name: str) -> Tensor:
        return functional.layer_norm(y, (width,), lerped(a, b, x, f"{name}.weight"), lerped(a, b, x, f"{name}.bias"))

    def both(make: object) -> Tensor:
        return torch.lerp(make(a), make(b), x)  # type: ignore[operator]

    y = lerped(a, b, x, "transformer.wte.weight")[ids] + lerped(a, b, x, "transformer.wpe.weight")[: ids.shape[1]]
    hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
    for layer in range(2):
        at = f"transformer.h.{layer}"

        def query_key(s: State, at: str = at) -> Tensor:
            w, bias = s[f"{at}.attn.c_attn.weight"], s[f"{at}.attn.c_attn.bias"]
            rows = torch.cat([w, bias[None]])
            return circuits(rows[:, :width], rows[:, width : 2 * width].T, heads)

        def value_output(s: State, at: str = at) -> Tensor:
            w, bias = s[f"{at}.attn.c_attn.weight"], s[f"{at}.attn.c_attn.bias"]
            return circuits(torch.cat([w, bias[None]])[:, 2 * width :], s[f"{at}.attn.c_proj.weight"], heads)

        z = norm(y, f"{at}.ln_1")
        z = torch.cat([z, torch.ones_like(z[..., :1])], -1)
        scores = torch.einsum("btd,hde,bse->bhts", z, both(query_key), z) / (width // heads) ** 0.5
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        moved = torch.einsum("bhts,bsd,hde->bte", weights, z, both(value_output))
        y = y + moved + lerped(a, b, x, f"{at}.attn.c_proj.bias")
        up = norm(y, f"{at}.ln_2") @ lerped(a, b, x, f"{at}.mlp.c_fc.weight") + lerped(a, b, x, f"{at}.mlp.c_fc.bias")
        down = lerped(a, b, x, f"{at}.mlp.c_proj.weight")
        y = y + functional.gelu(up, approximate="tanh") @ down + lerped(a, b, x, f"{at}.mlp.c_proj.bias")
    return norm(y, "transformer.ln_f") @ lerped(a, b, x, "lm_head.weight").T


@pytest.mark.parametrize("point", [0.25, 0.5])
def test_it_equals_explicit_products(point: float) -> None:
    c = case("gpt2-untied")
    a, b = c.state(1), c.state(2)
    expected = gpt2_by_hand(c.inputs[0], a, b, point)
    assert relative(gpt2_by_hand(c.inputs[0], a, b, 0.0), c.run(a)) < 1e-9
    assert relative(outputs(form(c), c, a, b, point), expected) < 1e-9


def test_its_barrier_does_not_see_the_inside_of_heads() -> None:
    c = case("vit")
    a, b = (to_clean_gauge(c.symmetry, c.state(seed))[1] for seed in (1, 2))
    inner = random_element(c.symmetry, generator=torch.Generator().manual_seed(0), spaces=circuit_spaces(c.symmetry))
    turned = Act(inner).apply(b)
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 2, 1)
    batches = [
        {"pixel_values": torch.randn(n, 3, 8, 8, generator=generator), "labels": torch.randint(0, 5, (n,))}
        for n in sizes
    ]
    ends = [{n: s[n] for n in c.module.state_dict()} for s in (a, b, turned)]

    def measure(other: State, product: bool) -> tuple[float, ...]:
        symmetry = c.symmetry if product else None
        found = loss_barrier(ends[0], other, batches, module=c.module, points=3, dtype=torch.float64, product=symmetry)
        return found.losses

    own, product, again = measure(ends[1], False), measure(ends[1], True), measure(ends[2], True)
    assert product == pytest.approx(again, abs=1e-9)
    assert (own[0], own[-1]) == pytest.approx((product[0], product[-1]), abs=1e-9)
    assert abs(own[1] - product[1]) > 1e-4


def test_a_model_without_circuits_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(UsageError, match="no product form"):
        circuit_spaces(symgraph.infer(net, (torch.zeros(2, 3),)))
