"""Find, prove and use the weight-space symmetries of any traced PyTorch model."""

from __future__ import annotations

__version__ = "0.1.0"
