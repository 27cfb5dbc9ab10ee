"""Networks against PyTorch: random graphs in float64 to the last digits, those that ship in float32 to PyTorch's error.

In float64 outputs, loss, every gradient and every kept statistic agree to 1e-9 of the tensor's largest element. In
float32 the error against float64 may be at most 3 times PyTorch's own, or 16 roundings where that is less; of a whole
network 5 times: a convolution adds up its thousands of products in one row, where oneDNN adds up parts of it.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is PyTorch's; pip install torch")

import stridekit as sk  # noqa: E402
from stridekit.networks import Network  # noqa: E402
from stridekit.networks.execution.optimizers import SGD, Adam, Momentum, Optimizer  # noqa: E402
from tests.kit.network_cases import drawn, every_operation, random_network  # noqa: E402
from tests.kit.network_oracle import TorchNetwork  # noqa: E402

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
ROUNDOFF = 2.0**-24


def assert_close(found: Any, expected: Any, name: str, bound: float = 1e-9) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, name
    scale = max(float(np.abs(expected).max(initial=0)), 1e-4)
    error = float(np.abs(found - expected).max(initial=0))
    assert error <= bound * scale, (name, error, scale)


def torch_loss(theirs: TorchNetwork, x: np.ndarray, target: np.ndarray) -> Any:
    (out,) = theirs({"x": x}, training=True).values()
    return torch.nn.functional.cross_entropy(out, torch.tensor(target))


def check_training(network: Network, x: np.ndarray, target: np.ndarray, backend: str) -> None:
    """Compare the gradients, and what some steps of each optimizer make of parameters and statistics."""
    optimizers: list[tuple[Optimizer, Any, dict[str, Any]]] = [
        (SGD(0.05, weight_decay=0.01), torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.01}),
        (Momentum(0.05), torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
        (Adam(0.01), torch.optim.Adam, {"lr": 0.01}),
    ]
    for ours, kind, settings in optimizers:
        mine = network.astype("float64")
        theirs = TorchNetwork(mine)
        trained = [theirs.parameters[name] for name in mine.parameter_shapes]
        optimizer = kind(trained, **settings)
        for step in range(3):
            optimizer.zero_grad()
            expected = torch_loss(theirs, x, target)
            expected.backward()
            found = mine.train_step(x, target, ours, backend=backend)
            assert found == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
            if step == 0 and isinstance(ours, Momentum):
                for name in mine.parameter_shapes:
                    gradient = theirs.parameters[name].grad
                    wanted = np.zeros(ours.state[name][0].shape) if gradient is None else gradient.numpy()
                    assert_close(ours.state[name][0], wanted, f"{name}'s gradient")
            optimizer.step()
        for name, value in mine.parameters.items():
            assert_close(value, theirs.parameters[name].detach(), f"{name} after {kind.__name__}", 1e-7)


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_give_and_learn_what_they_do_in_pytorch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = 1 + seed % 3
    network = random_network(rng, rank, tuple(int(size) for size in rng.integers(4, 10, rank)))
    drawn(network, "float64", seed)
    (first,) = network.inputs
    x = rng.standard_normal((3, *network.features[first.name].shape))
    backend = ("reference", "cpu")[seed // 3 % 2]
    expected = TorchNetwork(network)({"x": x}, training=False)["logits"].detach()
    assert_close(network.run(x, backend=backend), expected, "output")
    check_training(network, x, rng.integers(0, 3, 3), backend)


@pytest.mark.parametrize("pixels", [False, True], ids=["classes", "pixels"])
@pytest.mark.parametrize("sizes", [(19,), (13, 10), (5, 7, 6)], ids=("1-D", "2-D", "3-D"))
def test_a_network_of_all_operations_gives_and_learns_what_it_does_in_pytorch(
    sizes: tuple[int, ...], pixels: bool, rng: np.random.Generator
) -> None:
    network = drawn(every_operation(sizes, pixels=pixels), "float64")
    x = rng.standard_normal((3, 3, *sizes))
    expected = TorchNetwork(network)({"x": x}, training=False)[network.outputs[0]].detach()
    assert_close(network.run(x, backend="cpu"), expected, "output")
    check_training(network, x, rng.integers(0, 4, (3, *sizes) if pixels else 3), "cpu")


def test_gradients_in_float32_are_no_further_off_than_pytorchs(rng: np.random.Generator) -> None:
    for sizes in ((61,), (23, 18)):
        exact = drawn(every_operation(sizes), "float64")
        x, target = rng.standard_normal((4, 3, *sizes)).astype(np.float32), rng.integers(0, 4, 4)
        exact = exact.astype("float32").astype("float64")
        truth, theirs, ours = TorchNetwork(exact), TorchNetwork(exact.astype("float32")), Momentum(0.0)
        torch_loss(truth, x.astype(np.float64), target).backward()
        torch_loss(theirs, x, target).backward()
        exact.astype("float32").train_step(x, target, ours)
        for name in exact.parameter_shapes:
            wide, narrow = (each.parameters[name].grad.numpy() for each in (truth, theirs))
            check_error(ours.state[name][0], narrow, wide, name)


def check_error(found: np.ndarray, narrow: np.ndarray, wide: np.ndarray, name: str, factor: float = 3.0) -> None:
    mine, peers = (float(np.abs(each.astype(np.float64) - wide).max()) for each in (found, narrow))
    floor = 16 * ROUNDOFF * float(np.abs(wide).max())
    assert mine <= max(factor * peers, floor), (name, mine / floor, peers / floor)


SHIPPED: dict[str, Any] = {
    "resnet18": 64,
    "resnet50": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_large": 64,
    "efficientnet_b0": 64,
    "convnext_t": 64,
    "unet": 64,
    "deeplabv3_r50": 49,
    "yolov8n": 64,
    "textcnn": 21,
    "deepspeech2": None,
    "faster_rcnn_r50_fpn": 64,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_networks_that_ship_give_what_they_do_in_pytorch(name: str) -> None:
    if name not in sk.networks.names():
        pytest.skip(f"{name} does not ship")
    network = sk.networks.load(name)
    if name == "faster_rcnn_r50_fpn":
        network = fewer_regions(network)
    network = network.resized(SHIPPED[name])
    network.initialize(3)
    rng = np.random.default_rng(0)
    given = {each.name: rng.standard_normal((each.operation.samples, *network.features[each.name].shape), np.float32)
             for each in network.inputs}  # fmt: skip
    found = network.run(given)
    found = found if isinstance(found, dict) else {network.outputs[0]: found}
    with torch.inference_mode():
        narrow = TorchNetwork(network)(given, training=False)
        wide = TorchNetwork(network.astype("float64"))(
            {key: array.astype(np.float64) for key, array in given.items()}, training=False
        )
    for output, array in found.items():
        check_error(array, narrow[output].numpy(), wide[output].numpy(), output, 5.0)


def fewer_regions(network: Network) -> Network:
    """Return the network with 5 regions of interest instead of a thousand."""
    layers = []
    for each in network.layers:
        operation = copy.copy(each.operation)
        if operation.kind == "input" and operation.samples > 1:
            object.__setattr__(operation, "samples", 5)
        layers.append(type(each)(each.name, operation, each.inputs, each.shares))
    return Network(network.name, layers, outputs=network.outputs)
