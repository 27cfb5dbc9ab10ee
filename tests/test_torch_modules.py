"""`stridekit.torch`'s modules: PyTorch's own but for who computes, and a model's swap and its undoing."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

import stridekit as sk

torch = pytest.importorskip("torch", reason="stridekit.torch is for PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    # torch's own extensions and compiler speak of themselves on import and first use; none of that is ours.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning"),
]

import stridekit.torch as skt  # noqa: E402

nn = torch.nn
CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
SIZES = (9, 8, 10)


@pytest.fixture(autouse=True)
def repeatable() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def pair(name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """One of our modules and PyTorch's, of the same parameters, in float64."""
    ours = getattr(skt, name)(*arguments, **options, dtype=torch.float64)
    theirs = getattr(nn, name)(*arguments, **options, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def assert_same(ours: Any, theirs: Any, x: Any, **options: Any) -> None:
    """Raise unless two modules give the same values and gradients, but for rounding in float64."""
    results = []
    for module in (ours, theirs):
        given = x.clone().requires_grad_()
        module.zero_grad()
        y = module(given, **options)
        y.sin().sum().backward()
        results.append([y, given.grad, *(parameter.grad for parameter in module.parameters())])
    for mine, its in zip(*results, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-11)


def rank_of(name: str) -> int:
    return int(name[-2])


def some(name: str, channels: int = 4) -> Any:
    return torch.randn(2, channels, *SIZES[: rank_of(name)], dtype=torch.float64)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_modules_compute_what_torchs_do(name: str, mode: str) -> None:
    for options in (
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 2, "groups": 2, "bias": False},
        {"kernel_size": 2, "stride": 3, "padding": 1, "dilation": 2},
        {"kernel_size": 4, "padding": "same", "dilation": 1},
        {"kernel_size": (2, 3, 4)[: rank_of(name)], "padding": "same", "dilation": 2},
        {"kernel_size": 2, "padding": "valid", "stride": 2},
    ):
        ours, theirs = pair(name, 4, 6, padding_mode=mode, **options)
        assert_same(ours, theirs, some(name))
        assert_same(ours, theirs, some(name)[0])
        assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_modules_compute_what_torchs_do(name: str) -> None:
    for options in (
        {"kernel_size": 3},
        {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2, "bias": False},
        {"kernel_size": 2, "stride": 3, "output_padding": 2, "dilation": 2},
    ):
        ours, theirs = pair(name, 4, 6, **options)
        assert_same(ours, theirs, some(name))
    ours, theirs = pair(name, 4, 6, 3, stride=2, padding=1)
    assert_same(ours, theirs, some(name), output_size=[2 * size for size in SIZES[: rank_of(name)]])


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_same_takes_every_stride(name: str) -> None:
    layer = getattr(skt, name)(4, 6, 3, stride=2, padding="same", padding_mode="reflect", dtype=torch.float64)
    x = some(name)
    wanted = getattr(sk, name.lower())(
        x.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy(), stride=2, padding="same",
        padding_mode="reflect",
    )  # fmt: skip
    assert layer.stride == (2,) * rank_of(name)
    assert (layer(x).detach().numpy() == wanted).all()
    with pytest.raises(sk.ShapeError, match="padding 'same' and a stride"):
        skt.revert(nn.Sequential(layer))
    assert type(layer) is getattr(skt, name)


def test_modules_are_copied_pickled_and_saved() -> None:
    layer = skt.Conv2d(3, 4, 3, 2, padding_mode="circular")
    x = torch.randn(1, 3, 9, 9)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert type(other) is skt.Conv2d
        assert other.weight is not layer.weight
        assert torch.equal(other(x), layer(x))


