"""Convolutions and gradients as matrix products over strided views: weights read once, as they are given.

What a tile of packed weights does badly these do well: few pixels under many weights, where packing would take longer
than the products, and few filters over many pixels, where most lanes would be spare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from stridekit.backends import Operands
from stridekit.backends.cpu.forward.algorithm import VECTORS_PER_SECOND, grouped_strides, no_half
from stridekit.backends.cpu.forward.blocking import accumulator_itemsize
from stridekit.backends.cpu.forward.launch import activation_of
from stridekit.backends.cpu.input_gradient.cost_model import call_seconds
from stridekit.backends.cpu.products.blocking import (
    GATHERED,
    IN_PLACE,
    INNER_COLUMNS,
    INNER_DEPTH,
    WINDOWS,
    Axes,
    Cut,
    Matrix,
    Sizes,
    axes,
    cut,
    end_to_end,
)
from stridekit.backends.cpu.products.jobs import Bias, Multiplication, WindowAxis, Windows
from stridekit.backends.cpu.runtime.processor import CpuDevice
from stridekit.backends.cpu.runtime.records import (
    BIAS,
    OUT,
    WEIGHT,
    WORD_BYTES,
    WORKSPACE,
    Address,
    Rows,
    X,
    bases,
    rows,
    strides_of,
)
from stridekit.backends.gradients.input_gradient import InputGradient
from stridekit.memory.workspace import WorkspaceLayout, align
from stridekit.problems.conv_problem import ConvProblem
from stridekit.problems.geometry import AxisGeometry
from stridekit.problems.padding import PADDING_MODES

_UNUSED = AxisGeometry(size=1, kernel=1, stride=1, dilation=1, pad_before=0, pad_after=0)
NO_BIAS = Bias(0, 0, 0, 0)
_NARROW_FILTERS = 32
LAYING = 1.5
INNER = 1.25
ADDING_UP = 8
OUTER, _OUTER_LOW = 1.25, 2.0
_PLANES = 1.15
"""What things take in units of a vector of products: to lay one element; a vector of products of an inner tile, and to
add its lanes up; one of an outer tile, of one with few rows, and of planes."""
_FEW_ROWS = 6


class Product(NamedTuple):
    """A convolution as a product: sizes, operands, result, bias."""

    sizes: Sizes
    a: Matrix
    b: Matrix
    result: Matrix
    bias: Bias


@dataclass(frozen=True)
class Arrays:
    """The strides of a call's arrays: (n, c, d, h, w) of input and output, (g, k, c, d, h, w) of weights."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    out: tuple[int, ...]
    bias: int


class Views:
    """A problem's arrays as rows and elements of rows."""

    def __init__(self, problem: ConvProblem, arrays: Arrays):
        self.problem, self.arrays = problem, arrays
        self.axes = (*(_UNUSED,) * (3 - problem.rank), *problem.geometry.axes)
        self.channels, self.filters = problem.group_in_channels, problem.group_out_channels
        self.padded = any(axis.pad_before or axis.pad_after for axis in problem.geometry.axes)

    def laid(self, lanes: Axes) -> int:
        """Say how a tile gets rows of such elements."""
        return IN_PLACE if end_to_end(lanes, self.problem.itemsize) else GATHERED

    def matrix(self, start: Address, rows: Axes, lanes: Axes, *, group: int, sample: int = 0, fold: int = 0) -> Matrix:
        """Return a matrix, given the bytes to the next group's, sample's and summand's."""
        return Matrix(start, sample, group, fold, rows, lanes, self.laid(lanes))

    def windows(self) -> Matrix:
        """Rows are output pixels of all samples, elements the channels and taps that they read."""
        n, c, *steps = self.arrays.x
        places = [(axis.output_size, axis.stride * step) for axis, step in zip(self.axes, steps, strict=True)]
        taps = [(axis.kernel, axis.dilation * step) for axis, step in zip(self.axes, steps, strict=True)]
        rows, lanes = axes((self.problem.batch, n), *places), axes((self.channels, c), *taps)
        found = self.matrix(X, rows, lanes, group=self.channels * c)
        return found._replace(laid=WINDOWS) if self.padded else found

    def window_axes(self) -> Windows:
        """Return how windows lie in the input."""
        n, c, *steps = self.arrays.x
        d, h, w = (
            WindowAxis(axis.output_size, axis.size, axis.kernel, axis.stride, axis.dilation, axis.pad_before, step)
            for axis, step in zip(self.axes, steps, strict=True)
        )
        return Windows(sample=n, channel=c, mode=PADDING_MODES.index(self.problem.padding_mode), d=d, h=h, w=w)

    def weights(self, start: Address, strides: tuple[int, ...]) -> Matrix:
        """Rows are filters, elements channels and taps, of weights or their gradient."""
        g, k, c, *steps = strides
        taps = [(axis.kernel, step) for axis, step in zip(self.axes, steps, strict=True)]
        return self.matrix(start, axes((self.filters, k)), axes((self.channels, c), *taps), group=g)

    def outputs(self, start: Address, strides: tuple[int, ...]) -> Matrix:
        """Rows are output pixels of all samples, elements filters."""
        n, k, *steps = strides
        places = [(axis.output_size, step) for axis, step in zip(self.axes, steps, strict=True)]
        rows = axes((self.problem.batch, n), *places)
        return self.matrix(start, rows, axes((self.filters, k)), group=self.filters * k)

    def output_planes(self, start: Address, strides: tuple[int, ...]) -> Matrix:
        """Rows are filters, elements output pixels of one sample."""
        n, k, *steps = strides
        places = [(axis.output_size, step) for axis, step in zip(self.axes, steps, strict=True)]
        group = self.filters * k
        return self.matrix(start, axes((self.filters, k)), axes(*places), sample=n, group=group, fold=n)

    def input_planes(self) -> Matrix:
        """Rows are channels, elements the pixels that outputs of a 1x1 kernel read of one sample."""
        n, c, *steps = self.arrays.x
        places = [(axis.output_size, axis.stride * step) for axis, step in zip(self.axes, steps, strict=True)]
        group = self.channels * c
        return self.matrix(X, axes((self.channels, c)), axes(*places), sample=n, group=group, fold=n)


