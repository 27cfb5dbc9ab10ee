"""Small inputs that ask for the endless, each answered or refused by name: run as a program, under limits of its own.

Each case prints its name, its seconds of processor time and what came of it, as a line of JSON. A case is a function
of a folder to write in; what it returns or raises is what comes of it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import stridekit as sk
from stridekit.networks import Network, load

SECONDS = 20
"""After which a case is interrupted; far above what a test allows, so that the test says what was too long."""
ADDRESSES = 8 * 2**30
"""Bytes that the program may address: far more than it may use."""
INPUT = 'layers = [{op = "input", size = [3, 8, 8]}, '


def toml(text: str) -> Callable[[Path], Any]:
    return lambda folder: Network.parse(text)


def chain(count: int, last: str, inner: str = "repeat = 1000") -> str:
    """Return blocks of which each uses the next one."""
    blocks = [f'[blocks.b{i}]\nlayers = [{{op = "b{i + 1}", {inner}}}]\n' for i in range(count - 1)]
    return f'{INPUT}{{op = "b0", {inner}}}]\n{"".join(blocks)}[blocks.b{count - 1}]\nlayers = [{last}]\n'


def summary(text: str) -> Callable[[Path], Any]:
    return lambda folder: Network.parse(text).summary().rows[-1].receptive_field


def opened(make: Callable[[Path], object], reader: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """Read what `make` puts in the place of a file."""

    def case(folder: Path) -> Any:
        path = folder / name
        make(path)
        return reader(path)

    return case


def bound(path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    # A socket's name is short, and the folder's may be long.
    here = os.getcwd()
    os.chdir(path.parent)
    listening.bind(path.name)
    os.chdir(here)
    listening.close()


def vast(path: Path) -> None:
    """Make a file of 4 TiB that takes no room."""
    with path.open("wb") as file:
        file.truncate(2**42)


def header(path: Path) -> None:
    """Make a .npy file whose header promises more than it holds."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000, 1, 1), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"xx")


def long_npy(path: Path) -> None:
    """Make a .npy file that holds as much as its header promises: 4 TiB of nothing."""
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576, 1, 1), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    os.truncate(path, 128 + 2**42)


def picture(path: Path) -> Any:
    from stridekit.compare.images import load_image

    return load_image(path)


def weights(path: Path) -> Any:
    from stridekit.cli.typed import load_weights

    return load_weights(path)


def command(*arguments: str) -> Callable[[Path], Any]:
    """Run a command; return what it prints if it succeeds, raise what it says if not."""

    def case(folder: Path) -> Any:
        from stridekit.cli import run

        os.chdir(folder)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(arguments)
        if status:
            raise SystemExit(err.getvalue().strip())
        return out.getvalue()

    return case


def linear(folder: Path) -> Any:
    network = Network.parse(LINEAR)
    assert network.summary().parameters == 10**18 + 10**9
    return network.parameters


LINEAR = 'layers = [{op = "input", size = [1000000000]}, {op = "linear", out_features = 1000000000}]'
DOUBLED = 'x = ["$x", "$x"]'

FILES: dict[str, Callable[[Path], Any]] = {
    "toml nested 5000 deep": toml("layers = " + "[" * 5000 + "]" * 5000),
    "toml tables nested 5000 deep": toml("layers = " + "{a = " * 5000 + "1" + "}" * 5000),
    "toml brackets in strings": toml('source = "' + "[" * 50 + "a." * 50 + "9" * 50 + f'"\n{INPUT}{{op = "relu"}}]'),
    "toml integer of 5000 digits": toml(f'{INPUT}{{op = "conv", out_channels = {"9" * 5000}, kernel_size = 3}}]'),
    "toml hexadecimal of 100000 digits": toml(f'{INPUT}{{op = "relu", x = 0x{"f" * 100_000}}}]'),
    "toml exponent of 5000 digits": toml(f'{INPUT}{{op = "leaky_relu", slope = 1e{"9" * 5000}}}]'),
    "toml key of 20000 parts": toml(".".join("a" * 20_000) + " = 1"),
    "toml header of 20000 quoted parts": toml("[" + " . ".join(['"a"'] * 20_000) + "]"),
    "toml string without an end": toml('name = "' + '\\"' * 50_000),
    "toml blocks that make 10**30 layers": toml(chain(10, '{op = "relu"}')),
    "toml block of 10**4 layers": toml(chain(1, '{op = "relu"}', "repeat = 10000")),
    "toml values that double": toml(
        chain(14, '{op = "conv", out_channels = 1, kernel_size = "$x"}', DOUBLED).replace(DOUBLED, "x = 3", 1)
    ),
    "toml names that grow": toml(chain(1, '{op = "relu"}', f'repeat = 100, name = "{"n" * 3000}"')),
    "toml sizes that grow": toml(chain(1, '{op = "upsample", factor = 1099511627776}', "repeat = 100")),
    "toml fields that grow": summary(
        chain(1, '{op = "conv", out_channels = 3, kernel_size = 1, stride = 1099511627776}', "repeat = 100")
    ),
    "toml linear of 10**18 weights": linear,
    "toml pipe": opened(os.mkfifo, load, "pipe.toml"),
    "toml socket": opened(bound, load, "socket.toml"),
    "toml folder": opened(os.mkdir, load, "folder.toml"),
    "toml of 4 TiB": opened(vast, load, "vast.toml"),
    "toml empty": opened(Path.touch, load, "empty.toml"),
    "toml device": lambda folder: Network.from_toml("/dev/zero"),
    "picture pipe": opened(os.mkfifo, picture, "pipe.png"),
    "picture socket": opened(bound, picture, "socket.png"),
    "picture folder": opened(os.mkdir, picture, "folder.png"),
    "picture of 4 TiB": opened(vast, picture, "vast.png"),
    "picture empty": opened(Path.touch, picture, "empty.png"),
    "picture device": lambda folder: picture(Path("/dev/zero")),
    "weights pipe": opened(os.mkfifo, weights, "pipe.npy"),
    "weights device": lambda folder: weights(Path("/dev/zero")),
    "weights folder": opened(os.mkdir, weights, "folder.npy"),
    "weights whose header promises 10**18": opened(header, weights, "header.npy"),
    "weights of 4 TiB": opened(long_npy, weights, "long.npy"),
    "weights empty": opened(Path.touch, weights, "empty.npy"),
}

