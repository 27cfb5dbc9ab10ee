"""`stridekit.torch`'s functions: values and gradients of PyTorch, within the bound; and all that tensors can be."""

from __future__ import annotations

import doctest
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import numpy_dtype
from tests.kit.oracle import Truth, assert_within

torch = pytest.importorskip("torch", reason="stridekit.torch is for PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    # torch's own extensions and compiler speak of themselves on import and first use; none of that is ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

import stridekit.torch as skt  # noqa: E402
from stridekit.torch import functions, modules, operators, swapping, tensors  # noqa: E402

functional = torch.nn.functional
DTYPES = ("float16", "bfloat16", "float32", "float64")
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
OURS = (skt.conv1d, skt.conv2d, skt.conv3d)
THEIRS = (functional.conv1d, functional.conv2d, functional.conv3d)
OURS_TRANSPOSED = (skt.conv_transpose1d, skt.conv_transpose2d, skt.conv_transpose3d)
THEIRS_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@dataclass(frozen=True)
class Layer:
    """Shapes and options of a small layer; the padding is symmetric, as PyTorch's."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: int | tuple[int, ...] = 0
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    padding_mode: str = "zeros"

    @property
    def rank(self) -> int:
        return len(self.weight) - 2

    def ours(self, x: Any, w: Any, b: Any) -> Any:
        mode = self.padding_mode
        return OURS[self.rank - 1](
            x, w, b, self.stride, self.padding, self.dilation, self.groups, padding_mode=mode
        )  # fmt: skip

    def theirs(self, x: Any, w: Any, b: Any) -> Any:
        amounts = (self.padding,) * self.rank if isinstance(self.padding, int) else self.padding
        reversed_twice = [amount for amount in reversed(amounts) for _ in range(2)]
        padded = functional.pad(x, reversed_twice, mode=MODES[self.padding_mode])
        return THEIRS[self.rank - 1](padded, w, b, self.stride, 0, self.dilation, self.groups)


LAYERS = {
    "plain": Layer((2, 4, 9, 7), (6, 4, 3, 3), padding=1),
    "stride 2": Layer((2, 4, 9, 8), (6, 4, 3, 3), 2, 1),
    "stride beyond the kernel": Layer((2, 3, 11, 13), (4, 3, 2, 3), (3, 5), (1, 0)),
    "stride is the kernel": Layer((2, 3, 12, 12), (4, 3, 4, 4), 4),
    "pixels": Layer((2, 5, 6, 5), (7, 5, 1, 1), 2),
    "depthwise": Layer((2, 6, 8, 9), (6, 1, 3, 3), 2, 1, groups=6),
    "grouped and dilated": Layer((2, 4, 11, 12), (6, 2, 3, 2), (2, 3), (2, 1), (2, 3), 2),
    "reflected": Layer((2, 3, 8, 7), (4, 3, 3, 3), 2, 2, padding_mode="reflect"),
    "replicated": Layer((2, 3, 8, 7), (4, 3, 5, 3), (1, 2), (3, 1), padding_mode="replicate"),
    "circular": Layer((2, 4, 6, 7), (4, 2, 3, 3), 3, 1, groups=2, padding_mode="circular"),
    "signals": Layer((3, 4, 19), (6, 4, 5), 3, 2, 2),
    "reflected signals": Layer((2, 4, 9), (4, 1, 3), 2, 4, groups=4, padding_mode="reflect"),
    "volumes": Layer((2, 3, 5, 6, 7), (4, 3, 2, 3, 3), (1, 2, 3), (0, 1, 1)),
    "one sample, one channel": Layer((1, 1, 5, 5), (1, 1, 3, 3)),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def tensors_of(rng: np.random.Generator, layer: Layer, dtype: str, filters: int | None = None) -> tuple[Any, Any, Any]:
    shapes = layer.input, layer.weight, (layer.weight[0] if filters is None else filters,)
    made = (torch.from_numpy(rng.standard_normal(shape)).to(getattr(torch, dtype)) for shape in shapes)
    return tuple(tensor.requires_grad_() for tensor in made)  # type: ignore[return-value]


def channels_last(tensor: Any) -> Any:
    """Copy so that the channels lie innermost; of every rank, where PyTorch has names for two."""
    return tensor.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_(tensor.requires_grad)


def lies_last(tensor: Any) -> bool:
    return bool(tensor.movedim(1, -1).is_contiguous())


def numpy_of(tensor: Any) -> np.ndarray:
    return np.asarray(tensors.array_of(tensor))


def assert_close_to(got: Any, operation: Callable[..., Any], *operands: Any) -> None:
    """Raise unless `got` is within the bound of `operation`, linear in each operand but a bias, in float64."""
    wide = [None if operand is None else operand.detach().double() for operand in operands]

    def run(of: Callable[[Any], Any]) -> np.ndarray:
        return operation(*(None if operand is None else of(operand) for operand in wide)).numpy()  # type: ignore[no-any-return]

    exact = Truth(run(lambda t: t), run(torch.abs), np.rint(run(lambda t: (t != 0).double())))
    flat = got.detach()
    assert_within(numpy_of(flat), exact, str(flat.dtype).removeprefix("torch."))


def gradients(function: Callable[..., Any], wanted: int, x: Any, w: Any, shape: tuple[int, ...], g: Any) -> Any:
    """One gradient of PyTorch's, as an operation on that operand which it is linear in, and on `g`."""
    made = [torch.zeros(shape, dtype=g.dtype) if t is None else t for t in (x, w)]
    made[wanted].requires_grad_()
    y = function(*made, None)
    return torch.autograd.grad(y, made[wanted], g)[0]


@pytest.fixture(autouse=True)
def alone() -> None:
    """One thread of PyTorch's, and nothing compiled by an earlier test."""
    torch.set_num_threads(1)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["first", "last"])
