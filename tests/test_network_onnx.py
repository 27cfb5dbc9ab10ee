"""What ONNX models become, operator by operator: which layers, and results as ONNX's own reference computes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.cli import run
from stridekit.networks import Network, NetworkError, load
from tests.kit.hostile import Call, mistakes

onnx = pytest.importorskip("onnx", reason="models are read by onnx; pip install '.[onnx]'")
from onnx import TensorProto, helper, numpy_helper, reference  # noqa: E402

Node = tuple[str, list[str], dict[str, Any]]


def build(
    nodes: list[Node],
    shape: tuple[Any, ...],
    weights: dict[str, Any] | None = None,
    *,
    dtype: str = "float64",
    opset: int = 17,
    outputs: list[str] | None = None,
) -> Any:
    """Return a model of nodes (operator, inputs, attributes); the n-th gives ``"y<n>"``, or what ``outputs`` says."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype != "bfloat16" else TensorProto.BFLOAT16
    rng = np.random.default_rng(0)
    initializers = []
    for name, value in (weights or {}).items():
        array = value if isinstance(value, np.ndarray) else rng.uniform(0.2, 1, value).astype(dtype)
        initializers.append(numpy_helper.from_array(array, name))
    made = []
    for number, (operator, inputs, attributes) in enumerate(nodes):
        given = dict(attributes)
        names = given.pop("outputs", [f"y{number}"])
        made.append(helper.make_node(operator, inputs, names, name=f"n{number}", **given))
    ends = [names[0]] if outputs is None else outputs
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in ends],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        # The checker wants some shape, and what is wrong on purpose has none.
        value.type.tensor_type.shape.SetInParent()
    return model


def kinds(network: Network) -> list[str]:
    return [getattr(layer.operation, "function", layer.operation.kind) for layer in network.layers[1:]]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


W = {"w": (4, 3, 3, 2), "b": (4,)}
TURNED = {"w": (4, 3, 3, 3), "b": (3,)}
CHANNELS_LAST, CHANNELS_FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}
SQRT2 = np.float64(np.sqrt(2))
ONE, HALF = np.float64(1), np.float64(0.5)
CONSTANTS = {name: np.array(value) for name, value in {"root": SQRT2, "one": ONE, "half": HALF}.items()}
HARD = {name: np.array(value) for name, value in {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6}.items()}
IMAGE = (2, 3, 8, 7)

