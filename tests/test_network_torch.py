"""One network, three ways: a PyTorch module, the same exported to ONNX, and its network file, with equal summaries.

And equal results: what the network gives is what PyTorch and onnxruntime give, with the weights that came along.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from stridekit.networks import Network, NetworkError, load, names

torch = pytest.importorskip("torch", reason="Network.from_torch is for PyTorch; pip install torch")
pytestmark = [
    pytest.mark.oracle,
    # What torch says of its own exporters is none of ours.
    pytest.mark.filterwarnings("ignore"),
]

from tests.kit.torch_networks import MODELS, Basic, randomized  # noqa: E402

nn, functional = torch.nn, torch.nn.functional


def exported(module: Any, size: tuple[int, ...], opset: int = 17) -> bytes:
    """Export as it is: by default the exporter would fold normalisations into convolutions."""
    pytest.importorskip("onnx", reason="PyTorch exports by onnx; pip install onnx")
    example = torch.zeros((1, *size), dtype=next(module.parameters()).dtype)
    file = io.BytesIO()
    torch.onnx.export(
        module, (example,), file, dynamo=False, opset_version=opset, do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "batch"}}, input_names=["x"],
    )  # fmt: skip
    return file.getvalue()


def rows(network: Network, *without: str) -> list[dict[str, Any]]:
    summary = network.summary()
    return [{key: value for key, value in asdict(row).items() if key not in without} for row in summary.rows]


def assert_same_parameters(network: Network, module: Any) -> None:
    state = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = {name: network.parameters[name if name in network.parameters else f"{name}.weight"] for name in state}
    assert len(network.parameters) == len(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name].reshape(value.shape), value.numpy(), err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_module_onnx_and_network_file_have_one_summary_and_the_module_its_weights(name: str) -> None:
    make, size = MODELS[name]
    module = randomized(make())
    found = Network.from_torch(module, size)
    assert_same_parameters(found, module)
    assert name in names()
    written = load(name).resized(size)
    assert rows(found, "name") == rows(written, "name")
    from_onnx = Network.from_onnx(exported(module, size))
    assert_same_parameters(from_onnx, module)
    # ONNX has no adaptive pooling: the exporter writes an average pooling of the size that it comes to.
    assert rows(from_onnx, "name", "operation") == rows(found, "name", "operation")
    assert from_onnx.summary().parameters == sum(each.numel() for each in module.parameters())


class Everything(nn.Module):
    """What the named networks have not: every other function that is read, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.reflected = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect", dilation=2)
        self.same = nn.Conv2d(8, 8, (3, 4), padding="same", groups=2)
        self.turned = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1)
        self.factor = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.head = nn.Linear(8, 5, bias=False)
        self.bias = nn.Parameter(torch.rand(5))

    def forward(self, x: Any) -> Any:
        x = functional.silu(self.same(self.reflected(x)))
        first, second = x.chunk(2, 1)
        x = torch.cat([second, functional.leaky_relu(first, 0.2)], 1)
        y = functional.avg_pool2d(functional.pad(x, (1, 0, 0, 1)), 2, 2)
        y = functional.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        y = functional.interpolate(functional.max_pool2d(y, 2), scale_factor=2) * self.factor
        x = torch.tanh(self.turned(x + y))
        x = x[:, 2:] if x.shape[1] == 10 else functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        x = functional.hardtanh(x * torch.sigmoid(x), 0, 6)
        pooled = x.mean((2, 3)) + functional.adaptive_max_pool2d(x, 1).flatten(1) + x.amax((-1, -2))
        return torch.softmax(self.head(pooled) + self.bias, 1)