@every_layer
def test_values_and_gradients_are_torchs(rng: np.random.Generator, layer: Layer, order: str, dtype: str) -> None:
    x, w, b = tensors_of(rng, layer, dtype)
    if order == "last":
        x = channels_last(x)
    y = layer.ours(x, w, b)
    assert y.dtype == x.dtype
    assert_close_to(y, layer.theirs, x, w, b)
    g = torch.from_numpy(rng.standard_normal(tuple(y.shape))).to(y.dtype)
    if order == "last":
        assert lies_last(y)
        g = channels_last(g)
    y.backward(g)
    assert_close_to(x.grad, lambda w, g: gradients(layer.theirs, 0, None, w, layer.input, g), w, g)
    assert_close_to(w.grad, lambda x, g: gradients(layer.theirs, 1, x, None, layer.weight, g), x, g)
    assert_close_to(b.grad, lambda g: g.sum((0, *range(2, g.ndim))), g)
    assert order == "first" or lies_last(x.grad)


@every_layer
def test_derivatives_of_first_and_second_order_agree_with_differences(rng: np.random.Generator, layer: Layer) -> None:
    operands = tensors_of(rng, layer, "float64")
    assert torch.autograd.gradcheck(layer.ours, operands, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer.ours, operands, fast_mode=True)


@pytest.mark.parametrize("name", ["stride beyond the kernel", "grouped and dilated", "reflected"])
def test_a_frozen_operand_gets_no_gradient_and_holds_nothing_back(rng: np.random.Generator, name: str) -> None:
    layer = LAYERS[name]
    x, w, b = tensors_of(rng, layer, "float64")
    for frozen in itertools.product([False, True], repeat=3):
        given = [t.detach().requires_grad_(not held) for t, held in zip((x, w, b), frozen, strict=True)]
        y = layer.ours(*given)
        assert y.requires_grad is not all(frozen)
        if not all(frozen):
            assert (y.grad_fn.saved_tensors[0] is None) is frozen[1]
            assert (y.grad_fn.saved_tensors[1] is None) is frozen[0]
            y.sum().backward()
        assert [t.grad is None for t in given] == list(frozen)


