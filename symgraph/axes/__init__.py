"""Terms over spaces, their unification, and the structural operators."""
