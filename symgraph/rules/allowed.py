"""Operators that a rule may speak about: what they do is return tensors.

Rules are data that anyone may send. Checking one runs its operators, so none may write a file, memory or an operand.
"""

from __future__ import annotations

import re
from typing import Any

import torch

# They make tensors out of nothing but sizes and numbers; all others read at least one.
_MAKERS = frozenset(
    ["full", "ones", "zeros", "empty", "arange", "linspace", "eye", "scalar_tensor", "tril_indices", "triu_indices"]
)
# Of torch's internals, which check less of what they are given, those that models are made of.
_INTERNAL = re.compile(
    r"_(softmax|log_softmax|safe_softmax|unsafe_view|to_copy|conj|weight_norm|trilinear|cdist_forward|fft_\w+|upsample_\w+|"
    r"adaptive_avg_pool[23]d|native_batch_norm_legit\w*|scaled_dot_product_\w+|reshape_alias)|__\w+__"
)
MOST_ENTRIES, LARGEST_PRODUCT, LARGEST_NUMBER = 2**18, 2**12, 2**20


def why_not(target: str, overload: Any) -> str:
    """Why a rule may not speak about an operator, or ''."""
    schema, name = overload._schema, overload._schema.name
    base = name.rpartition("::")[2]
    reads = any("Tensor" in str(argument.type) for argument in schema.arguments)
    if schema.is_mutable:
        return f"`{target}` writes to its operands"
    if not schema.returns or not all("Tensor" in str(result.type) for result in schema.returns):
        return f"`{target}` does not return tensors"
    if not reads and base not in _MAKERS:
        return f"`{target}` reads no tensor"
    if name.startswith("aten::_") and not _INTERNAL.fullmatch(base):
        return f"`{target}` is internal to torch"
    return ""


def why_not_named(name: str) -> str:
    """The same for an operator of a pattern, of which torch picks the overload by the operands."""
    packet = getattr(torch.ops.aten, name)
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    plain = [overload for overload in overloads if not _fills_its_output(overload)] or overloads
    # Overloads for Python's numbers stand beside those for tensors.
    writing = [overload for overload in plain if overload._schema.is_mutable]
    reasons = [why_not(f"aten.{name}", overload) for overload in writing or plain]
    return "" if "" in reasons and not writing else reasons[0]


def _fills_its_output(overload: Any) -> bool:
    return any(argument.is_out for argument in overload._schema.arguments)


def too_large(value: Any) -> bool:
    """Whether whole numbers among arguments ask for more than a check needs."""
    if isinstance(value, list | tuple):
        total = 1
        for item in value:
            total *= max(abs(item), 1) if isinstance(item, int) and abs(item) < 2**62 else 1
        return total > LARGEST_PRODUCT or any(map(too_large, value))
    return isinstance(value, int) and LARGEST_NUMBER < abs(value) < 2**62
