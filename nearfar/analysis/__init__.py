"""Algorithms on an encoder's vectors: search, clusters, cleaning, labelling and maps."""