def test_state_dicts_pass_both_ways() -> None:
    ours, theirs = skt.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(ours.weight, theirs.weight)
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_channels_last_stays_channels_last(dtype: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 5, 3, 2))
    skt.convert(model).to(dtype, memory_format=torch.channels_last)
    x = torch.randn(2, 3, 17, 17, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    y = model(x)
    y.backward(torch.randn_like(y))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


def network() -> Any:
    """Every kind of convolution once, one of them in two places."""
    shared = nn.Conv2d(4, 4, 3, padding=1, groups=2)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, padding=1), nn.ReLU(), shared, nn.ReLU(), shared, nn.ConvTranspose2d(4, 4, 3, 2),
        nn.Flatten(2), nn.Conv1d(4, 4, 5, 3), nn.ConvTranspose1d(4, 4, 2), nn.Unflatten(1, (2, 2)),
        nn.Unflatten(3, (2, -1)), nn.Conv3d(2, 3, (1, 2, 3)), nn.ConvTranspose3d(3, 2, 2),
    ).double()  # fmt: skip


def image() -> Any:
    return torch.randn(2, 3, 15, 15, dtype=torch.float64)


def test_a_converted_model_gives_the_same_and_reverted_is_what_it_was() -> None:
    model = network()
    before, classes = copy.deepcopy(model), [type(module) for module in model.modules()]
    modules, parameters = list(model.modules()), list(model.parameters())
    assert skt.convert(model) is model
    assert skt.converted(model) == ["0", "2", "5", "7", "8", "11", "12"]
    assert_same(model, before, image())
    assert all(isinstance(module, kind) for module, kind in zip(model.modules(), classes, strict=True))
    assert skt.convert(model) is model
    assert skt.revert(model) is model
    assert skt.converted(model) == []
    assert [type(module) for module in model.modules()] == classes
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_hooks_flags_and_optimizers_stay() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[Any] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    model[0].register_full_backward_hook(lambda module, *gradients: seen.append(type(module)))
    model[2].eval()
    model[7].weight.requires_grad_(False)
    skt.convert(model)
    assert [model[0].training, model[2].training] == [True, False]
    weight, frozen = model[0].weight.clone(), model[7].weight.clone()
    model(image().requires_grad_()).sum().backward()
    optimizer.step()
    assert seen == [skt.Conv2d, skt.Conv2d]
    assert not torch.equal(model[0].weight, weight)
    assert torch.equal(model[7].weight, frozen)


def test_a_lone_module_is_converted_where_it_is() -> None:
    layer = nn.Conv2d(3, 4, 3)
    assert skt.convert(layer) is layer
    assert type(layer) is skt.Conv2d
    assert type(skt.revert(layer)) is nn.Conv2d


def test_what_may_compute_something_else_is_left_alone() -> None:
    class Own(nn.Conv2d):  # type: ignore[misc]
        pass

    parametrised = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3))
    model = nn.Sequential(Own(3, 4, 3), nn.LazyConv2d(4, 3), nn.Linear(3, 4), parametrised)
    model.append(nn.Conv2d(3, 4, 3, dtype=torch.complex64))
    assert skt.converted(skt.convert(model)) == []
    with pytest.raises(sk.DtypeError, match="model is a list"):
        skt.convert([model])
    with pytest.raises(sk.DtypeError, match="model is a Tensor"):
        skt.converted(torch.zeros(1))


def test_our_modules_take_parametrisations() -> None:
    ours, theirs = pair("Conv1d", 4, 6, 3, stride=2)
    for layer in (ours, theirs):
        nn.utils.parametrizations.weight_norm(layer)
    assert_same(ours, theirs, some("Conv1d"))


def test_a_converted_model_compiles_whole() -> None:
    model = nn.Sequential(*list(network())[:6])
    x = image()
    wanted = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(skt.convert(model), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted, rtol=1e-12, atol=1e-12)


def test_learning_goes_the_way_it_goes_with_torch() -> None:
    """Twenty steps of Adam on the same data from the same weights: the losses agree in float64."""
    model, x = network(), image()
    losses = []
    for each in (skt.convert(copy.deepcopy(model)), model):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = (each(x) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.8 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
