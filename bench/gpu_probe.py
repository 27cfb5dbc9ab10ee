"""The primitives of ``kernels/device.cuh`` on the card and on the emulator, bit for bit: ``python -m bench.gpu_probe``.

All that the emulator's twins only claim about a GPU is asked of one here: conversions, ldmatrix, mma, cp.async.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from bench.records import text_table, write_json
from stridekit.backends import load_backend, unavailable
from stridekit.backends.cuda import compiling
from stridekit.backends.cuda.sources import Kernel, source_of
from tests.emulator.building import build, why_not
from tests.emulator.machine import Module
from tests.emulator.primitives import BLOCK, SHARED_BYTES, SOURCE, Primitive, compare, primitives
from tests.emulator.probing import KERNELS


def emulated() -> dict[str, np.ndarray]:
    """Return what the emulator makes of each primitive.

    Raises
    ------
    RuntimeError
        Where kernels cannot be compiled for this machine's processor.
    """
    if reason := why_not():
        raise RuntimeError(reason)
    module = Module(build(SOURCE, [KERNELS], {}, "fast"))
    return {primitive.entry: primitive.emulated(module) for primitive in primitives()}


def compile_primitives(architecture: str) -> bytes:
    """Compile ``primitives.cu`` as every kernel is compiled; only that it lies elsewhere."""
    text = re.sub(r'(?m)^#include "device\.cuh"$', lambda _: source_of("device.cuh"), SOURCE.read_text())
    kernel = Kernel(SOURCE.name, "primitives", (), BLOCK[0])
    with mock.patch.object(compiling, "source_of", return_value=text):
        return compiling.compile_kernel(kernel, architecture).cubin


def on_device(primitive: Primitive, module: Any) -> np.ndarray:
    """Return what the card makes of a primitive; `module` is a `cupy.RawModule`."""
    import cupy

    given = {name: np.ascontiguousarray(getattr(primitive, name)) for name in "abc"}
    arrays = {name: cupy.empty(array.nbytes, np.uint8) for name, array in given.items()}
    for name, array in given.items():
        arrays[name].set(array.reshape(-1).view(np.uint8))
    nbytes = int(np.prod(primitive.shape)) * primitive.dtype.itemsize
    arrays["result"] = cupy.empty(nbytes, np.uint8)
    argument = primitive.parameters({name: array.data.ptr for name, array in arrays.items()})
    module.get_function(primitive.entry)(primitive.grid, BLOCK, (argument,), shared_mem=SHARED_BYTES)
    result: np.ndarray = arrays["result"].get().view(primitive.dtype).reshape(primitive.shape)
    return result


def compared() -> dict[str, str]:
    """Return, for each primitive, ``""`` or how the card differs from the emulator."""
    import cupy

    expected = emulated()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "primitives.cubin"
        path.write_bytes(compile_primitives(load_backend("cuda").device().architecture))
        module = cupy.RawModule(path=str(path))
        return {primitive.entry: _difference(primitive, module, expected) for primitive in primitives()}


def _difference(primitive: Primitive, module: Any, expected: dict[str, np.ndarray]) -> str:
    try:
        compare(on_device(primitive, module), expected[primitive.entry])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Compare all; return 1 if one differs, 2 where it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_probe", description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    reason = unavailable("cuda") or why_not()
    if reason:
        print(f"cannot compare: {reason}", file=sys.stderr)
        return 2
    found = compared()
    wrong = sum(map(bool, found.values()))
    rows = [(entry, difference or "the same bits") for entry, difference in found.items()]
    print(text_table(("primitive", "GPU beside emulator"), rows, left=2))
    note = f"{len(found) - wrong} of {len(found)} primitives give the same bits"
    print(note)
    if options.json:
        write_json(options.json, {"note": note, "differences": found})
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
