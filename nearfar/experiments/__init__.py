"""Which settings decide here: the points of a sweep, their runs, and what these tell."""
