"""Symmetry classes as a lattice, and group elements with their action."""
