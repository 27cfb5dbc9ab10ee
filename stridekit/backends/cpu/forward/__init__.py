"""The convolution: blocks of output, a box of input for each, packed weights, register tiles."""
