"""Random models: inference is sound, deterministic and independent of order, on whatever they are made of."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from .checks import check
from .net import Description
from .strategies import descriptions

# The same models in every run; `python -m tests.fuzz` tries others.
SHARED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@settings(SHARED, max_examples=100)
@given(descriptions())
def test_a_hundred_models(description: Description) -> None:
    assert check(description) is None


@pytest.mark.slow
@settings(SHARED, max_examples=2000)
@given(descriptions())
def test_two_thousand_models(description: Description) -> None:
    assert check(description) is None
