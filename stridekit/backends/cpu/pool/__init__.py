"""Poolings and their gradients: rows of lanes, blocks of the result."""
