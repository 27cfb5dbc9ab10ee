"""The command `network`: reads its arguments, asks the network, prints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from stridekit.arguments import printable
from stridekit.cli.commands import app, reporting, typed_options
from stridekit.cli.typed import ArgumentError, check_writable_file, parse_amount, parse_input_size


@app.command()
@reporting
def network(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A network that ships, or a .toml or .onnx file. Without it: what ships.")
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option("--input", help="Input size: 224, 800x1333 or 3x224x224.  [default: the network's own]"),
    ] = None,
    batch: Annotated[int, typer.Option(help="Samples.")] = 1,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")] = "float32",
    train: Annotated[bool, typer.Option("--train", help="The memory of a training step instead of a run.")] = False,
    optimizer: Annotated[
        str | None, typer.Option(help="With --train: sgd, momentum or adam.  [default: momentum]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="A card that need not be here, such as H200.  [default: the one here]")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, cuda, cpu or reference.")] = "auto",
    fit: Annotated[
        str | None, typer.Option(help="Also find the largest batch within so much memory, such as 24GiB.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also run it here, and measure memory and time.")] = False,
    all_layers: Annotated[
        bool, typer.Option("--all", help="List every layer, not only those that change a size or multiply.")
    ] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the JSON to this file.")] = None,
) -> None:
    """Say what a network's strides do to its layers, what it costs, and the memory it needs.

    Prints sizes, receptive fields, what is dropped, parameters, multiply-adds and bytes of each layer, and the memory
    of a run or, with --train, of a training step: before anything is allocated.

    \b
    stridekit network                                       the networks that ship
    stridekit network resnet50 --batch 32 --train
    stridekit network deeplabv3_r50 --input 513x513 --dtype float16 --device H200
    stridekit network vgg16 --train --optimizer adam --device "RTX 4090" --fit 22GiB
    stridekit network mine.toml --all --json mine.json
    stridekit network resnet18 --batch 4 --train --measure
    """
    from stridekit import networks

    if name is None:
        for option in typed_options(context):
            raise ArgumentError(f"{option} is of a network: name one, or a .toml or .onnx file")
        for each in networks.names():
            typer.echo(f"{each:<20} {networks.load(each).source}")
        return
    if batch < 1:
        raise ArgumentError(f"--batch is {batch}; wanted at least 1")
    if optimizer is not None and not train:
        raise ArgumentError(f"--optimizer {optimizer} is of a training step: give --train, too")
    optimizer = optimizer or "momentum"
    limit = None if fit is None else parse_amount("--fit", fit)
    if device is not None and measure:
        raise ArgumentError(f"--device {device} predicts for a card; --measure runs here: give one of them")
    if json is not None:
        check_writable_file("--json", json)

    from stridekit.report.networks import print_network

    loaded = networks.load(name).resized(None if input_size is None else parse_input_size(input_size))
    summary = loaded.summary(batch=batch, dtype=dtype)
    where, options = _where(device, backend)
    typer.echo(f"Device: {where}")
    sizes = ", ".join(
        f"{printable(layer.name)} {'x'.join(map(str, (batch * feature.samples, *feature.shape)))}"
        for layer in loaded.inputs
        for feature in (loaded.features[layer.name],)
    )
    called = f"{loaded.name} ({loaded.source})" if loaded.source else loaded.name
    typer.echo(f"Network: {printable(called)}\nInput: {sizes}, {dtype}\n")
    usage = loaded.vram(batch, dtype=dtype, training=train, optimizer=optimizer, **options)
    measured = _measure(loaded, batch, dtype, optimizer if train else None, options["backend"]) if measure else {}
    largest, least = None, usage
    if limit is not None:
        largest = loaded.largest_batch(limit, dtype=dtype, training=train, optimizer=optimizer, **options)
        least = loaded.vram(1, dtype=dtype, training=train, optimizer=optimizer, **options)
    what = f"a training step with {optimizer}" if train else "a run"
    if json is not None:
        content = {**summary.to_dict(), "device": where, "training": train, "vram": vars(usage), **measured}
        if train:
            content["optimizer"] = optimizer
        if fit is not None:
            content |= {"fit": fit, "largest_batch": largest}
        json.write_text(_json(content), encoding="utf-8")
    print_network(summary, usage, what, all_layers=all_layers)
    if fit is not None:
        none = f"; even one sample needs {least.peak:,} bytes"
        typer.echo(f"Largest batch within {fit.strip()}: {largest}{'' if largest else none}")
    if measured:
        difference = measured["measured_allocated"] - usage.allocated
        typer.echo(
            f"Measured: {measured['measured_allocated']:,} bytes allocated "
            f"({'as predicted' if not difference else f'{difference:+,} bytes from the prediction'}), "
            f"{measured['seconds']:.3g} s"
        )
    if json is not None:
        typer.echo(f"\nWrote {printable(str(json))}")


def _where(device: str | None, backend: str) -> tuple[str, dict[str, Any]]:
    """Return the device in words, and what to ask for the prediction."""
    if device is not None:
        from stridekit.backends import profile_called

        name, known = profile_called(device)
        return f"{name}: {known.description} (predicted; it need not be here)", {"device": device, "backend": backend}

    from stridekit.compare import choose_device

    chosen = choose_device(backend)
    return f"{chosen.backend}: {chosen.description} ({chosen.why})", {"backend": chosen.backend}


def _measure(network: Any, batch: int, dtype: str, optimizer: str | None, backend: str) -> dict[str, Any]:
    """Run once to warm up and measure memory, once for the time."""
    import math
    import time

    import numpy as np

    from stridekit import vram
    from stridekit.memory.arrays import numpy_dtype
    from stridekit.memory.limits import check_memory

    rng = np.random.default_rng(0)
    kind = numpy_dtype(dtype)
    shapes = {
        layer.name: (batch * feature.samples, *feature.shape)
        for layer in network.inputs
        for feature in (network.features[layer.name],)
    }
    # First the parameters: whether memory holds them is known before anything is drawn.
    network = network.astype(dtype) if network.has_parameters else network.initialize(dtype=dtype)
    check_memory("the input", sum(map(math.prod, shapes.values())) * (4 + kind.itemsize))
    given = {name: rng.standard_normal(shape, np.float32).astype(kind) for name, shape in shapes.items()}
    if optimizer is None:
        call = partial(network.run, given, backend=backend)
    else:
        shape = network.features[network.outputs[0]].shape
        target = rng.integers(0, shape[0], (batch, *shape[1:]))
        call = partial(network.train_step, given, target, optimizer, backend=backend)
    with vram.track() as usage:
        call()
    start = time.perf_counter()
    call()
    return {"measured_allocated": usage.peak, "seconds": time.perf_counter() - start}


def _json(content: dict[str, Any]) -> str:
    import json

    return json.dumps(content, indent=1)
