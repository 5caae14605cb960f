"""Embedding images into a file or a store."""