COMMANDS: dict[str, Callable[[Path], Any]] = {
    "shape 10**9 kernel 10**9": command("shape", "1000000000", "--kernel", "1000000000"),
    "shape with everything vast": command(
        "shape", "999999999999999999", "--kernel", "99999999999", "--stride", "7777", "--dilation", "1234567"
    ),
    "compare 10**8 filters": command("compare", "--backend", "reference", "--filters", "100000000"),
    "compare 10**6 filters": command("compare", "--backend", "reference", "--filters", "1000000"),
    "compare kernel 10**5": command("compare", "--backend", "reference", "--kernel", "100000"),
    "compare kernel 10**18": command("compare", "--backend", "reference", "--kernel", "999999999999999999"),
    "compare 10**9 repeats": command("compare", "--backend", "reference", "--repeats", "1000000000"),
    "compare 2000 strides": command(
        "compare", "--backend", "reference", "--strides", ",".join(map(str, range(1, 2001)))
    ),
    "network batch 10**12": command("network", "resnet18", "--backend", "reference", "--batch", "1000000000000"),
    "network batch 10**18": command("network", "resnet18", "--backend", "reference", "--batch", "999999999999999999"),
    "network of 10**18 pixels": command(
        "network", "textcnn", "--backend", "reference", "--input", "999999999999999999"
    ),
    "network of 10**9 x 10**9": command("network", "resnet18", "--input", "1000000000x1000000000"),
    "network measured": command("network", "resnet18", "--backend", "reference", "--measure", "--batch", "100000000"),
    "network fits": command("network", "textcnn", "--backend", "reference", "--fit", "99999999GiB"),
    "linear measured": opened(
        lambda path: path.write_text(LINEAR),
        lambda path: command("network", str(path), "--backend", "reference", "--measure")(path.parent),
        "linear.toml",
    ),
}


