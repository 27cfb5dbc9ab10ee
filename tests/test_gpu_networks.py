"""Networks on a GPU: as on the CPU, with CuPy's own kernels between ours, in the memory that was predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stridekit as sk
from bench.gpu_memory import pool_use
from stridekit.backends import unavailable
from stridekit.networks import Network

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(unavailable("cuda")), reason=f"cuda: {unavailable('cuda')}"),
]

EVERYTHING = """
layers = [
  {name = "image", op = "input", size = [3, 33, 29]},
  {name = "stem", op = "conv", out_channels = 8, kernel_size = 3, stride = 2, padding = 1, bias = false},
  {name = "norm", op = "batch_norm"},
  {name = "first", op = "relu"},
  {op = "conv", out_channels = 8, kernel_size = 3, padding = 1},
  {op = "gelu"},
  {op = "silu"},
  {op = "layer_norm"},
  {name = "scaled", op = "scale", initial = 0.5},
  {name = "sum", op = "add", inputs = ["scaled", "first"]},
  {name = "small", op = "max_pool", kernel_size = 3, stride = 2, padding = 1},
  {name = "large", op = "upsample", inputs = ["small", "sum"], mode = "linear"},
  {name = "spread", op = "conv_transpose", inputs = ["small", "sum"], out_channels = 6, kernel_size = 1, stride = 2},
  {op = "concat", inputs = ["large", "spread", "sum"]},
  {op = "slice", start = 3, stop = 17},
  {op = "blur_pool"},
  {op = "leaky_relu"},
  {op = "avg_pool", kernel_size = 2},
  {op = "sigmoid"},
  {op = "upsample", factor = 2},
  {op = "tanh"},
  {name = "bounded", op = "relu6"},
  {op = "global_avg_pool"},
  {op = "conv", out_channels = 14, kernel_size = 1},
  {name = "gate", op = "hard_sigmoid"},
  {op = "multiply", inputs = ["bounded", "gate"]},
  {name = "swish", op = "hard_swish"},
  {op = "multiply", inputs = ["swish", "bounded"]},
  {op = "global_avg_pool"},
  {op = "flatten"},
  {op = "linear", out_features = 5},
]
"""


def both() -> tuple[Any, Any]:
    """Return the same network twice, with the same parameters."""
    return Network.parse(EVERYTHING).initialize(1), Network.parse(EVERYTHING).initialize(1)


@pytest.mark.parametrize("library", ["cupy", "numpy"])
def test_a_network_gives_on_the_card_what_it_gives_here(library: str) -> None:
    import cupy

    here, there = both()
    x = np.random.default_rng(0).standard_normal((3, 3, 33, 29), np.float32)
    given = cupy.asarray(x) if library == "cupy" else x
    found = there.run(given, backend="cuda")
    assert type(found) is type(given)
    np.testing.assert_allclose(cupy.asnumpy(found), here.run(x, backend="cpu"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_training_moves_the_parameters_as_it_does_here(optimizer: str) -> None:
    import cupy

    here, there = both()
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((4, 3, 33, 29), np.float32), rng.integers(0, 5, 4)
    for _ in range(3):
        loss = here.train_step(x, target, optimizer, backend="cpu")
        assert there.train_step(cupy.asarray(x), cupy.asarray(target), optimizer) == pytest.approx(loss, rel=1e-3)
    for name, value in here.parameters.items():
        np.testing.assert_allclose(cupy.asnumpy(there.parameters[name]), value, rtol=1e-2, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["resnet18", "convnext_t", "unet"])
def test_the_prediction_is_what_the_pool_gives_out(name: str, dtype: str) -> None:
    import cupy

    from stridekit.memory.arrays import numpy_dtype

    network = sk.networks.load(name).resized(64).initialize(dtype=dtype)
    shape = (2, *network.features[network.inputs[0].name].shape)
    x = cupy.asarray(np.ones(shape, np.float32)).astype(numpy_dtype(dtype))
    target = cupy.zeros((2, *network.features[network.outputs[0]].shape[1:]), np.int64)
    network.run(x)
    for training in (False, True):
        with pool_use() as pool, sk.vram.track() as usage:
            result = network.train_step(x, target, "adam") if training else network.run(x)
        predicted = network.vram(2, dtype=dtype, training=training, optimizer="adam", backend="cuda").allocated
        assert usage.peak == predicted
        # CuPy's reductions may take a little of their own.
        assert predicted <= pool.peak <= 1.02 * predicted + 2**20
        del result
