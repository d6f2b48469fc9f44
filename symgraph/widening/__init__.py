"""Exact embeddings of a model into a larger shape of its architecture (design section 15)."""