def models() -> dict[str, Callable[[Path], Any]]:
    """Return the cases that need onnx."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node, ints = helper.make_node, np.int64
    relu = node("Relu", ["x"], ["y"])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]

    def model(nodes: list[Any], weights: dict[str, Any] | None = None, functions: Any = ()) -> Any:
        values = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
        graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", 1, None)], values)
        graph.output[0].type.tensor_type.shape.SetInParent()
        return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)

    def read(*arguments: Any) -> Callable[[Path], Any]:
        made = model(*arguments).SerializeToString()
        assert len(made) < 100_000
        return lambda folder: Network.from_onnx(made)

    def calls(number: int, times: int) -> Any:
        names = ["a", *(f"t{i}" for i in range(times - 1)), "b"]
        body = [node(f"F{number + 1}", [one], [two], domain="f") for one, two in itertools.pairwise(names)]
        return helper.make_function("f", f"F{number}", ["a"], ["b"], body, opsets)

    def ending(number: int, *nodes: Any) -> Any:
        body = [*nodes, node("Relu", ["a"], ["b"])]
        return helper.make_function("f", f"F{number}", ["a"], ["b"], body, opsets)

    def outside(make: Callable[[Path], object], length: int | None = None) -> Callable[[Path], Any]:
        def case(folder: Path) -> Any:
            made = model([node("Conv", ["x", "w"], ["y"])], {"w": np.ones((4, 3, 3, 3), np.float32)})
            path = folder / "outside.onnx"
            onnx.save(made, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
            if length is not None:
                changed = onnx.load(str(path), load_external_data=False)
                for entry in changed.graph.initializer[0].external_data:
                    entry.value = str(length) if entry.key == "length" else entry.value
                path.write_bytes(changed.SerializeToString())
            (folder / "w.bin").unlink()
            make(folder / "w.bin")
            return load(path)

        return case

    start, big = {"c": np.ones(64, np.float32)}, np.zeros(2**12, np.float32)
    doubled = [node("Concat", ["c" if i == 0 else f"k{i - 1}"] * 2, [f"k{i}"], axis=0) for i in range(40)]
    held = helper.make_tensor("v", TensorProto.FLOAT, big.shape, big.tobytes(), raw=True)
    call, filled = node("F0", ["x"], ["y"], domain="f"), node("ConstantOfShape", ["s"], ["z"])
    squares = [node("Mul", [f"k{i}"] * 2, [f"k{i + 1}"]) for i in range(60)]
    exps = [node("Exp", [f"k{i}"], [f"k{i + 1}"]) for i in range(1500)]
    return {
        "onnx Concat(c, c) forty times": read([*doubled, relu], start),
        "onnx Concat of 2000 of 2000": read(
            [node("Concat", [one] * 2000, [two], axis=0) for one, two in (("c", "k0"), ("k0", "k1"))] + [relu], start
        ),
        "onnx Gather repeats": read(
            [node("Gather", ["c", "i"], ["k"], axis=0), relu],
            {"c": np.ones((1, 8000), np.float32), "i": np.zeros(8000, ints)},
        ),
        "onnx outer sum": read(
            [filled, node("Unsqueeze", ["z", "a"], ["u"]), node("Add", ["z", "u"], ["k"]), relu],
            {"s": np.array([10**5], ints), "a": np.array([1], ints)},
        ),
        "onnx Expand": read([node("Expand", ["c", "s"], ["z"]), relu], {**start, "s": np.array([2**40, 64], ints)}),
        "onnx a hundred fillings": read(
            [node("ConstantOfShape", ["s"], [f"z{i}"]) for i in range(100)] + [relu], {"s": np.array([2**20], ints)}
        ),
        "onnx filling of 2**60": read([filled, relu], {"s": np.array([2**60], ints)}),
        "onnx product over nothing": read(
            [filled, node("ReduceProd", ["z"], ["k"], axes=[1]), relu], {"s": np.array([2**40, 0], ints)}
        ),
        "onnx smallest of 3000": read(
            [filled, node("Min", ["z"] * 3000, ["k"]), relu], {"s": np.array([2**18], ints)}
        ),
        "onnx bias of a matrix without numbers": read(
            [node("Flatten", ["x"], ["f"]), filled, node("Gemm", ["f", "z", "o"], ["y"], transB=1)],
            {"s": np.array([2**40, 0], ints), "o": np.ones(1, np.float32)},
        ),
        "onnx 26 functions that call the next twice": read([call], {}, [*(calls(i, 2) for i in range(25)), ending(25)]),
        "onnx functions that call the next ten times": read([call], {}, [*(calls(i, 10) for i in range(8)), ending(8)]),
        "onnx functions that call each other": read([call], {}, [calls(0, 2), helper.make_function(
            "f", "F1", ["a"], ["b"], [node("F0", ["a"], ["b"], domain="f")], opsets)]),
        "onnx functions that hold a tensor": read(
            [call], {}, [calls(0, 50), calls(1, 90), ending(2, node("Constant", [], ["q"], value=held))]
        ),
        "onnx product with itself 60 times": read([node("Exp", ["x"], ["k0"]), *squares, node("Relu", ["k60"], ["y"])]),
        "onnx 1500 steps of a function": read([node("Exp", ["x"], ["k0"]), *exps, node("Relu", ["k1500"], ["y"])]),
        "onnx reads what comes later": read([node("Relu", ["z"], ["y"]), node("Relu", ["y"], ["z"])]),
        "onnx pipe": opened(os.mkfifo, load, "pipe.onnx"),
        "onnx socket": opened(bound, load, "socket.onnx"),
        "onnx folder": opened(os.mkdir, load, "folder.onnx"),
        "onnx of 4 TiB": opened(vast, load, "vast.onnx"),
        "onnx empty": opened(Path.touch, load, "empty.onnx"),
        "onnx device": lambda folder: Network.from_onnx("/dev/zero"),
        "onnx weights in a pipe": outside(os.mkfifo),
        "onnx weights in 4 TiB": outside(vast, 2**41),
        "onnx weights beyond the file": outside(Path.touch),
    }  # fmt: skip


def main(folder: Path, with_models: bool) -> None:
    """Run every case."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))

    def interrupt(*_: object) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    signal.signal(signal.SIGALRM, interrupt)
    # What is imported on first use is no case's own time.
    sk.plan_conv((1, 1, 9), (1, 1, 3), backend="reference")
    command("network", "textcnn", "--backend", "reference")(folder)
    cases = {**FILES, **COMMANDS, **(models() if with_models else {})}
    for number, (name, case) in enumerate(cases.items()):
        own = folder / str(number)
        own.mkdir()
        start = time.process_time()
        signal.alarm(SECONDS)
        try:
            found = case(own)
            outcome = "answers: " + (found if isinstance(found, str) else repr(found))
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        signal.alarm(0)
        print(json.dumps({"name": name, "seconds": time.process_time() - start, "outcome": outcome}), flush=True)
    # Not ru_maxrss: that is at least what the process that started this one had.
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(json.dumps({"name": "memory", "kib": int(peak[1])}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "onnx")
