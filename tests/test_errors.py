"""What cannot be computed is refused: by class, by name, and with `out` untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stridekit as sk

X, W = np.ones((1, 2, 6, 6), np.float32), np.ones((4, 2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (sk.ShapeError, ValueError),
        (sk.DtypeError, TypeError),
        (sk.LayoutError, ValueError),
        (sk.BackendUnavailableError, RuntimeError),
        (sk.VramBudgetError, MemoryError),
    ],
)
def test_an_error_is_ours_and_the_builtin_that_a_caller_would_catch(error: type, builtin: type) -> None:
    assert issubclass(error, sk.StridekitError)
    assert issubclass(error, builtin)


# What is wrong, the class, and what the message must name: the argument, what came, what was wanted.
REFUSED: list[tuple[str, dict[str, Any], type[Exception], list[str]]] = [
    ("x is a list", {"x": X.tolist()}, sk.DtypeError, ["x ", "list", "NumPy"]),
    ("x is None", {"x": None}, sk.DtypeError, ["x ", "None", "NumPy"]),
    ("weight is None", {"weight": None}, sk.DtypeError, ["weight ", "None", "NumPy"]),
    ("weight is a list", {"weight": W.tolist()}, sk.DtypeError, ["weight ", "list", "NumPy"]),
    ("bias is a number", {"bias": 1.0}, sk.DtypeError, ["bias ", "float", "NumPy"]),
    ("out is a list", {"out": []}, sk.DtypeError, ["out ", "list", "NumPy"]),
    ("x of integers", {"x": X.astype(np.int32)}, sk.DtypeError, ["x ", "int32", "float32", "astype"]),
    ("x of bools", {"x": X.astype(bool)}, sk.DtypeError, ["x ", "bool", "float32"]),
    ("x of objects", {"x": X.astype(object)}, sk.DtypeError, ["x ", "object", "float32"]),
    ("x of complex", {"x": X.astype(complex)}, sk.DtypeError, ["x ", "complex128", "float32"]),
    ("x of strings", {"x": X.astype("U3")}, sk.DtypeError, ["x ", "float32"]),
    ("x of long double", {"x": X.astype(np.longdouble)}, sk.DtypeError, ["x ", "float"]),
    ("x byte-swapped", {"x": X.astype(">f4")}, sk.DtypeError, ["x ", "byte-swapped", "astype"]),
    ("weight of another dtype", {"weight": W.astype(np.float16)}, sk.DtypeError, ["float32", "weight float16"]),
    ("bias of another dtype", {"bias": np.zeros(4)}, sk.DtypeError, ["bias", "float64", "float32"]),
    ("x without batch", {"x": X[0]}, sk.ShapeError, ["x has 3 axes", "(2, 6, 6)", "4", "x[None]"]),
    ("x of no axes", {"x": np.float32(1) * np.ones(())}, sk.DtypeError, ["x ", "float64"]),
    ("x without channels", {"x": X[:, :0]}, sk.ShapeError, ["(1, 0, 6, 6)", "at least one channel"]),
    ("x without pixels", {"x": X[:, :, :0]}, sk.ShapeError, ["input", "(0, 6)", "at least one pixel"]),
    ("no filters", {"weight": W[:0]}, sk.ShapeError, ["weight (0, 2, 3, 3)", "one filter"]),
    ("kernel without taps", {"weight": W[:, :, :0]}, sk.ShapeError, ["kernel_size", "0, 3", "at least 1"]),
    ("channels disagree", {"x": X[:, :1]}, sk.ShapeError, ["weight (4, 2, 3, 3)", "1", "second axis"]),
    ("bias too long", {"bias": np.zeros(5, np.float32)}, sk.ShapeError, ["bias", "(5,)", "(4,)"]),
    ("bias of two axes", {"bias": np.zeros((4, 1), np.float32)}, sk.ShapeError, ["bias", "(4, 1)", "(4,)"]),
    ("out of another shape", {"out": np.zeros((1, 4, 4, 3), "f4")}, sk.ShapeError, ["out", "4, 3)", "4, 4)"]),
    ("out of another dtype", {"out": np.zeros((1, 4, 4, 4))}, sk.DtypeError, ["out", "float64", "float32"]),
    ("stride 0", {"stride": 0}, sk.ShapeError, ["stride", "0", "at least 1"]),
    ("stride a float", {"stride": 2.0}, sk.ShapeError, ["stride", "2.0", "int"]),
    ("stride a bool", {"stride": True}, sk.ShapeError, ["stride", "True", "int"]),
    ("three strides", {"stride": (1, 2, 3)}, sk.ShapeError, ["stride", "3 values", "2"]),
    ("dilation 0", {"dilation": 0}, sk.ShapeError, ["dilation", "0", "at least 1"]),
    ("groups 0", {"groups": 0}, sk.ShapeError, ["groups", "0", "at least 1"]),
    ("groups that do not divide", {"groups": 3}, sk.ShapeError, ["groups", "3", "divide", "2"]),
    ("padding negative", {"padding": -1}, sk.ShapeError, ["padding", "-1", "negative"]),
    ("padding unknown", {"padding": "full"}, sk.ShapeError, ["padding", "'full'", "same"]),
    ("padding of one axis", {"padding": ((1, 1),)}, sk.ShapeError, ["padding", "1 value", "2"]),
    ("causal images", {"padding": "causal"}, sk.ShapeError, ["padding", "'causal'", "one spatial axis"]),
    ("mode unknown", {"padding_mode": "mirror"}, sk.ShapeError, ["padding_mode", "'mirror'", "reflect"]),
    ("layout of another rank", {"layout": "NCW"}, sk.LayoutError, ["layout", "'NCW'", "'NHWC'"]),
    ("activation unknown", {"activation": "tanh"}, sk.ShapeError, ["activation", "'tanh'", "'relu'"]),
    ("leaky without slope", {"activation": "leaky_relu"}, sk.ShapeError, ["activation", "slope"]),
    ("slope not finite", {"activation": ("leaky_relu", np.nan)}, sk.ShapeError, ["activation", "nan", "slope"]),
    ("precision unknown", {"precision": "fp8"}, sk.DtypeError, ["precision", "'fp8'", "ieee"]),
    ("backend unknown", {"backend": "gpu"}, sk.BackendUnavailableError, ["backend", "'gpu'", "cpu", "reference"]),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "error", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_refusal_names_the_argument_what_came_and_what_was_wanted(
    changed: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    arguments = {"x": X, "weight": W, **changed}
    x, weight, bias = (arguments.pop(name, None) for name in ("x", "weight", "bias"))
    with pytest.raises(error) as caught:
        sk.conv2d(x, weight, bias, **arguments)
    assert caught.type is error
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"


def test_the_layout_is_named_as_the_cure_only_where_the_channels_are_the_last_axis() -> None:
    for rank, convolution in enumerate((sk.conv1d, sk.conv2d, sk.conv3d), 1):
        x, weight = np.ones((1, 9, *(5,) * (rank - 1), 2), np.float32), np.ones((4, 2, *(2,) * rank), np.float32)
        with pytest.raises(sk.ShapeError, match="say so with layout, such as layout="):
            convolution(x, weight)
    with pytest.raises(sk.ShapeError, match=r"second axis must be 1$"):
        sk.conv2d(X[:, :1], W)


@pytest.mark.parametrize("padding", [(2, 1), ((2, 1), (0, 0)), "same"])
def test_conv1d_and_conv3d_refuse_arrays_of_rank_2(padding: Any) -> None:
    with pytest.raises(sk.ShapeError, match="conv1d wants 3"):
        sk.conv1d(X, W, padding=padding)
    with pytest.raises(sk.ShapeError, match="conv3d wants 5"):
        sk.conv3d(X, W, padding=padding)


class Awkward:
    """An object that answers everything with another error."""

    def __index__(self) -> int:
        raise ValueError("no index")

    def __iter__(self) -> Any:
        raise ValueError("no items")


BAD: list[Any] = [
    None, "", "x", "same", b"same", 0.5, 1.0, float("nan"), float("inf"), 0, -1, -(2**63), 2**31, 2**40, 2**62,
    2**63 - 1, 2**63, 2**64, 10**400, True, False, 1j, [], [1], [1, 1, 1], [[1, 1], [1]], [[[1]]], (1, None),
    (2**62, 1), (2**63, 2**63), (1, "1"), {}, {1: 2}, {1, 2}, object(), Awkward(), range(2), print, int, Ellipsis,
    np.array(1), np.array(2.5), np.array([1, 2]), np.array([[1, 2], [3, 4]]), np.array("relu"), np.array(None),
    np.int8(1), np.float32(1), np.bool_(True), np.str_("same"), ("leaky_relu",), ("leaky_relu", "x"),
    ("leaky_relu", None), ("leaky_relu", 10**400), ("leaky_relu", 1e300), ("leaky_relu", float("inf")),
    ["leaky_relu", 0.5], "NHWC", "reflect", "float16", "cpu", X, W, X[0, 0], np.zeros(0, np.float32),
]  # fmt: skip
KEYWORDS = (
    "x", "weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode", "layout", "activation",
    "precision", "out", "backend",
)  # fmt: skip
ALLOWED = sk.StridekitError


def label(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array{value.shape}{value.dtype}"
    return repr(value)[:30].split(" at ")[0]


labels = [f"{number}-{label(value)}" for number, value in enumerate(BAD)]


@pytest.mark.parametrize("value", BAD, ids=labels)
@pytest.mark.parametrize("keyword", KEYWORDS)
@pytest.mark.rotated("backend")
def test_a_malformed_argument_ends_in_a_result_or_an_honest_error_and_out_is_untouched(
    backend: str, keyword: str, value: Any
) -> None:
    out = np.full((1, 4, 4, 4), 7, np.float32)
    arguments: dict[str, Any] = {
        "x": X,
        "weight": W,
        "bias": np.zeros(4, np.float32),
        "out": out,
        "backend": backend,
    }
    arguments[keyword] = value
    call = (arguments.pop("x"), arguments.pop("weight"), arguments.pop("bias"))
    try:
        y = sk.conv2d(*call, **arguments)
    except ALLOWED:
        assert (out == 7).all()
    else:
        assert isinstance(y, np.ndarray)
        assert y.dtype == np.float32
        assert keyword == "out" or y is out


@pytest.mark.parametrize("value", BAD, ids=labels)
@pytest.mark.parametrize("keyword", [word for word in KEYWORDS if word not in ("x", "weight", "bias", "out")])
@pytest.mark.rotated("backend")
def test_a_malformed_argument_without_out_ends_in_a_result_or_an_honest_error(
    backend: str, keyword: str, value: Any
) -> None:
    try:
        y = sk.conv2d(X, W, **{"backend": backend, keyword: value})
    except ALLOWED:
        return
    assert isinstance(y, np.ndarray)


PLAN_KEYWORDS = (
    "input_shape", "weight_shape", "dtype", "stride", "padding", "dilation", "groups", "padding_mode", "layout",
    "memory_order", "bias", "activation", "precision", "direction", "backend",
)  # fmt: skip


@pytest.mark.parametrize("value", BAD, ids=labels)
@pytest.mark.parametrize("keyword", PLAN_KEYWORDS)
def test_a_malformed_argument_of_plan_conv_ends_in_a_plan_or_an_honest_error(keyword: str, value: Any) -> None:
    arguments = {"input_shape": (1, 2, 6, 6), "weight_shape": (4, 2, 3, 3), "backend": "cpu", keyword: value}
    try:
        plan = sk.plan_conv(**arguments)
    except ALLOWED:
        return
    assert plan.flops >= 0
    assert plan.vram.peak >= 0
    assert all(type(size) is int for size in plan.output_shape), "sizes of NumPy's types wrap around"


@pytest.mark.parametrize("bad", [1.5, "2", None, True, -1, [2]], ids=repr)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["input_shape", "weight_shape"])
def test_a_shape_that_holds_no_sizes_is_refused(name: str, axis: int, bad: Any) -> None:
    shapes = {"input_shape": [1, 2, 6, 6], "weight_shape": [4, 2, 3, 3]}
    shapes[name][axis] = bad
    with pytest.raises(sk.ShapeError):
        sk.plan_conv(tuple(shapes["input_shape"]), tuple(shapes["weight_shape"]), backend="reference")


@pytest.mark.parametrize("value", BAD, ids=labels)
@pytest.mark.parametrize("keyword", ["input_size", "kernel_size", "stride", "padding", "dilation", "padding_mode"])
def test_a_malformed_argument_of_conv_geometry_ends_in_sizes_or_an_honest_error(keyword: str, value: Any) -> None:
    try:
        g = sk.conv_geometry(**{"input_size": (6, 6), "kernel_size": 3, keyword: value})
    except ALLOWED:
        return
    assert min(g.output_size) >= 1


@pytest.mark.parametrize("value", [v for v in BAD if type(v) is not int or v < 1], ids=label)
def test_set_num_threads_refuses_what_is_no_count(value: Any) -> None:
    before = sk.get_num_threads()
    try:
        sk.set_num_threads(value)
    except ALLOWED:
        assert sk.get_num_threads() == before
    else:
        assert sk.get_num_threads() >= 1
    finally:
        sk.set_num_threads(before)
