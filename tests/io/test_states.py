"""States: hashes, finite values, and the dtypes that a file says it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_checkpoints import refused
from torch import Tensor

from symgraph.errors import CheckpointError
from symgraph.io.shards import stored_tensors
from symgraph.io.state import check_finite, state_hash, usual_dtype

ALL_DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.bool, torch.complex64),
)
NAMES = st.text(min_size=1, max_size=8)


@st.composite
def states(draw: st.DrawFn) -> dict[str, Tensor]:
    """States of a few small tensors."""
    found = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 5)))
        found[name] = torch.randint(0, 2, shape, generator=generator).to(dtype)
    return found


@given(states(), st.randoms())
def test_a_hash_depends_on_neither_order_nor_memory(state: dict[str, Tensor], random: object) -> None:
    names = list(state)
    random.shuffle(names)  # type: ignore[attr-defined]
    strided = {n: torch.stack((state[n], state[n]), -1)[..., 0] for n in names}
    assert state_hash(strided) == state_hash(state)


@given(states(), st.data())
def test_a_hash_changes_with_every_bit_name_dtype_and_shape(state: dict[str, Tensor], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(state)))
    t = state[name]
    others = [{**state, name: t[None]}, {n: v for n, v in state.items() if n != name}]
    others.append({n if n != name else f"{n}'": v for n, v in state.items()})
    others.append({**state, name: t.to(torch.float64 if t.dtype != torch.float64 else torch.float32)})
    if t.numel():
        flipped = t.clone().flatten()
        flipped[-1] = 1 - flipped[-1].float()
        others.append({**state, name: flipped.view(t.shape)})
    hashes = [state_hash(s) for s in (state, *others)]
    assert hashes[0] not in hashes[1:]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_a_file_says_in_which_dtype_each_tensor_is_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3).to(dtype), "b": torch.zeros(())}, file)
    found = stored_tensors([file, tmp_path / "config.json"])
    assert {n: (s.file, s.dtype, s.shape) for n, s in found.items()} == {
        "a": (file, dtype, (2, 3)),
        "b": (file, torch.float32, ()),
    }
    assert state_hash({"a": torch.zeros(2).to(dtype)}) == state_hash({"a": torch.zeros(2).to(dtype)})


@given(st.binary(max_size=64))
def test_bytes_of_any_kind_are_an_error_or_an_empty_file(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.safetensors"
        file.write_bytes(content)
        try:
            assert stored_tensors([file]) == {}
        except CheckpointError as e:
            assert str(file) in e.what and e.cause and e.remedy


def test_the_usual_dtype_is_the_one_that_occurs_most() -> None:
    assert usual_dtype([torch.float16, torch.float32, torch.float16, torch.int64, torch.int64]) == torch.float16
    assert usual_dtype([torch.int64]) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_values_that_are_not_finite_are_counted(dtype: torch.dtype, value: float) -> None:
    state = {"fine": torch.ones(3), "bad": torch.ones(4, 5, dtype=dtype), "whole": torch.ones(2, dtype=torch.int64)}
    check_finite(state)
    state["bad"][1, 2:4] = value
    with refused(CheckpointError, "here: weights", "bad: 2 of 20 values"):
        check_finite(state, where="here")


def test_infinities_are_let_through_where_they_are_meant_and_nan_is_not() -> None:
    mask = torch.tensor([0.0, float("-inf")])
    check_finite({"mask": mask}, infinite_ok={"mask"})
    with refused(CheckpointError, "", "mask: 1 of 2 values"):
        check_finite({"mask": mask * 0}, infinite_ok={"mask"})


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_can_be_looked_at_too(dtype: torch.dtype) -> None:
    check_finite({"x": torch.ones(2).to(dtype)})
    with refused(CheckpointError, "", "x: 1 of 2 values"):
        check_finite({"x": torch.tensor([1.0, float("nan")]).to(dtype)})


def test_many_faults_are_listed_briefly() -> None:
    with refused(CheckpointError, "", "layer.0: 1 of 1 values", "and 4 more"):
        check_finite({f"layer.{i}": torch.tensor([float("nan")]) for i in range(9)})


def test_nothing_is_no_fault() -> None:
    check_finite({"empty": torch.zeros(0), "meta": torch.empty(3, device="meta")})
