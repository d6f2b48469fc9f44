"""Tracing: any `nn.Module`, any model of `transformers`, or a config alone, to an `ir.Graph`."""

from symgraph.tracing.export import trace, trace_config, trace_nodes
from symgraph.tracing.program_reader import state_of
from symgraph.tracing.wrap import example_inputs

__all__ = ["example_inputs", "state_of", "trace", "trace_config", "trace_nodes"]