TRANSPOSED = {
    "doubled": (Layer((2, 4, 5, 4), (4, 3, 4, 4), 2, 1), 0),
    "added to": (Layer((2, 4, 5, 4), (4, 3, 3, 3), (2, 3), 1), 1),
    "added beyond the padding": (Layer((2, 4, 5, 4), (4, 3, 3, 2), 3, (1, 0)), 2),
    "added beyond the stride": (Layer((2, 4, 5, 4), (4, 3, 3, 2), 1, 0, 4, 2), (3, 2)),
    "stride beyond the kernel": (Layer((2, 4, 5, 4), (4, 1, 2, 1), (3, 4), 0, groups=4), (0, 3)),
    "signals": (Layer((3, 4, 7), (4, 2, 5), 3, 2, 2, 2), 1),
    "volumes": (Layer((1, 4, 3, 2, 3), (4, 3, 2, 3, 3), (1, 2, 3), (0, 1, 1)), (0, 1, 2)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layer", "added"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_transposed_values_and_gradients_are_torchs(
    rng: np.random.Generator, layer: Layer, added: Any, dtype: str
) -> None:
    def run(functions: Any, x: Any, w: Any, b: Any) -> Any:
        return functions[layer.rank - 1](x, w, b, layer.stride, layer.padding, added, layer.groups, layer.dilation)

    def theirs(x: Any, w: Any, b: Any) -> Any:
        return run(THEIRS_TRANSPOSED, x, w, b)

    x, w, b = tensors_of(rng, layer, dtype, filters=layer.weight[1] * layer.groups)
    y = run(OURS_TRANSPOSED, x, w, b)
    assert_close_to(y, theirs, x, w, b)
    g = torch.from_numpy(rng.standard_normal(tuple(y.shape))).to(y.dtype)
    y.backward(g)
    assert_close_to(x.grad, lambda w, g: gradients(theirs, 0, None, w, layer.input, g), w, g)
    assert_close_to(w.grad, lambda x, g: gradients(theirs, 1, x, None, layer.weight, g), x, g)
    assert_close_to(b.grad, lambda g: g.sum((0, *range(2, g.ndim))), g)
    if dtype == "float64":
        given = [t.detach().requires_grad_() for t in (x, w, b)]
        assert torch.autograd.gradcheck(lambda *t: run(OURS_TRANSPOSED, *t), given, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda *t: run(OURS_TRANSPOSED, *t), given, fast_mode=True)


def test_one_sample_needs_no_batch(rng: np.random.Generator) -> None:
    for layer in LAYERS.values():
        x, w, b = tensors_of(rng, layer, "float64")
        assert torch.equal(layer.ours(x[0], w, b), layer.ours(x, w, b)[0])
    x, w, b = tensors_of(rng, TRANSPOSED["doubled"][0], "float64", 3)
    assert torch.equal(skt.conv_transpose2d(x[1], w, b, 2), skt.conv_transpose2d(x, w, b, 2)[1])


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 8, 8)], ids=["no batch", "batch"])
def test_an_empty_batch_gives_empty_results_and_gradients_of_zero(rng: np.random.Generator, shape: Any) -> None:
    x, w, b = tensors_of(rng, Layer(shape, (4, 3, 3, 3)), "float32")
    y = skt.conv2d(x, w, b, 2)
    assert y.shape == functional.conv2d(x, w, b, 2).shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert bool((w.grad == 0).all()) is (shape[0] == 0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_and_valid_are_torchs(rng: np.random.Generator, kernel: tuple[int, int], dilation: int) -> None:
    x, w, b = tensors_of(rng, Layer((2, 3, 9, 10), (4, 3, *kernel)), "float64")
    for padding in ("same", "valid"):
        wanted = functional.conv2d(x, w, b, 1, padding, dilation)
        torch.testing.assert_close(skt.conv2d(x, w, b, 1, padding, dilation), wanted, rtol=0, atol=1e-12)


def test_padding_takes_every_form_of_stridekits_and_of_torchs(rng: np.random.Generator) -> None:
    x, w, b = tensors_of(rng, Layer((2, 3, 9, 8), (4, 3, 3, 3)), "float64")
    with torch.no_grad():
        for padding in (1, (1,), [1], [1, 1], ((1, 1), (1, 1)), torch.Size((1, 1))):
            assert torch.equal(skt.conv2d(x, w, b, [2], padding, (1,)), skt.conv2d(x, w, b, 2, 1))
        for padding in ("same", "same_lower", ((0, 2), (1, 0))):
            wanted = sk.conv2d(x.numpy(), w.numpy(), b.numpy(), stride=3, padding=padding)
            assert np.array_equal(skt.conv2d(x, w, b, 3, padding).numpy(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_share_the_tensors_memory(dtype: str) -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4).to(getattr(torch, dtype))[:, ::2].transpose(0, 2)
    array = tensors.array_of(tensor)
    assert array.dtype == numpy_dtype(dtype)
    assert array.ctypes.data == tensor.data_ptr()
    assert tuple(step // array.itemsize for step in array.strides) == tensor.stride()
    array[0, 0, 0] = 7
    assert tensor[0, 0, 0] == 7


def test_tensors_may_lie_anyhow(rng: np.random.Generator) -> None:
    x, w, b = (t.detach() for t in tensors_of(rng, Layer((2, 3, 9, 8), (4, 3, 3, 3)), "float64"))
    wanted = functional.conv2d(x, w, b, 2)
    wide = torch.zeros(2, 6, 18, 16, dtype=x.dtype)
    wide[:, ::2, ::2, ::2] = x
    negated = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negated.is_neg()
    for given in (wide[:, ::2, ::2, ::2], x.transpose(2, 3).contiguous().transpose(2, 3), channels_last(x), negated):
        torch.testing.assert_close(skt.conv2d(given, w, b, 2), wanted, rtol=0, atol=1e-12)
    spread = x[:1, :, :1, :1].expand(2, 3, 9, 8)
    wanted = functional.conv2d(spread, w, b, 2)
    torch.testing.assert_close(skt.conv2d(spread, w, b, 2), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_autocast_casts_as_it_casts_torchs(rng: np.random.Generator, name: str, dtype: str) -> None:
    x, w, b = tensors_of(rng, Layer((2, 3, 9, 8), (3, 3, 3, 3)), "float32")
    ours, theirs = getattr(skt, name), getattr(functional, name)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        for given in ((x, w, b), (x.to(torch.bfloat16), w, None), (x.double(), w.double(), b.double())):
            assert ours(*given).dtype == theirs(*given).dtype
        y = ours(x, w, b)
    narrow = (t.to(getattr(torch, dtype)) for t in (x, w, b))
    assert_close_to(y, theirs, *narrow)
    y.sum().backward()
    assert x.grad.dtype == w.grad.dtype == b.grad.dtype == torch.float32


@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode])
def test_nothing_is_recorded_where_gradients_are_off(rng: np.random.Generator, scope: Any) -> None:
    x, w, b = tensors_of(rng, LAYERS["stride 2"], "float64")
    wanted = LAYERS["stride 2"].theirs(x, w, b)
    with scope():
        y = LAYERS["stride 2"].ours(x, w, b)
        assert not y.requires_grad
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)


def test_an_operand_changed_before_backward_is_found_out(rng: np.random.Generator) -> None:
    x, w, b = tensors_of(rng, LAYERS["stride 2"], "float64")
    y = LAYERS["stride 2"].ours(x, w, b)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


OPERATORS = {
    "conv": lambda x, w, b, g, o: (x, w, b, *o),
    "conv_input_grad": lambda x, w, b, g, o: (x.shape, w, g, *o),
    "conv_weight_grad": lambda x, w, b, g, o: (x, w.shape, g, *o),
}


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_pass_torchs_own_checks(rng: np.random.Generator, name: str, order: str) -> None:
    x, w, b = tensors_of(rng, Layer((2, 4, 9, 7), (6, 2, 3, 2)), "float64")
    g = torch.from_numpy(rng.standard_normal((2, 6, 5, 3))).requires_grad_()
    if order == "last":
        x, g = channels_last(x), channels_last(g)
    options = ([2, 3], [1, 1, 1, 1], [1, 1], 2, "reflect")
    torch.library.opcheck(getattr(torch.ops.stridekit, name).default, OPERATORS[name](x, w, b, g, options))


def test_the_transposed_operator_passes_torchs_own_checks(rng: np.random.Generator) -> None:
    x, w, b = tensors_of(rng, Layer((2, 4, 5, 4), (4, 3, 3, 3)), "float64", 6)
    arguments = (x, w, b, [2, 3], [1, 1, 0, 0], [1, 0], [1, 2], 2)
    torch.library.opcheck(torch.ops.stridekit.conv_transpose.default, arguments)


@pytest.mark.parametrize(
    ("name", "dynamic"), [("stride beyond the kernel", False), ("circular", True), ("signals", False)]
)
def test_compiled_it_is_one_operator_of_the_same_values(rng: np.random.Generator, name: str, dynamic: bool) -> None:
    layer = LAYERS[name]
    compiled = torch.compile(
        lambda *operands: layer.ours(*operands).relu(), backend="aot_eager", fullgraph=True, dynamic=dynamic
    )
    for longer in range(3 if dynamic else 1):
        shape = (*layer.input[:2], *(size + longer for size in layer.input[2:]))
        operands = tensors_of(rng, Layer(shape, layer.weight), "float64")
        wanted, got = layer.ours(*operands).relu(), compiled(*operands)
        assert torch.equal(got, wanted)
        for ours, theirs in zip(
            torch.autograd.grad(got.sum(), operands), torch.autograd.grad(wanted.sum(), operands), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_compiled_under_autocast_and_with_names_of_padding(rng: np.random.Generator) -> None:
    @torch.compile(backend="aot_eager", fullgraph=True)  # type: ignore[untyped-decorator]
    def run(x: Any, w: Any, b: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return skt.conv_transpose2d(skt.conv2d(x, w, b, 2, "same"), w, None, 2)

    assert run(*tensors_of(rng, Layer((2, 3, 9, 8), (3, 3, 3, 3)), "float32")).dtype == torch.bfloat16


def test_tensors_without_data_give_their_shape() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for where in (torch.device("meta"), FakeTensorMode()):
        with where:
            x, w = torch.empty(2, 3, 9, 8, requires_grad=True), torch.empty(4, 3, 3, 3)
            y = skt.conv2d(x, w, None, 2)
            assert y.shape == (2, 4, 4, 3)
            y.sum().backward()
            assert x.grad.shape == x.shape
            with pytest.raises(sk.ShapeError, match="too short"):
                skt.conv2d(x[:, :, :2], w)


def test_it_shows_in_a_trace(rng: np.random.Generator) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, w, b = (t.detach() for t in tensors_of(rng, LAYERS["stride 2"], "float64"))
    traced = make_fx(lambda x, w, b: LAYERS["stride 2"].ours(x, w, b))(x, w, b)
    assert "stridekit.conv" in traced.code
    assert torch.equal(traced(2 * x, w, b), LAYERS["stride 2"].ours(2 * x, w, b))


def test_functional_gradients_are_torchs(rng: np.random.Generator) -> None:
    x, w, b = (t.detach() for t in tensors_of(rng, LAYERS["stride 2"], "float64"))
    layer = LAYERS["stride 2"]
    ours, theirs = (torch.func.grad(lambda w, f=f: f(x, w, b).sin().sum())(w) for f in (layer.ours, layer.theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    for transform in (
        torch.vmap(lambda x: layer.ours(x, w, b)),
        lambda x: torch.func.jvp(layer.ours, (x, w, b), (x, w, b)),
    ):
        # Never a wrong answer where PyTorch has been told no rule.
        with pytest.raises((RuntimeError, NotImplementedError)):
            transform(x)


X, W = torch.zeros(1, 3, 8, 8), torch.zeros(4, 3, 3, 3)
REFUSED = {
    "an array": (lambda: skt.conv2d(np.zeros((1, 3, 8, 8)), W), sk.DtypeError, "input is a ndarray.*stridekit.conv2d"),
    "dtypes that differ": (lambda: skt.conv2d(X.double(), W), sk.DtypeError, r"weight torch.float32.*weight.to"),
    "a bias of another": (lambda: skt.conv2d(X, W, torch.zeros(4).half()), sk.DtypeError, "bias torch.float16"),
    "integers": (lambda: skt.conv2d(X.int(), W.int()), sk.DtypeError, r"torch.int32.*input.to\(torch.float32\)"),
    "complex numbers": (lambda: skt.conv2d(X.cfloat(), W.cfloat()), sk.DtypeError, "torch.complex64"),
    "devices that differ": (lambda: skt.conv2d(X, W.to("meta")), sk.BackendUnavailableError, "cpu and weight on meta"),
    "sparse": (lambda: skt.conv2d(X.to_sparse(), W), sk.LayoutError, r"input.to_dense\(\)"),
    "axes": (lambda: skt.conv2d(X[0, 0], W), sk.ShapeError, "conv2d wants 4 each"),
    "weight's axes": (lambda: skt.conv2d(X, W[0]), sk.ShapeError, "conv2d wants 4 each"),
    "channels": (lambda: skt.conv2d(X[:, :2], W), sk.ShapeError, "second axis must be 2"),
    "too short": (lambda: skt.conv2d(X[:, :, :2], W), sk.ShapeError, "spans 3 pixels, more than the 2"),
    "stride": (lambda: skt.conv2d(X, W, None, (1, 2, 3)), sk.ShapeError, "stride has 3 values"),
    "padding": (lambda: skt.conv2d(X, W, None, 1, "sane"), sk.ShapeError, "sane"),
    "mode": (lambda: skt.conv2d(X, W, padding_mode="mirror"), sk.ShapeError, "mirror.*replicate"),
    "added": (lambda: skt.conv_transpose2d(X, W.movedim(0, 1), None, 2, 0, 2), sk.ShapeError, "output_padding"),
}


@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_device_that_stridekit_does_not_know_is_refused() -> None:
    class Elsewhere(torch.Tensor):  # type: ignore[misc]
        device = torch.device("mps")

    with pytest.raises(sk.BackendUnavailableError, match=r"input is on mps.*input.to\('cpu'\)"):
        skt.conv2d(X.as_subclass(Elsewhere), W)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@every_layer
def test_on_a_gpu_values_and_gradients_are_torchs(rng: np.random.Generator, layer: Layer, dtype: str) -> None:
    x, w, b = (t.detach().cuda().requires_grad_() for t in tensors_of(rng, layer, dtype))
    with torch.cuda.stream(torch.cuda.Stream()):
        y = layer.ours(x, w, b)
        g = torch.randn_like(y)
        y.backward(g)
    torch.cuda.synchronize()
    host = [t.detach().cpu() for t in (x, w, b, g)]
    assert_close_to(y.cpu(), layer.theirs, *host[:3])
    theirs, (hx, hw, _, hg) = layer.theirs, host
    assert_close_to(x.grad.cpu(), lambda w, g: gradients(theirs, 0, None, w, layer.input, g), hw, hg)
    assert_close_to(w.grad.cpu(), lambda x, g: gradients(theirs, 1, x, None, layer.weight, g), hx, hg)


@pytest.mark.parametrize("module", [functions, modules, operators, swapping, tensors], ids=lambda m: m.__name__)
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_without_torch_the_cure_is_named() -> None:
    program = "import sys; sys.modules['torch'] = None\nimport stridekit\nimport stridekit.torch"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "pip install '.[torch]' in the clone" in ran.stderr
