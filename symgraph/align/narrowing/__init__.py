"""Reductions of a model to a narrower shape of its architecture (docs/design.md, Narrowing)."""
