"""The command line: reads arguments, checks them, calls the library, prints. What it computes is the library's."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import stridekit
from stridekit.arguments import printable
from stridekit.cli.typed import (
    ArgumentError,
    check_writable_file,
    check_writable_folder,
    load_weights,
    parse_padding,
    parse_sizes,
    parse_strides,
)
from stridekit.compare.saving import check_free, file_names
from stridekit.errors import StridekitError
from stridekit.memory.arrays import Array

PADDING_HELP = (
    "a number, rows,columns such as 3,1, before:after for each such as 3:2,3:2, or valid, same, same_lower, causal"
)

# Plain help and no tracebacks dressed up: what is printed can be read in a log and by a screen reader.
app = typer.Typer(
    name="stridekit", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True
)


def run(arguments: Sequence[str]) -> int:
    """Run the command line with `arguments`; return its exit status. Wrong usage is one line on stderr, and 2."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets another for it, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        status = app(list(arguments), prog_name="stridekit", standalone_mode=False)
    except typer.Abort:
        return 130
    except Exception as error:
        # Typer's own base class of usage errors has moved between modules; its protocol has not.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        message = error.format_message()
        # Without a command the message is the help itself.
        typer.echo(message if message.startswith("Usage:") else f"stridekit: {_one_line(message)}", err=True)
        return 2
    return status if isinstance(status, int) else 0


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Turn what goes wrong in a command into one line on stderr and exit status 2."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except BrokenPipeError:
            raise
        except (StridekitError, OSError, MemoryError) as error:
            typer.echo(f"stridekit: {_one_line(str(error)) or 'not enough memory'}", err=True)
            raise typer.Exit(2) from None

    return wrapped


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))


