"""One record holds what is known about a dtype; nothing else in the package names bfloat16."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import stridekit
from stridekit.memory.dtypes import DTYPES, Dtype

PACKAGE = Path(stridekit.__file__).parent


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_record_agrees_with_the_type(dtype: Dtype) -> None:
    one = np.ones((), dtype.numpy)
    assert (dtype.numpy.name, dtype.numpy.itemsize) == (dtype.name, dtype.nbytes)
    assert one + np.array(dtype.epsilon).astype(dtype.numpy) > one
    assert one + np.array(dtype.epsilon / 2).astype(dtype.numpy) == one
    assert dtype.accumulator.sums_itself
    assert dtype.accumulator.nbytes >= 4
    assert np.dtype(dtype.stand_in).itemsize == dtype.nbytes


def test_no_other_file_names_bfloat16() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).as_posix() == "memory/dtypes.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named = isinstance(node, ast.Constant) and node.value == "bfloat16"
            named |= isinstance(node, ast.Attribute) and node.attr == "bfloat16"
            assert not named, f"{path}:{node.lineno}"  # type: ignore[attr-defined]