# Name: (nodes, the input's shape, weights, opset, what layers it becomes).
CASES: dict[str, tuple[list[Node], tuple[int, ...], dict[str, Any], int, list[str]]] = {
    "conv": (
        [("Conv", ["x", "w", "b"], {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]})],
        IMAGE, W, 17, ["conv"],
    ),
    "conv-same-upper": ([("Conv", ["x", "w"], {"auto_pad": "SAME_UPPER", "strides": [2, 2]})], IMAGE, W, 17, ["conv"]),
    "conv-same-lower": ([("Conv", ["x", "w"], {"auto_pad": "SAME_LOWER", "strides": [2, 3]})], IMAGE, W, 17, ["conv"]),
    "conv-valid": ([("Conv", ["x", "w"], {"auto_pad": "VALID"})], IMAGE, W, 17, ["conv"]),
    "conv-groups": ([("Conv", ["x", "w"], {"group": 3})], IMAGE, {"w": (6, 1, 3, 3)}, 17, ["conv"]),
    "conv-1d": ([("Conv", ["x", "w"], {"pads": [0, 2]})], (2, 3, 9), {"w": (4, 3, 3)}, 17, ["conv"]),
    "conv-3d": ([("Conv", ["x", "w"], {})], (1, 2, 4, 5, 6), {"w": (3, 2, 2, 3, 3)}, 17, ["conv"]),
    "conv-pad": (
        [("Pad", ["x", "p"], {}), ("Conv", ["y0", "w"], {"pads": [1, 1, 1, 1]})],
        IMAGE, {**W, "p": ints(0, 0, 1, 2, 0, 0, 0, 3)}, 17, ["conv"],
    ),
    "conv-pad-reflect": (
        [("Pad", ["x", "p"], {"mode": "reflect"}), ("Conv", ["y0", "w"], {})],
        IMAGE, {**W, "p": ints(0, 0, 1, 2, 0, 0, 0, 3)}, 17, ["conv"],
    ),
    "conv-pad-old": (
        [("Pad", ["x"], {"pads": [0, 0, 1, 0, 0, 0, 0, 1]}), ("Conv", ["y0", "w"], {})], IMAGE, W, 9, ["conv"],
    ),
    "conv-transpose": (
        [("ConvTranspose", ["x", "w", "b"], {"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 0]})],
        (2, 4, 5, 4), TURNED, 17, ["conv_transpose"],
    ),
    "max-pool": (
        [("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})],
        IMAGE, {}, 17, ["max_pool"],
    ),
    "max-pool-ceil": (
        [("MaxPool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})], IMAGE, {}, 17, ["max_pool"],
    ),
    "max-pool-dilated": (
        [("MaxPool", ["x"], {"kernel_shape": [2, 2], "dilations": [2, 3]})], IMAGE, {}, 17, ["max_pool"],
    ),
    "max-pool-same": (
        [("MaxPool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"})],
        IMAGE, {}, 17, ["max_pool"],
    ),
    "average-pool": (
        [("AveragePool", ["x"], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0]})],
        IMAGE, {}, 17, ["avg_pool"],
    ),
    "average-pool-counting": (
        [("AveragePool", ["x"], {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0], "count_include_pad": 1})],
        IMAGE, {}, 17, ["avg_pool"],
    ),
    "average-pool-pad": (
        [("Pad", ["x", "p"], {}), ("AveragePool", ["y0"], {"kernel_shape": [2, 2]})],
        IMAGE, {"p": ints(0, 0, 1, 0, 0, 0, 1, 1)}, 17, ["avg_pool"],
    ),
    "global-average": ([("GlobalAveragePool", ["x"], {})], IMAGE, {}, 17, ["global_avg_pool"]),
    "global-max": ([("GlobalMaxPool", ["x"], {})], IMAGE, {}, 17, ["global_max_pool"]),
    "reduce-mean": ([("ReduceMean", ["x"], {"axes": [2, 3]})], IMAGE, {}, 17, ["global_avg_pool"]),
    "reduce-mean-18": (
        [("ReduceMean", ["x", "a"], {"keepdims": 0})], IMAGE, {"a": ints(-1, -2)}, 18, ["global_avg_pool", "flatten"],
    ),
    "reduce-max": (
        [("ReduceMax", ["x"], {"axes": [2, 3], "keepdims": 0})], IMAGE, {}, 17, ["global_max_pool", "flatten"],
    ),
    "relu": ([("Relu", ["x"], {})], IMAGE, {}, 17, ["relu"]),
    "leaky-relu": ([("LeakyRelu", ["x"], {"alpha": 0.25})], IMAGE, {}, 17, ["leaky_relu"]),
    "sigmoid": ([("Sigmoid", ["x"], {})], IMAGE, {}, 17, ["sigmoid"]),
    "tanh": ([("Tanh", ["x"], {})], IMAGE, {}, 17, ["tanh"]),
    "relu6": (
        [("Clip", ["x", "low", "high"], {})], IMAGE, {"low": np.array(0.0), "high": np.array(6.0)}, 17, ["relu6"],
    ),
    "relu6-old": ([("Clip", ["x"], {"min": 0.0, "max": 6.0})], IMAGE, {}, 9, ["relu6"]),
    "clipped-relu": (
        [("Clip", ["x", "low", "high"], {})], IMAGE, {"low": np.array(0.0), "high": np.array(2.0)}, 17,
        ["clipped_relu"],
    ),
    "gelu": ([("Gelu", ["x"], {})], IMAGE, {}, 20, ["gelu"]),
    "gelu-written-out": (
        [("Div", ["x", "root"], {}), ("Erf", ["y0"], {}), ("Add", ["one", "y1"], {}), ("Mul", ["x", "y2"], {}),
         ("Mul", ["y3", "half"], {})],
        IMAGE, CONSTANTS, 17, ["gelu"],
    ),
    "gelu-halved-first": (
        [("Mul", ["half", "x"], {}), ("Div", ["x", "root"], {}), ("Erf", ["y1"], {}), ("Add", ["y2", "one"], {}),
         ("Mul", ["y0", "y3"], {})],
        IMAGE, CONSTANTS, 17, ["gelu"],
    ),
    "silu": ([("Sigmoid", ["x"], {}), ("Mul", ["x", "y0"], {})], IMAGE, {}, 17, ["silu"]),
    "silu-beside-sigmoid": (
        [("Sigmoid", ["x"], {}), ("Mul", ["y0", "x"], {}), ("Add", ["y0", "y1"], {})], IMAGE, {}, 17,
        ["sigmoid", "silu", "add"],
    ),
    "leaky-relu-of-relu": (
        [("Relu", ["x"], {}), ("Sigmoid", ["y0"], {}), ("Mul", ["y0", "y1"], {})], IMAGE, {}, 17, ["relu", "silu"],
    ),
    "hard-swish": ([("HardSwish", ["x"], {})], IMAGE, {}, 17, ["hard_swish"]),
    "hard-sigmoid": ([("HardSigmoid", ["x"], {"alpha": 1 / 6})], IMAGE, {}, 17, ["hard_sigmoid"]),
    "hard-swish-written-out": (
        [("Add", ["x", "three"], {}), ("Clip", ["y0", "zero", "six"], {}), ("Mul", ["x", "y1"], {}),
         ("Div", ["y2", "six"], {})],
        IMAGE, HARD, 17, ["hard_swish"],
    ),
    "hard-sigmoid-written-out": (
        [("Add", ["three", "x"], {}), ("Clip", ["y0", "zero", "six"], {}), ("Mul", ["sixth", "y1"], {})],
        IMAGE, HARD, 17, ["hard_sigmoid"],
    ),
    "hard-swish-of-hard-sigmoid": (
        [("HardSigmoid", ["x"], {"alpha": 1 / 6}), ("Mul", ["y0", "x"], {})], IMAGE, {}, 17, ["hard_swish"],
    ),
    "hard-swish-of-relu6": (
        [("Add", ["x", "three"], {}), ("Clip", ["y0", "zero", "six"], {}), ("Div", ["y1", "six"], {}),
         ("Mul", ["x", "y2"], {})],
        IMAGE, HARD, 17, ["hard_swish"],
    ),
    "product": ([("Relu", ["x"], {}), ("Concat", ["x", "y0"], {"axis": 1}),
                 ("Split", ["y1"], {"axis": 1, "outputs": ["one", "two"]}), ("Mul", ["two", "one"], {})],
                IMAGE, {}, 17, ["relu", "concat", "slice", "slice", "multiply"]),
    "product-of-functions": (
        [("Relu", ["x"], {}), ("Tanh", ["x"], {}), ("Mul", ["y0", "y1"], {}), ("Mul", ["y2", "y2"], {})],
        IMAGE, {}, 17, ["relu", "tanh", "multiply", "multiply"],
    ),
    "gate": (
        [("GlobalAveragePool", ["x"], {}), ("Conv", ["y0", "w"], {}), ("Sigmoid", ["y1"], {}),
         ("Mul", ["x", "y2"], {})],
        IMAGE, {"w": (3, 3, 1, 1)}, 17, ["global_avg_pool", "conv", "sigmoid", "multiply"],
    ),
    "gate-first": (
        [("GlobalAveragePool", ["x"], {}), ("HardSigmoid", ["y0"], {"alpha": 1 / 6}), ("Mul", ["y1", "x"], {})],
        IMAGE, {}, 17, ["global_avg_pool", "hard_sigmoid", "multiply"],
    ),
    "gate-channels-last": (
        [("Transpose", ["x"], CHANNELS_LAST), ("ReduceMean", ["y0"], {"axes": [1, 2]}), ("MatMul", ["y1", "w"], {}),
         ("Mul", ["y2", "y0"], {}), ("Transpose", ["y3"], CHANNELS_FIRST)],
        IMAGE, {"w": (3, 3)}, 17, ["global_avg_pool", "conv", "multiply"],
    ),
    "gate-of-one-pixel": (
        [("Tanh", ["x"], {}), ("Sigmoid", ["x"], {}), ("Mul", ["y0", "y1"], {})], (2, 3, 1, 1), {}, 17,
        ["tanh", "sigmoid", "multiply"],
    ),
    "batch-norm": (
        [("BatchNormalization", ["x", "s", "b", "m", "v"], {"epsilon": 1e-3})],
        IMAGE, {"s": (3,), "b": (3,), "m": (3,), "v": (3,)}, 17, ["batch_norm"],
    ),
    "layer-norm": (
        [("Transpose", ["x"], CHANNELS_LAST), ("LayerNormalization", ["y0", "s", "b"], {"epsilon": 1e-6}),
         ("Transpose", ["y1"], CHANNELS_FIRST)],
        IMAGE, {"s": (3,), "b": (3,)}, 17, ["layer_norm"],
    ),
    "channels-last-linear": (
        [("Transpose", ["x"], CHANNELS_LAST), ("MatMul", ["y0", "w"], {}), ("Add", ["b", "y1"], {}),
         ("Relu", ["y2"], {}), ("Mul", ["y3", "g"], {}), ("Transpose", ["y4"], CHANNELS_FIRST)],
        IMAGE, {"w": (3, 5), "b": (5,), "g": (5,)}, 17, ["conv", "relu", "scale"],
    ),
    "scale": ([("Mul", ["g", "x"], {})], IMAGE, {"g": (3, 1, 1)}, 17, ["scale"]),
    "add": ([("Relu", ["x"], {}), ("Add", ["x", "y0"], {})], IMAGE, {}, 17, ["relu", "add"]),
    "sum": ([("Relu", ["x"], {}), ("Sum", ["x", "y0", "y0"], {})], IMAGE, {}, 17, ["relu", "add", "add"]),
    "concat": ([("Relu", ["x"], {}), ("Concat", ["x", "y0"], {"axis": 1})], IMAGE, {}, 17, ["relu", "concat"]),
    "slice": (
        [("Slice", ["x", "s", "e", "a"], {})], IMAGE, {"s": ints(1), "e": ints(2**62), "a": ints(1)}, 17, ["slice"],
    ),
    "slice-old": ([("Slice", ["x"], {"starts": [0], "ends": [-1], "axes": [1]})], IMAGE, {}, 9, ["slice"]),
    "split": (
        [("Split", ["x", "s"], {"axis": 1, "outputs": ["one", "two"]}), ("Concat", ["two", "one"], {"axis": 1})],
        IMAGE, {"s": ints(1, 2)}, 17, ["slice", "slice", "concat"],
    ),
    "resize-nearest": (
        [("Resize", ["x", "", "f"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                     "nearest_mode": "floor"})],
        IMAGE, {"f": np.array([1, 1, 2, 3], np.float32)}, 17, ["upsample"],
    ),
    "resize-nearest-centres": (
        [("Resize", ["x", "", "f"], {"mode": "nearest"})], IMAGE, {"f": np.array([1, 1, 2, 3], np.float32)}, 17,
        ["upsample"],
    ),
    "resize-linear": (
        [("Resize", ["x", "", "", "s"], {"mode": "linear"})], IMAGE, {"s": ints(2, 3, 16, 21)}, 17, ["upsample"],
    ),
    "resize-corners": (
        [("Resize", ["x", "", "", "s"], {"mode": "linear", "coordinate_transformation_mode": "align_corners"})],
        IMAGE, {"s": ints(2, 3, 16, 14)}, 17, ["upsample"],
    ),
    "upsample-old": ([("Upsample", ["x", "f"], {})], IMAGE, {"f": np.array([1, 1, 2, 2], np.float32)}, 9, ["upsample"]),
    "resize-like": (
        [("MaxPool", ["x"], {"kernel_shape": [2, 2], "strides": [3, 3]}), ("Shape", ["x"], {}),
         ("Slice", ["y1", "two", "four"], {}), ("Shape", ["y0"], {}), ("Gather", ["y3", "both"], {}),
         ("Concat", ["y4", "y2"], {"axis": 0}),
         ("Resize", ["y0", "", "", "y5"], {"mode": "linear"}), ("Add", ["x", "y6"], {})],
        IMAGE, {"two": ints(2), "four": ints(4), "both": ints(0, 1)}, 17, ["max_pool", "upsample", "add"],
    ),
    "flatten": ([("Flatten", ["x"], {})], IMAGE, {}, 17, ["flatten"]),
    "reshape": ([("Reshape", ["x", "s"], {})], IMAGE, {"s": ints(0, -1)}, 17, ["flatten"]),
    "reshape-from-shape": (
        [("Shape", ["x"], {}), ("Gather", ["y0", "zero"], {}), ("Unsqueeze", ["y1", "axis"], {}),
         ("Concat", ["y2", "rest"], {"axis": 0}), ("Reshape", ["x", "y3"], {})],
        IMAGE, {"zero": np.array(0), "axis": ints(0), "rest": ints(-1)}, 17, ["flatten"],
    ),
    "squeeze": (
        [("GlobalMaxPool", ["x"], {}), ("Squeeze", ["y0", "a"], {})], IMAGE, {"a": ints(2, 3)}, 17,
        ["global_max_pool", "flatten"],
    ),
    "gemm": ([("Gemm", ["x", "w", "b"], {"transB": 1})], (2, 5), {"w": (4, 5), "b": (4,)}, 17, ["linear"]),
    "gemm-plain": ([("Gemm", ["x", "w"], {})], (2, 5), {"w": (5, 4)}, 17, ["linear"]),
    "matmul-add": (
        [("MatMul", ["x", "w"], {}), ("Add", ["y0", "b"], {})], (2, 5), {"w": (5, 4), "b": (4,)}, 17, ["linear"],
    ),
    "softmax": ([("Softmax", ["x"], {"axis": 1})], IMAGE, {}, 17, ["softmax_cross_entropy"]),
    "nothing": (
        [("Relu", ["x"], {}), ("Identity", ["y0"], {}), ("Dropout", ["y1"], {}), ("Cast", ["y2"], {"to": 11})],
        IMAGE, {}, 17, ["relu"],
    ),
    "constant": (
        [("Constant", [], {"value": numpy_helper.from_array(np.ones((4, 3, 1, 1)) / 3)}), ("Conv", ["x", "y0"], {})],
        IMAGE, {}, 17, ["conv"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_becomes_its_layers_and_gives_what_the_reference_gives(name: str) -> None:
    nodes, shape, weights, opset, layers = CASES[name]
    model = build(nodes, shape, weights, opset=opset)
    network = Network.from_onnx(model)
    assert kinds(network) == layers
    x = np.random.default_rng(1).uniform(-3, 3, shape)
    (wanted,) = reference.ReferenceEvaluator(model).run(None, {"x": x})
    found = network.run(x, backend="reference")
    assert found.shape == wanted.shape
    # The reference rounds its erf to float32, and attributes are float32: a sixth.
    rounded = "gelu" in name or any(operator.startswith("Hard") for operator, _, _ in nodes)
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-7 if rounded else 1e-10)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"strides": [2, 3], "output_shape": [9, 11]}, (9, 11)),
        ({"strides": [2, 3], "output_shape": [9, 11], "auto_pad": "SAME_UPPER"}, (9, 11)),
        ({"strides": [2, 3], "auto_pad": "SAME_LOWER"}, (10, 12)),
        ({"strides": [2, 3], "pads": [1, 0, 0, 2], "output_padding": [1, 0], "group": 2}, (11, 10)),
    ],
)
def test_a_transposed_convolution_is_padded_as_onnxruntime_pads_it(
    attributes: dict[str, Any], size: tuple[int, ...]
) -> None:
    runtime = pytest.importorskip(
        "onnxruntime", reason="the padding is checked by onnxruntime; pip install onnxruntime"
    )
    model = build([("ConvTranspose", ["x", "w"], attributes)], (2, 4, 5, 4), {"w": (4, 3, 3, 3)}, dtype="float32")
    x = np.random.default_rng(1).standard_normal((2, 4, 5, 4)).astype(np.float32)
    (wanted,) = runtime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    found = Network.from_onnx(model).run(x, backend="reference")
    assert found.shape[2:] == size
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


