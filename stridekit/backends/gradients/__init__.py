"""Gradients out of a backend's forward algorithms."""