def turned(matrix: Matrix, views: Views) -> Matrix:
    """Exchange rows and elements."""
    return matrix._replace(rows=matrix.lanes, lanes=matrix.rows, laid=views.laid(matrix.rows))


class DenseGradient(InputGradient):
    """The input's gradient by one product: where there is one phase. Each of several would be begun from Python."""

    def supports(self, problem: ConvProblem, device: Any) -> str:
        """Return ``""`` for a stride of 1, else why not."""
        if set(problem.geometry.stride) != {1}:
            return "the stride has several phases"
        return super().supports(problem, device)

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled seconds, counted as those of the other ways are."""
        return super().cost(problem, device) + call_seconds(problem, device)


def all_pixels(problem: ConvProblem) -> int:
    """Return the output pixels of all samples."""
    return problem.batch * problem.output_pixels


class MatrixProduct:
    """What all of them share: no packing but a copy, a scratch for each thread, the call of the loop nest."""

    name: str
    outer: bool

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return the sizes of the product."""
        raise NotImplementedError

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return the product, given the strides of the arrays."""
        raise NotImplementedError

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""``, or why not."""
        return "a residual is added by tiles alone" if problem.residual else no_half(problem, device)

    def cost(self, problem: ConvProblem, device: CpuDevice) -> float:
        """Return the modelled time: products, and what is laid beside them."""
        lanes = device.lanes(accumulator_itemsize(problem))
        return self.units(problem, lanes) * problem.groups / (VECTORS_PER_SECOND * device.threads)

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        raise NotImplementedError

    def detail(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Say what the product is of."""
        sizes = self.sizes(problem)
        return f"{sizes.rows} x {sizes.columns}, sums of {sizes.depth * max(sizes.folds, 1)}"

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return what the order of packed weights depends on."""
        return ("as given", problem.weight_shape, problem.dtype)

    def packed_bytes(self, problem: ConvProblem, device: CpuDevice) -> int:
        """Return the bytes of the weights."""
        return align(math.prod(problem.weight_shape) * problem.itemsize)

    def pack(self, problem: ConvProblem, device: CpuDevice, weight: np.ndarray, packed: np.ndarray) -> None:
        """Copy the weights, end to end."""
        self._stored(problem, packed.view(weight.dtype)[: weight.size])[...] = weight

    def workspace(self, problem: ConvProblem, device: CpuDevice, *, packed: bool) -> int:
        """Return the bytes of a task counter and of each thread's scratch."""
        return _layout(self, problem, device)[1].nbytes

    def run(
        self, problem: ConvProblem, device: CpuDevice, operands: Operands, workspace: np.ndarray, out: np.ndarray
    ) -> None:
        """Compute `problem` into `out`."""
        weight, bias = operands.weight, operands.bias
        if operands.packed_weight is not None:
            flat = operands.packed_weight.view(out.dtype)[: math.prod(problem.weight_shape)]
            weight = self._stored(problem, flat)
        strides = grouped_strides(problem, weight.strides)
        apart = None if bias is None else bias.strides[0]
        job = prepare(self, problem, device, strides_of(operands.x), strides, strides_of(out), apart)
        self.execute(problem, job, operands.x, weight, bias, workspace, out, operands)

    def _stored(self, problem: ConvProblem, flat: np.ndarray) -> np.ndarray:
        """View packed weights as ``(K, C / groups, *kernel)``."""
        return flat.reshape(problem.weight_shape)

    def execute(
        self,
        problem: ConvProblem,
        job: _Job,
        x: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None,
        workspace: np.ndarray,
        out: np.ndarray,
        *arrays: object,
    ) -> None:
        """Run a job; `weight` is the other operand, whatever it is, and `arrays` are kept alive."""
        from stridekit.backends.cpu.products.loop_nest import inner_product, outer_product
        from stridekit.backends.cpu.runtime.thread_pool import run

        workspace[:WORD_BYTES] = 0
        begin = bases(workspace, x, out, weight, bias)
        arrays = workspace, x, weight, bias, out, job, *arrays
        multiply = outer_product if self.outer else inner_product
        run(multiply(problem.dtype), job.rows.at(begin), job.workers, *arrays)


class _Job(NamedTuple):
    """All of a call that does not change from one to the next."""

    rows: Rows
    workers: int
    kept: np.ndarray


def _layout(algorithm: MatrixProduct, problem: ConvProblem, device: CpuDevice) -> tuple[Cut, WorkspaceLayout]:
    itemsize = accumulator_itemsize(problem)
    b = cut(algorithm.sizes(problem), device, outer=algorithm.outer, itemsize=itemsize, size=problem.itemsize)
    return b, WorkspaceLayout((("counter", WORD_BYTES), ("scratch", b.workers * align(b.scratch))))


@lru_cache(maxsize=1024)
def prepare(
    algorithm: MatrixProduct,
    problem: ConvProblem,
    device: CpuDevice,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    out: tuple[int, ...],
    bias: int | None,
) -> _Job:
    """Prepare a problem, given the strides of its arrays, and of a bias if there is one."""
    b, layout = _layout(algorithm, problem, device)
    arrays = Arrays(x, weight, out, bias or 0)
    product = algorithm.product(problem, arrays)
    activation, slope = activation_of(problem)
    job = Multiplication(
        counter=WORKSPACE + layout.offsets["counter"],
        scratch=WORKSPACE + layout.offsets["scratch"],
        scratch_step=align(b.scratch),
        activation=activation,
        slope=int(slope.ctypes.data),
        bias=NO_BIAS if bias is None else product.bias,
        cut=b,
        a=product.a,
        b=product.b,
        result=product.result,
        windows=Views(problem, arrays).window_axes(),
    )
    return _Job(rows(job), b.workers, slope)


class WindowProduct(MatrixProduct):
    """Lanes run along a window and a filter: sums of as many products as a filter has weights."""

    name = "window_product"
    outer = False

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return output pixels by filters, or the other way round: the fewer rows of windows are laid the better."""
        pixels, filters = all_pixels(problem), problem.group_out_channels
        rows, columns = (filters, pixels) if self._filters_first(problem) else (pixels, filters)
        depth = problem.group_in_channels * problem.taps
        return Sizes(1, problem.groups, 1, rows, columns, depth, problem.taps, problem.moved_bytes)

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return windows times filters."""
        views = Views(problem, arrays)
        windows, weights = views.windows(), views.weights(WEIGHT, arrays.weight)
        result, group, step = views.outputs(OUT, arrays.out), views.filters * arrays.bias, arrays.bias
        if self._filters_first(problem):
            bias = Bias(BIAS, group, row=step, column=0)
            return Product(self.sizes(problem), weights, windows, turned(result, views), bias)
        return Product(self.sizes(problem), windows, weights, result, Bias(BIAS, group, row=0, column=step))

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        pixels, filters = all_pixels(problem), problem.group_out_channels
        depth = problem.group_in_channels * problem.taps
        sums = pixels * filters * (INNER * -(-depth // lanes) + ADDING_UP * -(-depth // INNER_DEPTH))
        # A tile of one row computes so many columns.
        spare = INNER_COLUMNS / min(INNER_COLUMNS, max(problem.output_pixels, filters))
        laid = pixels * depth * -(-filters // 240) if are_laid(problem) else 0
        return sums * spare + LAYING * laid

    def _filters_first(self, problem: ConvProblem) -> bool:
        return problem.group_out_channels < min(_NARROW_FILTERS, all_pixels(problem))


def are_laid(problem: ConvProblem) -> bool:
    """Say whether windows have to be laid: all but those of single pixels of channels side by side."""
    plain = problem.taps == 1 and not any(axis.pad_before or axis.pad_after for axis in problem.geometry.axes)
    return not (plain and (problem.memory_order == "channels_last" or math.prod(problem.geometry.input_size) == 1))


class TurnedProduct(MatrixProduct):
    """Lanes are filters that lie side by side, as they do where filters and channels have changed places."""

    name = "turned_product"
    outer = True

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return output pixels by filters."""
        depth = problem.group_in_channels * problem.taps
        filters = problem.group_out_channels
        return Sizes(1, problem.groups, 1, all_pixels(problem), filters, depth, problem.taps, problem.moved_bytes)

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return windows times turned filters."""
        views = Views(problem, arrays)
        weights, result = turned(views.weights(WEIGHT, arrays.weight), views), views.outputs(OUT, arrays.out)
        bias = Bias(BIAS, views.filters * arrays.bias, row=0, column=arrays.bias)
        return Product(self.sizes(problem), views.windows(), weights, result, bias)

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        pixels, filters = all_pixels(problem), problem.group_out_channels
        depth = problem.group_in_channels * problem.taps
        each = OUTER if problem.output_pixels >= _FEW_ROWS else _OUTER_LOW
        laid = pixels * depth if are_laid(problem) and problem.taps > 1 else 0
        turned = problem.batch * depth * filters if problem.taps > 1 else 0
        return pixels * depth * -(-filters // lanes) * each + LAYING * (laid + turned)

    def packing(self, problem: ConvProblem, device: CpuDevice) -> tuple[object, ...]:
        """Return what the order of packed weights depends on."""
        return ("turned", problem.weight_shape, problem.groups, problem.dtype)

    def _stored(self, problem: ConvProblem, flat: np.ndarray) -> np.ndarray:
        # Filters innermost, those of every group: so they are evenly spaced from one group to the next.
        stored = flat.reshape(*problem.weight_shape[1:], problem.out_channels)
        return np.moveaxis(stored, -1, 0)


class PlaneProduct(MatrixProduct):
    """Lanes are pixels of one channel, side by side: kernels of one tap without padding."""

    name = "plane_product"
    outer = True

    def supports(self, problem: ConvProblem, device: CpuDevice) -> str:
        """Return ``""`` for kernels of one tap without padding, else why not."""
        return single_pixels(problem) or super().supports(problem, device)

    def sizes(self, problem: ConvProblem) -> Sizes:
        """Return filters by output pixels."""
        rows, depth, moved = problem.group_out_channels, problem.group_in_channels, problem.moved_bytes
        return Sizes(problem.batch, problem.groups, 1, rows, problem.output_pixels, depth, 1, moved)

    def product(self, problem: ConvProblem, arrays: Arrays) -> Product:
        """Return filters times planes of the input."""
        views = Views(problem, arrays)
        bias = Bias(BIAS, views.filters * arrays.bias, row=arrays.bias, column=0)
        weights, result = views.weights(WEIGHT, arrays.weight), views.output_planes(OUT, arrays.out)
        return Product(self.sizes(problem), weights, views.input_planes(), result, bias)

    def units(self, problem: ConvProblem, lanes: int) -> float:
        """Return the modelled time of one group in vectors of products."""
        return plane_units(problem, lanes, _PLANES)


def single_pixels(problem: ConvProblem) -> str:
    """Return ``""`` if every window is one pixel of the input, else why not."""
    if problem.taps > 1 or any(axis.pad_before or axis.pad_after for axis in problem.geometry.axes):
        return "windows are more than one pixel of the input"
    return ""


def plane_units(problem: ConvProblem, lanes: int, each: float) -> float:
    """Return the modelled time of one group's products of planes, in vectors of products of `each` tile's rate."""
    products = problem.group_out_channels * problem.group_in_channels * -(-problem.output_pixels // lanes)
    side_by_side = problem.memory_order == "channels_first" and set(problem.geometry.stride) == {1}
    laid = 0 if side_by_side else (problem.group_in_channels + problem.group_out_channels) * problem.output_pixels
    return problem.batch * (products * each + LAYING * laid)
