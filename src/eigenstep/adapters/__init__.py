"""Hand a grid to a host program: one module per host, and `text` for what is pasted rather than called."""
