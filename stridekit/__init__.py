"""Neural-network convolution for NumPy and CuPy arrays, with stride as a decision you can measure.

Names are loaded on first use: importing stridekit imports nothing but the standard library and NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stridekit.concurrency import loaded

if TYPE_CHECKING:
    from stridekit import networks as networks
    from stridekit import vram as vram
    from stridekit.backends.cpu.threads import get_num_threads as get_num_threads
    from stridekit.backends.cpu.threads import set_num_threads as set_num_threads
    from stridekit.blurring import blur_pool1d as blur_pool1d
    from stridekit.blurring import blur_pool2d as blur_pool2d
    from stridekit.blurring import blur_pool3d as blur_pool3d
    from stridekit.blurring import blur_pool_grad as blur_pool_grad
    from stridekit.compare import compare_strides as compare_strides
    from stridekit.conv import conv1d as conv1d
    from stridekit.conv import conv2d as conv2d
    from stridekit.conv import conv3d as conv3d
    from stridekit.conv_transpose import conv_transpose1d as conv_transpose1d
    from stridekit.conv_transpose import conv_transpose2d as conv_transpose2d
    from stridekit.conv_transpose import conv_transpose3d as conv_transpose3d
    from stridekit.errors import BackendUnavailableError as BackendUnavailableError
    from stridekit.errors import DtypeError as DtypeError
    from stridekit.errors import ImageError as ImageError
    from stridekit.errors import LayoutError as LayoutError
    from stridekit.errors import MissingExtraError as MissingExtraError
    from stridekit.errors import NetworkError as NetworkError
    from stridekit.errors import ShapeError as ShapeError
    from stridekit.errors import StridekitError as StridekitError
    from stridekit.errors import VramBudgetError as VramBudgetError
    from stridekit.geometry import conv_geometry as conv_geometry
    from stridekit.gradients import conv_input_grad as conv_input_grad
    from stridekit.gradients import conv_weight_grad as conv_weight_grad
    from stridekit.planning import plan_conv as plan_conv
    from stridekit.planning import use_backend as use_backend
    from stridekit.pool import avg_pool1d as avg_pool1d
    from stridekit.pool import avg_pool2d as avg_pool2d
    from stridekit.pool import avg_pool3d as avg_pool3d
    from stridekit.pool import max_pool1d as max_pool1d
    from stridekit.pool import max_pool2d as max_pool2d
    from stridekit.pool import max_pool3d as max_pool3d
    from stridekit.pool_gradients import avg_pool_grad as avg_pool_grad
    from stridekit.pool_gradients import max_pool_grad as max_pool_grad

_HOMES = {
    "conv1d": "conv",
    "conv2d": "conv",
    "conv3d": "conv",
    "conv_input_grad": "gradients",
    "conv_weight_grad": "gradients",
    "conv_transpose1d": "conv_transpose",
    "conv_transpose2d": "conv_transpose",
    "conv_transpose3d": "conv_transpose",
    "conv_geometry": "geometry",
    "plan_conv": "planning",
    "use_backend": "planning",
    "blur_pool1d": "blurring",
    "blur_pool2d": "blurring",
    "blur_pool3d": "blurring",
    "blur_pool_grad": "blurring",
    "avg_pool1d": "pool",
    "avg_pool2d": "pool",
    "avg_pool3d": "pool",
    "max_pool1d": "pool",
    "max_pool2d": "pool",
    "max_pool3d": "pool",
    "avg_pool_grad": "pool_gradients",
    "max_pool_grad": "pool_gradients",
    "compare_strides": "compare",
    "get_num_threads": "backends.cpu.threads",
    "set_num_threads": "backends.cpu.threads",
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