class Gated(nn.Module):
    """Gates of every kind, and the hard functions, as modules and written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(True), nn.Conv2d(4, 8, 1))
        self.hard, self.swish = nn.Hardsigmoid(), nn.Hardswish(inplace=True)
        self.beside = nn.Conv2d(8, 16, 1)

    def forward(self, x: Any) -> Any:
        x = self.swish(self.stem(x))
        x = self.hard(self.excite(x)) * x
        x = x * functional.relu6(x + 3) / 6
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        value, gate = self.beside(x).chunk(2, 1)
        x = value * torch.sigmoid(gate)
        return x * (functional.relu6(x + 3.0) * (1 / 6)) + torch.tanh(x) * x


SMALL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "everything": (Everything, (3, 12, 14)),
    "basic": (lambda: Basic(4, 8, 2), (4, 9, 9)),
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 2, 2)), (3, 30)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4), nn.AvgPool3d(2)), (2, 4, 6, 8)),
    "gates": (Gated, (3, 12, 14)),
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)), (6,)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-10)])
@pytest.mark.parametrize("name", SMALL)
def test_a_network_gives_what_pytorch_and_onnxruntime_give(name: str, dtype: str, tolerance: float) -> None:
    make, size = SMALL[name]
    module = randomized(make()).to(getattr(torch, dtype))
    x = np.random.default_rng(0).standard_normal((2, *size)).astype(dtype)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()

    def compare(found: np.ndarray) -> None:
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()

    network = Network.from_torch(module, size)
    compare(network.run(x, backend="reference"))
    model = exported(module, size)
    again = Network.from_onnx(model)
    assert rows(again, "name") == rows(network, "name")
    compare(again.run(x, backend="reference"))
    if dtype == "float32":
        runtime = pytest.importorskip("onnxruntime", reason="the other oracle is onnxruntime; pip install onnxruntime")
        compare(runtime.InferenceSession(model).run(None, {"x": x})[0])


@pytest.mark.parametrize(
    "name", ["convnext_t", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_large", "resnet18", "unet"]
)
def test_a_named_network_gives_what_pytorch_gives(name: str) -> None:
    make, size = MODELS[name]
    module = randomized(make())
    size = (size[0], 64, 64)
    x = np.random.default_rng(0).standard_normal((1, *size)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    found = Network.from_torch(module, size).run(x)
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_layers_are_named_as_their_modules_and_the_module_keeps_its_mode() -> None:
    module = nn.ModuleDict({"stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())})

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = module

        def forward(self, x: Any) -> Any:
            y = self.parts["stem"](x)
            return y + y

    whole = Whole()
    whole.parts["stem"][1].eval()
    network = Network.from_torch(whole, (3, 8, 8))
    wanted = ["x", "parts.stem.0", "parts.stem.1", "parts.stem.2", "add"]
    assert [layer.name for layer in network.layers] == wanted
    assert whole.training
    assert not whole.parts["stem"][1].training


def test_the_weights_are_copies_of_their_own_dtype() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3)).to(torch.bfloat16)
    weight = Network.from_torch(module, (3, 8, 8)).parameters["0.weight"]
    assert weight.dtype.name == "bfloat16"
    np.testing.assert_array_equal(weight.astype(np.float32), module[0].weight.detach().float().numpy())
    before = weight.copy()
    with torch.no_grad():
        module[0].weight.zero_()
    np.testing.assert_array_equal(weight, before)


def test_tied_modules_share_and_half_tied_ones_are_refused() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    network = Network.from_torch(nn.Sequential(conv, nn.ReLU(), conv), (4, 8, 8))
    assert [layer.shares for layer in network.layers] == [None, None, None, "0"]
    assert network.summary().parameters == sum(each.numel() for each in conv.parameters())
    other = nn.Conv2d(4, 4, 3, padding=1)
    other.weight = conv.weight
    with pytest.raises(NetworkError, match=r"module '1'\): its weight is that of layer '0', and another parameter is"):
        Network.from_torch(nn.Sequential(conv, other), (4, 8, 8))


def changed(function: Any) -> Any:
    class Changed(nn.Module):
        def forward(self, x: Any) -> Any:
            return function(x)

    return Changed()


MISTAKES: dict[str, tuple[Any, str]] = {
    "function": (
        lambda: nn.Sequential(nn.ReLU(), nn.GroupNorm(3, 3)),
        r"node 'group_norm' \(aten\.group_norm\.default, in module '1'\): function aten\.group_norm\.default is not",
    ),
    "channels-reduced": (
        lambda: changed(lambda x: x * x.mean(1, keepdim=True)), r"reduces axes \[1\] of \(1, 3, 8, 8\); known is over",
    ),
    "spread-pixels": (
        lambda: changed(lambda x: x * functional.max_pool2d(x, (1, 8))),
        r"\(aten\.mul\.Tensor\): the inputs are \(1, 3, 8, 8\) and \(1, 3, 8, 1\), or of other orders; wanted one",
    ),
    "tanh-gelu": (lambda: nn.GELU("tanh"), r"approximate is 'tanh', known as 'none' alone"),
    "no-affine": (lambda: nn.BatchNorm2d(3, affine=False), r"the scale \(weight\) is missing"),
    "batch-statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), r"node '"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=3), r"divisor_override is not known"),
    "shuffle": (lambda: nn.PixelShuffle(1), r"is not known"),
    "uneven": (lambda: nn.AdaptiveAvgPool2d(5), r"output_size is 5; it must divide the input's \(8, 8\)"),
    "cubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), r"upsample_bicubic2d\.vec is not known"),
    "max-pool-pad": (
        lambda: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), r"the input is padded by node 'pad' \(aten\.pad",
    ),
    "data-dependent": (
        lambda: changed(lambda x: x if x.sum() > 0 else -x), r"Changed does not export at \(3, 8, 8\): ",
    ),
    "two-axes": (lambda: nn.Flatten(2), r"\(1, 3, 8, 8\) to \(1, 3, 64\) is not known; only to \(1, features\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_not_known_is_named_with_its_node_and_module(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(NetworkError, match=message):
        Network.from_torch(make(), (3, 8, 8))
    with pytest.raises(NetworkError, match=r"module is a int; wanted a torch\.nn\.Module"):
        Network.from_torch(5)


def test_a_model_of_transformers_is_read_as_it_is() -> None:
    models = pytest.importorskip("transformers", reason="the models are transformers'; pip install transformers")
    config = models.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1], num_labels=5)
    module = randomized(models.ConvNextForImageClassification(config))
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).logits.numpy()
    network = Network.from_torch(module, (3, 64, 64))
    assert network.summary().parameters == sum(each.numel() for each in module.parameters())
    assert np.abs(network.run(x) - wanted).max() <= 1e-4 * np.abs(wanted).max()
