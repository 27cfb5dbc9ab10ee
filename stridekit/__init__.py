"""Neural-network convolution for NumPy and CuPy arrays, with stride as a decision you can measure.

Names are loaded on first use: importing stridekit imports nothing but the standard library and NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stridekit.concurrency import loaded

if TYPE_CHECKING:
    from stridekit import networks as networks
    from stridekit import vram as vram
    from stridekit.backends.cpu.runtime.thread_count import get_num_threads as get_num_threads
    from stridekit.backends.cpu.runtime.thread_count import set_num_threads as set_num_threads
    from stridekit.compare import compare_strides as compare_strides
    from stridekit.errors import BackendUnavailableError as BackendUnavailableError
    from stridekit.errors import DtypeError as DtypeError
    from stridekit.errors import ImageError as ImageError
    from stridekit.errors import LayoutError as LayoutError
    from stridekit.errors import MissingExtraError as MissingExtraError
    from stridekit.errors import NetworkError as NetworkError
    from stridekit.errors import ShapeError as ShapeError
    from stridekit.errors import StridekitError as StridekitError
    from stridekit.errors import VramBudgetError as VramBudgetError
    from stridekit.ops.blur_pool import blur_pool1d as blur_pool1d
    from stridekit.ops.blur_pool import blur_pool2d as blur_pool2d
    from stridekit.ops.blur_pool import blur_pool3d as blur_pool3d
    from stridekit.ops.blur_pool import blur_pool_grad as blur_pool_grad
    from stridekit.ops.conv import conv1d as conv1d
    from stridekit.ops.conv import conv2d as conv2d
    from stridekit.ops.conv import conv3d as conv3d
    from stridekit.ops.conv_gradients import conv_input_grad as conv_input_grad
    from stridekit.ops.conv_gradients import conv_weight_grad as conv_weight_grad
    from stridekit.ops.conv_transpose import conv_transpose1d as conv_transpose1d
    from stridekit.ops.conv_transpose import conv_transpose2d as conv_transpose2d
    from stridekit.ops.conv_transpose import conv_transpose3d as conv_transpose3d
    from stridekit.ops.pool import avg_pool1d as avg_pool1d
    from stridekit.ops.pool import avg_pool2d as avg_pool2d
    from stridekit.ops.pool import avg_pool3d as avg_pool3d
    from stridekit.ops.pool import max_pool1d as max_pool1d
    from stridekit.ops.pool import max_pool2d as max_pool2d
    from stridekit.ops.pool import max_pool3d as max_pool3d
    from stridekit.ops.pool_gradients import avg_pool_grad as avg_pool_grad
    from stridekit.ops.pool_gradients import max_pool_grad as max_pool_grad
    from stridekit.planning.dispatch import plan_conv as plan_conv
    from stridekit.planning.dispatch import use_backend as use_backend
    from stridekit.problems.geometry import conv_geometry as conv_geometry

_HOMES = {
    "conv1d": "ops.conv",
    "conv2d": "ops.conv",
    "conv3d": "ops.conv",
    "conv_input_grad": "ops.conv_gradients",
    "conv_weight_grad": "ops.conv_gradients",
    "conv_transpose1d": "ops.conv_transpose",
    "conv_transpose2d": "ops.conv_transpose",
    "conv_transpose3d": "ops.conv_transpose",
    "conv_geometry": "problems.geometry",
    "plan_conv": "planning.dispatch",
    "use_backend": "planning.dispatch",
    "blur_pool1d": "ops.blur_pool",
    "blur_pool2d": "ops.blur_pool",
    "blur_pool3d": "ops.blur_pool",
    "blur_pool_grad": "ops.blur_pool",
    "avg_pool1d": "ops.pool",
    "avg_pool2d": "ops.pool",
    "avg_pool3d": "ops.pool",
    "max_pool1d": "ops.pool",
    "max_pool2d": "ops.pool",
    "max_pool3d": "ops.pool",
    "avg_pool_grad": "ops.pool_gradients",
    "max_pool_grad": "ops.pool_gradients",
    "compare_strides": "compare",
    "get_num_threads": "backends.cpu.runtime.thread_count",
    "set_num_threads": "backends.cpu.runtime.thread_count",
    "StridekitError": "errors",
    "ShapeError": "errors",
    "DtypeError": "errors",
    "LayoutError": "errors",
    "BackendUnavailableError": "errors",
    "VramBudgetError": "errors",
    "ImageError": "errors",
    "MissingExtraError": "errors",
    "NetworkError": "errors",
}
_MODULES = ("networks", "vram")

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(loaded(f"stridekit.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = loaded(f"stridekit.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("stridekit")
    else:
        raise AttributeError(f"module 'stridekit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
