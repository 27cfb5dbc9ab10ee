"""The weight's gradient as a matrix product: of few pixels, or of few filters over many."""

from __future__ import annotations

import numpy as np

from stridekit.backends import NothingToPack, Operands
from stridekit.backends.cpu.forward.algorithm import grouped_strides
from stridekit.backends.cpu.products.algorithm import (
    ADDING_UP,
    INNER,
    LAYING,
    NO_BIAS,
    OUTER,
    Arrays,
    MatrixProduct,
    Product,
    Views,
    all_pixels,
    are_laid,
    plane_units,
    prepare,
    single_pixels,
    turned,
)
from stridekit.backends.cpu.products.blocking import INNER_DEPTH, OUTER_DEPTH, OUTER_ROWS, Sizes
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import OUT, WEIGHT, strides_of
from stridekit.problems.conv_problem import ConvProblem

_BEGINNING = 6
"""What it takes to begin and to store a vector of the result, in vectors of products."""


class _WeightProduct(NothingToPack, MatrixProduct):
    """What both share: no weights are read; the output's gradient takes their place among the arrays."""

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        x, grad_output = operands.x, operands.grad_output
        strides = grouped_strides(problem, out.strides)
        job = prepare(self, problem, device, strides_of(x), strides_of(grad_output), strides, None)
        self.execute(problem, job, x, grad_output, None, workspace, out, operands)


class WindowGradient(_WeightProduct):
    """Lanes run along windows and filters; output pixels are summed one after the other."""

    name = "window_product"
    outer = True

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return filters by their weights."""
        columns = problem.group_in_channels * problem.taps
        rows, depth = problem.group_out_channels, all_pixels(problem)
        return Sizes(1, problem.groups, 1, rows, columns, depth, problem.taps, problem.moved_bytes)

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return the output's gradient times windows."""
        views = Views(problem, arrays)
        gradients = turned(views.outputs(WEIGHT, arrays.weight), views)
        return Product(self.sizes(problem), gradients, views.windows(), views.weights(OUT, arrays.out), NO_BIAS)

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        sizes = self.sizes(problem)
        vectors = sizes.rows * -(-sizes.columns // lanes)
        # Windows of more pixels than are multiplied at once are laid anew for each block of filters.
        times = (1 if sizes.depth <= OUTER_DEPTH else -(-sizes.rows // OUTER_ROWS)) * are_laid(problem)
        return vectors * (OUTER * sizes.depth + _BEGINNING) + LAYING * times * sizes.depth * sizes.columns


class PlaneGradient(_WeightProduct):
    """Lanes run along output pixels: kernels of one tap without padding."""

    name = "plane_product"
    outer = False

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""`` for kernels of one tap without padding, else why not."""
        return single_pixels(problem) or super().supports(problem, device)

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return filters by channels."""
        rows, columns = problem.group_out_channels, problem.group_in_channels
        return Sizes(1, problem.groups, problem.batch, rows, columns, problem.output_pixels, 1, problem.moved_bytes)

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return planes of the output's gradient times planes of the input."""
        views = Views(problem, arrays)
        gradients, planes = views.output_planes(WEIGHT, arrays.weight), views.input_planes()
        return Product(self.sizes(problem), gradients, planes, views.weights(OUT, arrays.out), NO_BIAS)

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        adding = ADDING_UP * -(-problem.output_pixels // INNER_DEPTH)
        sums = problem.group_out_channels * problem.group_in_channels * adding
        return problem.batch * sums + plane_units(problem, lanes, INNER)