def typed_options(context: typer.Context) -> list[str]:
    """Return the options that were typed, by their names."""
    sources = {parameter: context.get_parameter_source(str(parameter.name)) for parameter in context.command.params}
    return [
        parameter.opts[0]
        for parameter, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stridekit {stridekit.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Convolution with stride as a decision you can measure.

    \b
    stridekit compare photo.jpg --strides 1,2,4    what each stride gives, costs and loses
    stridekit shape 224 --kernel 7 --stride 2      sizes, with the formula and a drawing
    stridekit network resnet50 --train             a network's sizes, fields, costs and memory
    stridekit info                                 backends, devices, versions, caches
    """


@app.command()
@reporting
def compare(
    image: Annotated[
        Path | None, typer.Argument(help="Any picture that Pillow reads. Without it: the sample photo.")
    ] = None,
    strides: Annotated[
        str, typer.Option(help="Strides, comma-separated; 2x1 steps 2 rows and 1 column.")
    ] = "1,2,3,4,5,8,10",
    kernel: Annotated[str | None, typer.Option(help="Kernel size, such as 7 or 3x7.  [default: 7]")] = None,
    filters: Annotated[int | None, typer.Option(help="Filters of the bank.  [default: 32]")] = None,
    padding: Annotated[str, typer.Option(help=f"Padding: {PADDING_HELP}.")] = "same",
    dtype: Annotated[str, typer.Option(help="float16, bfloat16, float32 or float64.")] = "float32",
    backend: Annotated[str, typer.Option(help="auto, cuda, cpu or reference.")] = "auto",
    chart: Annotated[bool, typer.Option("--chart", help="A zone plate instead of a picture.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Filters of your own, (K, C, R, S), from a .npy file.")] = None,
    max_aliased_energy: Annotated[
        float, typer.Option(help="Recommend the largest stride that aliases at most this share, 0 to 1.")
    ] = 0.1,
    repeats: Annotated[
        int | None, typer.Option(help="Timed runs of each stride.  [default: as fit in 3 s, 5 to 50]")
    ] = None,
    pooling: Annotated[
        bool,
        typer.Option(
            help="Also compare each stride with max-, average- and blur-pooling; takes several times as long."
        ),
    ] = False,
    backward: Annotated[bool, typer.Option(help="Also measure training steps: output and gradients.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the JSON to this file.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for JSON and pictures.")] = Path("stride-comparison"),
) -> None:
    """Measure one layer at several strides, and say which to take.

    Runs it on a picture. Prints sizes, time, memory and aliased energy of each stride, and a recommendation: the
    largest stride that aliases at most --max-aliased-energy and whose windows leave no gap. Speed is compared with
    stride 1, which is always measured. Exit status 2, and no files, if anything is wrong.

    \b
    stridekit compare
    stridekit compare photo.jpg --strides 1,2,2x1,4 --kernel 3
    stridekit compare --chart --strides 1,2,4 --filters 8 --output rings
    stridekit compare photo.jpg --strides 2,4 --pooling --backward
    stridekit compare photo.jpg --weights conv1.npy --padding 3 --json result.json
    """
    steps, pads = parse_strides(strides), parse_padding(padding)
    if chart and image is not None:
        raise ArgumentError(f"--chart and the image {printable(str(image))} exclude each other; give one")
    if weights is not None and (kernel is not None or filters is not None):
        raise ArgumentError("--weights brings its own kernel size and filters; leave --kernel and --filters out")
    if set(steps) == {(1, 1)} and (pooling or backward):
        option = "--pooling" if pooling else "--backward"
        raise ArgumentError(f"{option} compares ways to shrink by a stride; --strides {strides} has none beyond 1")
    check_writable_folder("--output", output)
    check_free(output, file_names(steps, alternatives=pooling or backward))
    if json is not None:
        check_writable_file("--json", json)
    weight = None if weights is None else load_weights(weights)
    pixels, name = _picture(image, chart)

    from stridekit.compare import choose_device, compare_strides
    from stridekit.compare.comparison import ALTERNATIVES
    from stridekit.report.comparisons import print_comparison

    device = choose_device(backend)
    typer.echo(f"Device: {device.backend}: {device.description} ({device.why})")
    with progress_bar() as progress:
        comparison = compare_strides(
            pixels,
            steps,
            kernel_size=_one_or_each(parse_sizes("--kernel", kernel or "7")),
            filters=32 if filters is None else filters,
            padding=pads,
            dtype=dtype,
            backend=backend,
            weight=weight,
            repeats=repeats,
            max_aliased_energy=max_aliased_energy,
            alternatives=ALTERNATIVES if pooling else (),
            backward=backward,
            name=name,
            progress=progress,
        )
    written = list(comparison.save(output))
    if json is not None:
        json.write_text(comparison.to_json(), encoding="utf-8")
        written.append(json)
    # Printed last, so that a reader who closes the pipe early loses no file.
    print_comparison(comparison)
    typer.echo("\nWrote " + "\n      ".join(printable(str(path)) for path in written))


@app.command()
@reporting
def shape(
    size: Annotated[str, typer.Argument(help="Input pixels: 224, or rows x columns such as 224x320.")],
    kernel: Annotated[str, typer.Option(help="Kernel size, such as 7 or 3x7.")],
    stride: Annotated[str, typer.Option(help="Such as 2 or 2x1.")] = "1",
    padding: Annotated[str, typer.Option(help=f"Padding: {PADDING_HELP}.")] = "0",
    dilation: Annotated[str, typer.Option(help="Such as 2 or 2x1.")] = "1",
) -> None:
    """Say what a stride does to a size, with a drawing.

    Prints the formula with its numbers, what is dropped and skipped, and where the windows lie.

    \b
    stridekit shape 224 --kernel 7 --stride 2 --padding 3
    stridekit shape 224x320 --kernel 3 --stride 2 --padding same
    stridekit shape 20 --kernel 3 --stride 4 --dilation 2 --padding 1:2
    """
    from stridekit.problems.geometry import conv_geometry
    from stridekit.report.axes import LEGEND, describe_axis, draw_axis

    geometry = conv_geometry(
        parse_sizes("SIZE", size),
        kernel_size=_one_or_each(parse_sizes("--kernel", kernel)),
        stride=_one_or_each(parse_sizes("--stride", stride)),
        padding=parse_padding(padding),
        dilation=_one_or_each(parse_sizes("--dilation", dilation)),
    )
    sizes = "x".join(map(str, geometry.output_size))
    typer.echo(f"{size} -> {sizes}")
    names = ("axis",) if len(geometry.axes) == 1 else ("rows", "columns")
    if len(set(geometry.axes)) < len(geometry.axes):
        names = ("rows and columns alike",)
    for name, axis in zip(names, geometry.axes, strict=False):
        typer.echo(f"\n{name}")
        for line in [*describe_axis(axis), "", *draw_axis(axis)]:
            typer.echo(f"  {line}".rstrip())
    typer.echo(f"\n{LEGEND}")


@app.command()
@reporting
def info() -> None:
    """Print backends, devices, versions and caches.

    Says why a backend cannot run here, and how to get it.
    """
    import platform
    from importlib.metadata import version

    from stridekit.backends import backend_status
    from stridekit.compare import choose_device
    from stridekit.memory.disk_cache import cache_fault

    typer.echo(f"stridekit {stridekit.__version__}, Python {platform.python_version()}, {platform.platform()}")
    typer.echo(", ".join(f"{name} {version(name)}" for name in ("numpy", "matplotlib", "pillow", "rich", "typer")))
    for status in backend_status():
        typer.echo(f"\n{status.name}: {status.device if status.available else 'not available'}")
        if not status.available:
            typer.echo(f"  why:      {status.reason}")
        if status.versions:
            typer.echo(f"  versions: {', '.join(f'{name} {number}' for name, number in status.versions.items())}")
        if status.cache_dir:
            fault = cache_fault()
            typer.echo(f"  cache:    {printable(status.cache_dir)}" + (f", not used: {fault}" if fault else ""))
    asked = os.environ.get("STRIDEKIT_BACKEND")
    typer.echo(f"\nSTRIDEKIT_BACKEND is {printable(asked) if asked else 'not set'}")
    device = choose_device()
    typer.echo(f"compare takes {device.backend}: {device.why}")


def _picture(image: Path | None, chart: bool) -> tuple[Array, str]:
    from stridekit.compare.images import SAMPLE_NAME, load_image, sample_photo, zone_plate

    if chart:
        return zone_plate(), "zone plate chart"
    if image is None:
        return sample_photo(), f"{SAMPLE_NAME} (sample photo)"
    return load_image(image), str(image)


def _one_or_each(values: tuple[int, ...]) -> int | tuple[int, ...]:
    return values[0] if len(values) == 1 else values


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar on stderr if a person is looking; else nothing, so that logs stay clean."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("preparing", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
