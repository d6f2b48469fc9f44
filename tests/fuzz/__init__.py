"""Random tiny models, from a plain description of each, and what must hold for all of them."""
