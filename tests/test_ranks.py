"""Functions of 1-D, 2-D and 3-D that are made of one of any rank read as if each had been written out."""

from __future__ import annotations

import inspect
import pickle
import typing

import numpy as np
import pytest

import stridekit as sk
from stridekit.memory.arrays import LAYOUTS

FAMILIES = ("conv", "conv_transpose", "max_pool", "avg_pool", "blur_pool")
RANKED = [(f"{family}{rank}d", rank) for family in FAMILIES for rank in (1, 2, 3)]


@pytest.mark.parametrize(("name", "rank"), RANKED)
def test_a_function_has_the_name_layout_and_help_of_its_rank(name: str, rank: int) -> None:
    function = getattr(sk, name)
    signature = inspect.signature(function)
    assert function.__name__ == function.__qualname__ == name
    assert next(iter(signature.parameters)) == "x"
    assert signature.parameters["layout"].default == LAYOUTS[rank][0]
    assert set(typing.get_type_hints(function)) == {*signature.parameters, "return"}
    assert pickle.loads(pickle.dumps(function)) is function
    output = {1: "Q", 2: "P, Q", 3: "O, P, Q"}[rank]
    assert f", {output}) or (N, {output}, " in function.__doc__
    assert not any(word in function.__doc__ for word in ("*spatial", "*output", "*kernel", "{things}"))


def test_a_call_that_python_refuses_is_refused_in_the_words_of_its_rank() -> None:
    x = np.ones((1, 2, 3, 3))
    with pytest.raises(TypeError, match=r"conv2d\(\): missing a required argument: 'weight'"):
        sk.conv2d(x)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"conv2d\(\): got an unexpected keyword argument 'strides'"):
        sk.conv2d(x, x, strides=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"max_pool2d\(\): too many positional arguments"):
        sk.max_pool2d(x, 2, 2)  # type: ignore[call-arg]


def test_a_function_takes_its_operands_by_name_and_no_other_rank() -> None:
    x = np.ones((1, 2, 3, 3))
    assert sk.conv2d(weight=x, x=x).shape == (1, 1, 1, 1)
    with pytest.raises(sk.LayoutError, match="wanted 'NCHW' or 'NHWC'"):
        sk.conv2d(x, x, layout="NCDHW")
    with pytest.raises(sk.ShapeError, match="avg_pool3d wants 5"):
        sk.avg_pool3d(x, 2)
