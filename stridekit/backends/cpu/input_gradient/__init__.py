"""The input's gradient by phases of the stride, each a convolution of `forward`."""
