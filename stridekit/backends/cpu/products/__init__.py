"""Convolutions and gradients as products of matrices that are read where they lie."""