MISTAKES: dict[str, tuple[list[Node], tuple[Any, ...], dict[str, Any], int, str]] = {
    "operator": ([("Relu", ["x"], {}), ("Einsum", ["y0"], {"equation": "abcd->abcd"})], IMAGE, {}, 17,
                 r"node 'n1': operator Einsum is not known; known are Add, "),
    "domain": ([("FusedConv", ["x"], {"domain": "com.microsoft"})], IMAGE, {}, 17,
               r"node 'n0': operator com\.microsoft\.FusedConv is not known"),
    "cubic": ([("Resize", ["x", "", "", "s"], {"mode": "cubic"})], IMAGE, {"s": ints(2, 3, 16, 14)}, 17,
              r"node 'n0' \(Resize\): mode is 'cubic'; wanted nearest or linear"),
    "nearest-rounding": ([("Resize", ["x", "", "", "s"], {"mode": "nearest", "nearest_mode": "ceil"})],
                         IMAGE, {"s": ints(2, 3, 16, 14)}, 17, r"nearest at half_pixel coordinates, ceil, is not"),
    "resize-nowhere": ([("Resize", ["x", "", "", "s"], {"mode": "linear"})], IMAGE, {"s": ints(2, 3, 9, 9)}, 17,
                       r"resizes \(8, 7\) to \(9, 9\); known are whole factors"),
    "gate-of-one-channel": (
        [("Conv", ["x", "w"], {}), ("Mul", ["x", "y0"], {})], IMAGE, {"w": (1, 3, 1, 1)}, 17,
        r"node 'n1' \(Mul\): the inputs are \(2, 3, 8, 7\) and \(2, 1, 8, 7\), or of other orders; wanted one shape",
    ),
    "gate-for-all-channels": (
        [("GlobalAveragePool", ["x"], {}), ("Conv", ["y0", "w"], {}), ("Mul", ["y1", "x"], {})],
        IMAGE, {"w": (1, 3, 1, 1)}, 17, r"the inputs are \(2, 1, 1, 1\) and \(2, 3, 8, 7\), or of other orders",
    ),
    "gate-of-another-order": (
        [("Transpose", ["x"], {"perm": [0, 1, 3, 2]}), ("GlobalAveragePool", ["x"], {}), ("Mul", ["y0", "y1"], {})],
        IMAGE, {}, 17, r"node 'n2' \(Mul\): the inputs are \(2, 3, 7, 8\) and \(2, 3, 1, 1\), or of other orders",
    ),
    "hard-sigmoid": ([("HardSigmoid", ["x"], {})], IMAGE, {}, 17,
                     r"node 'n0' \(HardSigmoid\): alpha is 0\.2 and beta 0\.5; known are 1/6 and 0\.5"),
    "hard-sigmoid-beta": ([("HardSigmoid", ["x"], {"alpha": 1 / 6, "beta": 0.4})], IMAGE, {}, 17,
                          r"alpha is 0\.16666667 and beta 0\.4; known are 1/6 and 0\.5"),
    "number": ([("Mul", ["x", "half"], {})], IMAGE, CONSTANTS, 17,
               r"output 'y0' is a function of each element, by Mul, that is none of relu"),
    "tanh-gelu": ([("Gelu", ["x"], {"approximate": "tanh"})], IMAGE, {}, 20, r"approximate is known as 'none' alone"),
    "hard-swish-steps": (
        [("Add", ["x", "four"], {}), ("Clip", ["y0", "zero", "six"], {}), ("Mul", ["x", "y1"], {}),
         ("Div", ["y2", "six"], {}), ("Relu", ["y3"], {}), ("MaxPool", ["y4"], {"kernel_shape": [2, 2]})],
        IMAGE, {**HARD, "four": np.array(4.0)}, 17,
        r"node 'n5' \(MaxPool\): the input is a function of each element, by Add, Clip, Mul, Div, relu, that is none",
    ),
    "bias-alone": ([("Relu", ["x"], {}), ("Add", ["y0", "b"], {})], IMAGE, {"b": (3, 1, 1)}, 17,
                   r"node 'n1' \(Add\): adds a constant to what activation 'n0' gives"),
    "max-pool-pad": ([("Pad", ["x", "p"], {}), ("MaxPool", ["y0"], {"kernel_shape": [2, 2]})],
                     IMAGE, {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, 17, r"padded by node 'n0' \(Pad\): only a convol"),
    "many-bounds": (
        [("Clip", ["x", "b"], {})],
        IMAGE,
        {"b": (7,)},
        17,
        r"node 'n0' \(Clip\): a bound is not one constant number",
    ),
    "flag": (
        [("ReduceMax", ["x"], {"axes": [2, 3], "keepdims": 2})], IMAGE, {}, 17, r"keepdims is 2; wanted 0 or 1"
    ),
    "pad-one": ([("Pad", ["x", "p", "v"], {}), ("Conv", ["y0", "w"], {})],
                IMAGE, {**W, "p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.array(1.0)}, 17, r"pads with 1\.0; known are"),
    "pad-channels": ([("Pad", ["x", "p"], {}), ("Conv", ["y0", "w"], {})],
                     IMAGE, {**W, "p": ints(0, 1, 1, 1, 0, 0, 1, 1)}, 17, r"known is one of spatial axes alone"),
    "indices": ([("MaxPool", ["x"], {"kernel_shape": [2, 2], "outputs": ["y0", "where"]})], IMAGE, {}, 17,
                r"has 2 outputs; only the first is known"),
    "training": ([("BatchNormalization", ["x", *"sbmv"], {"training_mode": 1, "outputs": ["y0", "p", "q"]})],
                 IMAGE, dict.fromkeys("sbmv", (3,)), 17, r"node 'n0' \(BatchNormalization\): has 3 outputs"),
    "layer-norm-all": ([("LayerNormalization", ["x", "s", "b"], {"axis": 1})], IMAGE,
                       {"s": (3, 8, 7), "b": (3, 8, 7)}, 17, r"normalises axes \(1, 2, 3\) of \(2, 3, 8, 7\)"),
    "broadcast": ([("GlobalAveragePool", ["x"], {}), ("Add", ["x", "y0"], {})], IMAGE, {}, 17,
                  r"the inputs are \(2, 3, 8, 7\) and \(2, 3, 1, 1\)"),
    "concat-pixels": ([("Concat", ["x", "x"], {"axis": 2})], IMAGE, {}, 17, r"known is along the channels, axis 1"),
    "slice-pixels": ([("Slice", ["x", "s", "e", "a"], {})], IMAGE, {"s": ints(1), "e": ints(5), "a": ints(2)}, 17,
                     r"takes 1 to 5, step 1, of axis 2"),
    "shuffle": ([("Reshape", ["x", "s"], {})], (2, 4, 8, 7), {"s": ints(2, 2, 2, 8, 7)}, 17,
                r"\(2, 4, 8, 7\) to \(2, 2, 2, 8, 7\) is not known; only to \(2, features\)"),
    "flatten-last": ([("Transpose", ["x"], CHANNELS_LAST), ("Flatten", ["y0"], {})], IMAGE, {}, 17,
                     r"flattens \(2, 8, 7, 3\) with its channels last"),
    "output-last": ([("Transpose", ["x"], CHANNELS_LAST)], IMAGE, {}, 17, r"output 'y0' has its axes in the order"),
    "softmax-pixels": ([("Softmax", ["x"], {})], IMAGE, {}, 17, r"a softmax is known over the channels, axis 1"),
    "softmax-old": ([("Softmax", ["x"], {})], IMAGE, {}, 11, r"goes over all axes of \(2, 3, 8, 7\) from 1 on"),
    "gemm-alpha": ([("Gemm", ["x", "w"], {"alpha": 0.5})], (2, 5), {"w": (5, 4)}, 17, r"alpha and beta are not known"),
    "weight-computed": ([("Conv", ["x", "x"], {})], IMAGE, {}, 17, r"the weight is computed; wanted a constant"),
    "kernel-shape": ([("Conv", ["x", "w"], {"kernel_shape": [5, 5]})], IMAGE, W, 17,
                     r"kernel_shape is \(5, 5\); the weight has \(3, 2\)"),
    "channels": ([("Conv", ["x", "w"], {})], IMAGE, {"w": (4, 5, 3, 3)}, 17, r"weight is \(4, 5, 3, 3\); wanted"),
    "integer-weight": ([("Conv", ["x", "w"], {})], IMAGE, {"w": np.ones((4, 3, 3, 3), np.int8)}, 17,
                       r"the weight is int8; wanted one of float16"),
    "too-small": ([("Conv", ["x", "w"], {})], (2, 3, 2, 2), W, 17, r"node 'n0' \(Conv\): "),
    "huge-constant": ([("ConstantOfShape", ["s"], {}), ("Add", ["x", "y0"], {})], IMAGE, {"s": ints(2**40)}, 17,
                      r"makes a constant \(1099511627776,\) of less"),
    "open-size": ([("Relu", ["x"], {})], ("N", 3, "height", 7), {}, 17,
                  r"input 'x' leaves the size of spatial axis 0 open \(height\); give from_onnx an input_size"),
    "tokens": ([("Relu", ["x"], {})], (3,), {}, 17, r"input 'x' has 1 axes; wanted \(N, C, \*spatial\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_known_is_named_with_its_node(name: str) -> None:
    nodes, shape, weights, opset, message = MISTAKES[name]
    with pytest.raises(NetworkError, match=message):
        Network.from_onnx(build(nodes, shape, weights, opset=opset))


def test_an_open_batch_is_free_and_open_sizes_are_asked_for() -> None:
    model = build([("Conv", ["x", "w"], {})], ("N", 3, "H", "W"), W)
    network = Network.from_onnx(model, input_size=(9, 8))
    assert network.features["x"].shape == (3, 9, 8)
    assert network.run(np.zeros((5, 3, 9, 8)), backend="reference").shape == (5, 4, 7, 7)
    assert Network.from_onnx(model, input_size=9).features["x"].shape == (3, 9, 9)
    assert Network.from_onnx(model, input_size=(3, 9, 8)).features["x"].shape == (3, 9, 8)
    with pytest.raises(
        NetworkError, match=r"input_size is \(4, 9, 8\); the model fixes input 'x' at \(3, '\?', '\?'\)"
    ):
        Network.from_onnx(model, input_size=(4, 9, 8))


def test_several_outputs_keep_their_order_and_what_none_needs_is_left_out() -> None:
    nodes = [("Relu", ["x"], {}), ("Tanh", ["x"], {}), ("Sigmoid", ["x"], {})]
    network = Network.from_onnx(build(nodes, IMAGE, outputs=["y2", "y0"]))
    assert kinds(network) == ["relu", "sigmoid"]
    assert network.outputs == ("n2", "n0")
    assert network.output_names == ("y2", "y0")


OUTPUTS: dict[str, tuple[list[Node], list[str]]] = {
    "in another order": ([("Relu", ["x"], {}), ("Tanh", ["x"], {})], ["y1", "y0"]),
    "two of one tensor": ([("Relu", ["x"], {}), ("Identity", ["y0"], {}), ("Identity", ["y0"], {})], ["y1", "y2"]),
    "what other nodes read": (
        [("Relu", ["x"], {}), ("Identity", ["y0"], {}), ("Tanh", ["y0"], {})], ["y0", "y2", "y1"],
    ),
    "the input": ([("Relu", ["x"], {}), ("Identity", ["x"], {})], ["y1", "x", "y0"]),
    "called as other layers": (
        [("Relu", ["x"], {"outputs": ["n1"]}), ("Tanh", ["n1"], {"outputs": ["n0"]})], ["n0", "n1"],
    ),
    "some of one node": ([("Split", ["x"], {"axis": 1, "num_outputs": 3, "outputs": ["a", "b", "n0"]})], ["n0", "a"]),
    "after a bias": ([("Conv", ["x", "w"], {}), ("Add", ["y0", "c"], {}), ("Relu", ["y1"], {})], ["y2", "y1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_results_come_under_the_names_of_the_models_outputs_in_their_order(name: str) -> None:
    nodes, outputs = OUTPUTS[name]
    model = build(nodes, IMAGE, {"w": (4, 3, 3, 2), "c": (4, 1, 1)}, opset=18, outputs=outputs)
    network = Network.from_onnx(model)
    assert network.output_names == tuple(outputs)
    x = np.random.default_rng(1).standard_normal(IMAGE)
    wanted = dict(zip(outputs, reference.ReferenceEvaluator(model).run(outputs, {"x": x}), strict=True))
    for each in (network, network.resized((3, 8, 7)), network.astype("float64")):
        found = each.run(x, backend="reference")
        assert list(found) == outputs
        for output in outputs:
            np.testing.assert_allclose(found[output], wanted[output], rtol=1e-12, err_msg=output)
    assert set(network.outputs) <= {row.name for row in network.summary().rows}
    predicted = network.vram(2, dtype="float64", backend="reference")
    with sk.vram.track() as usage:
        network.run(x, backend="reference")
    assert usage.peak == predicted.allocated


def test_an_output_that_is_a_constant_is_named() -> None:
    nodes = [("Relu", ["x"], {}), ("Identity", ["c"], {})]
    with pytest.raises(NetworkError, match="output 'y1' is a constant; wanted what a layer gives"):
        Network.from_onnx(build(nodes, IMAGE, {"c": (4, 1)}, outputs=["y0", "y1"]))
    with pytest.raises(NetworkError, match="output 'c' is a constant"):
        Network.from_onnx(build(nodes, IMAGE, {"c": (4, 1)}, outputs=["y0", "c"]))


def test_one_output_of_two_names_is_not_trained() -> None:
    nodes = [("Conv", ["x", "w"], {}), ("Identity", ["y0"], {})]
    network = Network.from_onnx(build(nodes, IMAGE, W, outputs=["y0", "y1"]))
    with pytest.raises(NetworkError, match="training needs one output, small has 2"):
        network.vram(training=True, dtype="float64", backend="reference")


def test_layers_are_named_by_their_weights_and_their_modules() -> None:
    model = build([("Conv", ["x", "stem.conv.weight"], {}), ("Relu", ["y0"], {}), ("Add", ["y0", "y1"], {})], IMAGE,
                  {"stem.conv.weight": (4, 3, 3, 2)})  # fmt: skip
    for node, name in zip(model.graph.node, ("/stem/conv/Conv", "/layer1/layer1.0/relu/Relu", ""), strict=True):
        node.name = name
    network = Network.from_onnx(model)
    assert [layer.name for layer in network.layers] == ["x", "stem.conv", "layer1.0.relu", "add"]
    assert list(network.parameters) == ["stem.conv.weight"]


def test_one_weight_in_two_convolutions_is_shared_and_equal_normalisations_are_not() -> None:
    norm = ["s", "b", "m", "v"]
    model = build(
        [("Conv", ["x", "w"], {}), ("BatchNormalization", ["y0", *norm], {}), ("Conv", ["y1", "w"], {}),
         ("BatchNormalization", ["y2", *norm], {})],
        IMAGE, {"w": (3, 3, 1, 1), **dict.fromkeys(norm, (3,))},
    )  # fmt: skip
    network = Network.from_onnx(model)
    assert [layer.shares for layer in network.layers] == [None, None, None, "n0", None]
    assert network.summary().parameters == 9 + 2 * 6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_arrive_in_their_own_dtype(dtype: str) -> None:
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    weight = np.arange(36).reshape(4, 3, 3, 1).astype(kind)
    network = Network.from_onnx(build([("Conv", ["x", "w"], {})], IMAGE, {"w": weight}, dtype=dtype))
    assert network.parameters["n0.weight"].dtype == kind
    np.testing.assert_array_equal(network.parameters["n0.weight"], weight)


def test_a_file_is_read_with_weights_beside_it(tmp_path: Path) -> None:
    model = build([("Conv", ["x", "w"], {})], IMAGE, {"w": (4, 3, 3, 2)})
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    path = tmp_path / "small.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="weights", size_threshold=0)
    network = load(path)
    assert network.name == "small"
    np.testing.assert_array_equal(network.parameters["n0.weight"], weight)
    with pytest.raises(NetworkError, match="initializer 'w' lies in another file"):
        Network.from_onnx(path.read_bytes())
    (tmp_path / "weights").unlink()
    with pytest.raises(NetworkError, match=r"small\.onnx: cannot be read as ONNX"):
        load(path)


def test_a_model_of_another_dtype_is_measured_in_the_one_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(build([("Conv", ["x", "w"], {})], IMAGE, W), str(tmp_path / "a.onnx"))
    line = ["network", str(tmp_path / "a.onnx"), "--measure", "--dtype", "float32", "--backend", "reference"]
    assert run(line) == 0
    assert "bytes allocated (as predicted)" in capsys.readouterr().out


def test_what_is_no_input_size_or_no_model_is_refused_by_its_name() -> None:
    model = build([("Conv", ["x", "w"], {})], ("N", 3, "H", "W"), W)
    call = Call(
        Network.from_onnx, {"model": model, "input_size": (9, 8)},
        {"model": "none", "input_size": "optional input size"}, {"model": "model|no such file"},
    )  # fmt: skip
    wrong = mistakes("Network.from_onnx", call)
    assert not wrong, "\n".join(wrong)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("no model")
    for wrong in (path, b"no model", b"", 5):
        with pytest.raises(NetworkError):
            Network.from_onnx(wrong)
    with pytest.raises(NetworkError, match=r"nowhere\.onnx: no such file"):
        load(tmp_path / "nowhere.onnx")


def test_a_damaged_model_is_refused_or_read_and_nothing_else(rng: np.random.Generator) -> None:
    whole = b"".join(
        build(CASES[name][0], CASES[name][1], CASES[name][2], opset=CASES[name][3]).SerializeToString()
        for name in ("channels-last-linear",)
    )
    for _ in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        try:
            Network.from_onnx(bytes(damaged[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else damaged))
        except NetworkError:
            continue


def test_without_onnx_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"Network\.from_onnx needs onnx: pip install '\.\[onnx\]' in the clone"
    ):
        Network.from_onnx(b"")
