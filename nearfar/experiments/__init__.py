"""Comparisons of methods, and sweeps over settings."""
