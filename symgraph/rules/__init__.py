"""The rule language: YAML rules, their checks, and how they meet the nodes of a graph."""
