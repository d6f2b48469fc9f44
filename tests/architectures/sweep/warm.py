"""What every entry needs, loaded once: the server that forks the children imports this module."""

from __future__ import annotations

from .stages import run

# Half of what an entry would load, torch and transformers load when they are first used, not when they are imported.
LOADED = run("causal-lm", "llama", "LlamaForCausalLM", each=False)
