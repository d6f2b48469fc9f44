"""Exact embeddings of a model into a larger shape of its architecture (docs/design.md, Unequal widths)."""
