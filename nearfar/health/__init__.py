"""Metrics that need no labels, and the verdict on a run."""
