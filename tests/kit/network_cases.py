"""Networks to test with: one of every operation, of any rank, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from stridekit.networks import Layer, Network
from stridekit.networks.operations import FUNCTIONS, OPERATIONS

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
ACCUMULATED = {"float16": 2.0**-24, "bfloat16": 2.0**-24, "float32": 2.0**-24, "float64": 2.0**-53}


def layer(name: str, kind: str, inputs: Any = (), shares: str | None = None, **options: Any) -> Layer:
    """Make a layer; `kind` is an operation's or an activation's name, `inputs` one name or several."""
    if kind in FUNCTIONS:
        kind, options = "activation", {"function": kind, **options}
    return Layer(name, OPERATIONS[kind](**options), (inputs,) if isinstance(inputs, str) else tuple(inputs), shares)


def chain(*layers: Layer) -> list[Layer]:
    """Let each layer without inputs read the one before it."""
    found: list[Layer] = []
    for each in layers:
        if not each.inputs and each.operation.kind != "input":
            each = Layer(each.name, each.operation, (found[-1].name,), each.shares)
        found.append(each)
    return found


def drawn(network: Network, dtype: str, seed: int = 0) -> Network:
    """Draw every parameter, biases and buffers too, so that none is without effect."""
    rng = np.random.default_rng(seed)
    network.initialize(seed, dtype)
    for name, value in network.parameters.items():
        if name.endswith(".running_var"):
            value[...] = rng.uniform(0.5, 2, value.shape)
        elif value.ndim == 1:
            value[...] = value + 0.3 * rng.standard_normal(value.shape)
    return network


def every_operation(sizes: tuple[int, ...], *, pixels: bool = False, classes: int = 4) -> Network:
    """Return a network of all operations and functions; with `pixels` it ends with classes for each pixel."""
    layers = chain(
        layer("x", "input", size=(3, *sizes)),
        layer("first", "conv", out_channels=8, kernel_size=3, stride=2, padding=1, bias=False),
        layer("norm", "batch_norm"),
        layer("relu", "relu"),
        layer("grouped", "conv", out_channels=8, kernel_size=3, padding=1, groups=2, padding_mode="reflect"),
        layer("gelu", "gelu"),
        layer("silu", "silu"),
        layer("pixelwise", "layer_norm"),
        layer("scale", "scale", initial=0.5),
        layer("sum", "add", ("scale", "relu")),
        layer("again", "conv", "sum", "grouped", out_channels=8, kernel_size=3, padding=1, groups=2),
        layer("frozen", "batch_norm", trained=False),
        layer("pooled", "max_pool", "sum", kernel_size=3, stride=2, padding=1),
        layer("grown", "upsample", ("pooled", "sum"), mode="linear"),
        layer("spread", "conv_transpose", ("pooled", "sum"), out_channels=6, kernel_size=3, stride=2, padding=1),
        layer("concat", "concat", ("grown", "spread", "frozen", "sum")),
        layer("slice", "slice", start=3, stop=27),
        layer("blur", "blur_pool"),
        layer("dilated", "conv", out_channels=6, kernel_size=2, dilation=2, padding="same", padding_mode="replicate"),
        layer("leaky", "leaky_relu", slope=0.1),
        layer("mean", "avg_pool", kernel_size=2, stride=1, padding=1),
        layer("twice", "add", ("mean", "mean")),
        layer("peaks", "max_pool", kernel_size=2, stride=2, ceil_mode=True),
        layer("sigmoid", "sigmoid"),
        layer("larger", "upsample", factor=2),
        layer("tanh", "tanh"),
        layer("attention", "softmax_cross_entropy"),
        layer("weighted", "add", ("attention", "tanh", "larger")),
        layer("relu6", "relu6"),
        layer("clipped", "clipped_relu", limit=1.5),
        layer("swish", "hard_swish", "weighted"),
        layer("squeezed", "global_avg_pool"),
        layer("excited", "conv", out_channels=6, kernel_size=1),
        layer("gate", "hard_sigmoid"),
        layer("gated", "multiply", ("swish", "gate")),
        layer("product", "multiply", ("gated", "tanh")),
        layer("together", "concat", ("product", "clipped")),
    )
    if pixels:
        layers += chain(
            layer("head", "conv", "together", out_channels=classes, kernel_size=1),
            layer("classes", "upsample", ("head", "x"), mode="linear", align_corners=True),
        )
    else:
        layers += chain(
            layer("average", "global_avg_pool", "together"),
            layer("largest", "global_max_pool", "together"),
            layer("one", "adaptive_avg_pool", "together", output_size=1),
            layer("all", "add", ("average", "largest", "one")),
            layer("flat", "flatten"),
            layer("logits", "linear", out_features=classes),
        )
    return Network("every_operation", layers)


def random_network(rng: np.random.Generator, rank: int, sizes: tuple[int, ...], classes: int = 3) -> Network:
    """Return a random graph: layers of all kinds, each on random ones before it, that ends in classes."""
    network = Network("start", [layer("x", "input", size=(int(rng.integers(1, 5)), *sizes))])
    layers: list[Layer] = list(network.layers)

    def shapes() -> dict[str, tuple[int, ...]]:
        return {name: feature.shape for name, feature in Network("so far", layers).features.items()}

    for number in range(int(rng.integers(8, 20))):
        known = shapes()
        # Mostly the last layers, so that the graph is deep; at times any.
        names = [each.name for each in layers]
        name = names[-1] if rng.random() < 0.6 else str(rng.choice(names))
        made = _random_layer(rng, f"l{number}", name, known, rank)
        if made is not None:
            layers.append(made)
    known = shapes()
    # Everything that nothing reads is pooled and summed up in the end.
    read = {each for made in layers for each in made.inputs}
    ends = [each.name for each in layers if each.name not in read]
    pooled = [layer(f"{name}_pooled", str(rng.choice(["global_avg_pool", "global_max_pool"])), name) for name in ends]
    layers += pooled
    layers.append(layer("joined", "concat", [each.name for each in pooled]))
    layers += chain(layer("flat", "flatten", "joined"), layer("logits", "linear", out_features=classes))
    return Network(f"random {rank}-D", layers)


def _random_layer(
    rng: np.random.Generator, name: str, source: str, known: dict[str, tuple[int, ...]], rank: int
) -> Layer | None:
    channels, *sizes = known[source]
    alike = [other for other, shape in known.items() if shape == known[source]]
    beside = [other for other, shape in known.items() if shape[1:] == known[source][1:]]
    larger = [other for other, shape in known.items() if all(a >= b for a, b in zip(shape[1:], sizes, strict=True))]
    kind = str(rng.choice([*OPERATIONS, *FUNCTIONS]))
    stride, kernel = (int(rng.integers(1, high)) for high in (3, 4))
    groups = int(rng.choice([each for each in (1, 2, channels) if channels % each == 0]))
    if kind in FUNCTIONS or kind in ("batch_norm", "layer_norm", "scale", "softmax_cross_entropy"):
        options = {"scale": {"initial": 0.7}, "leaky_relu": {"slope": 0.2}, "clipped_relu": {"limit": 1.0}}
        frozen = {"trained": bool(rng.random() < 0.7)} if kind == "batch_norm" else {}
        return layer(name, kind, source, **options.get(kind, frozen))
    if kind == "conv":
        mode = str(rng.choice(["zeros", "reflect", "replicate", "circular"]))
        return layer(
            name, kind, source, out_channels=groups * int(rng.integers(1, 4)), kernel_size=kernel, stride=stride,
            padding="valid" if min(sizes) < 4 else kernel // 2, groups=groups, bias=bool(rng.random() < 0.5),
            padding_mode=mode,
        ) if min(sizes) >= kernel else None  # fmt: skip
    if kind == "global_avg_pool" and rng.random() < 0.5:
        return layer(name, kind, source)
    if kind == "conv_transpose":
        if max(sizes) > 16:
            return None
        return layer(
            name, kind, source, out_channels=groups * int(rng.integers(1, 3)), kernel_size=kernel, stride=stride,
            groups=groups, output_padding=stride - 1, bias=bool(rng.random() < 0.5),
        )  # fmt: skip
    if kind in ("max_pool", "avg_pool"):
        options = {"padding": kernel // 2, "ceil_mode": bool(rng.random() < 0.5)}
        if kind == "avg_pool":
            options["count_include_pad"] = bool(rng.random() < 0.5)
        return layer(name, kind, source, kernel_size=kernel, stride=stride, **options) if min(sizes) >= kernel else None
    if kind == "blur_pool":
        return layer(name, kind, source, stride=stride, padding_mode="replicate")
    if kind == "add":
        return layer(name, kind, [str(rng.choice(alike)) for _ in range(int(rng.integers(2, 4)))])
    if kind == "multiply":
        gates = [other for other, shape in known.items() if shape == (channels, *(1 for _ in sizes))]
        return layer(name, kind, [source, str(rng.choice(gates if gates and rng.random() < 0.5 else alike))])
    if kind == "concat":
        return layer(name, kind, [source, *(str(rng.choice(beside)) for _ in range(int(rng.integers(0, 3))))])
    if kind == "slice":
        start = int(rng.integers(channels))
        return layer(name, kind, source, start=start, stop=int(rng.integers(start, channels)) + 1)
    if kind == "upsample":
        options = {"mode": str(rng.choice(["nearest", "linear"])), "align_corners": bool(rng.random() < 0.5)}
        if rng.random() < 0.5:
            return layer(name, kind, (source, str(rng.choice(larger))), **options)
        return layer(name, kind, source, factor=2, **options) if max(sizes) < 16 else None
    # Inputs, what ends a network, and what needs sizes that fit.
    return None
