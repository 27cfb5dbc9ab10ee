"""Every public function, every argument, every kind of wrong value: refused by an error of ours that names it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

import stridekit as sk
from tests.kit.hostile import CALLS, Call, mistakes, public


def test_every_public_function_is_tried() -> None:
    assert public() - {"get_num_threads"} == set(CALLS)


def missing(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"what is named first is that {package} is missing")


# PyTorch takes seconds to import.
MARKS = {"Network.from_torch": (pytest.mark.oracle, missing("torch")), "Network.from_onnx": (missing("onnx"),)}
NAMES = [pytest.param(name, marks=MARKS.get(name, ())) for name in CALLS]


@pytest.mark.parametrize("name", NAMES)
def test_what_an_argument_does_not_take_is_refused_by_its_name(name: str) -> None:
    wrong = mistakes(name, CALLS[name])
    assert not wrong, "\n".join(wrong)


@pytest.mark.oracle
def test_what_a_function_of_tensors_does_not_take_is_refused_by_its_name() -> None:
    torch = pytest.importorskip("torch")
    import stridekit.torch as skt

    # Without memory: arguments are read before any kernel is compiled.
    ones = partial(torch.ones, device="meta")
    calls = {name: Call(getattr(skt, name), {}, {"model": "array"}) for name in ("convert", "revert", "converted")}
    for rank in (1, 2, 3):
        operands = {"input": ones((1, 2, *(5,) * rank)), "weight": ones((2, 2, *(2,) * rank))}
        for name in (f"conv{rank}d", f"conv_transpose{rank}d"):
            padding = "sizes from 0" if "transpose" in name else "padding"
            # A sequence of one is PyTorch's way to write one for all axes, and PyTorch allocates the results.
            steps = ("stride", "padding", "dilation", "output_padding")
            without: dict[str, set[str]] = {step: {"2**40", "huge pair"} for step in steps} | {"groups": {"2**40"}}
            calls[name] = Call(getattr(skt, name), operands, {"padding": padding}, without=without)
    assert set(calls) == {name for name in skt.__all__ if name[0].islower()}
    wrong = [line for name, call in calls.items() for line in mistakes(name, call)]
    assert not wrong, "\n".join(wrong)


SIZES = ("sizes", "optional sizes", "sizes from 0", "padding", "optional padding")
COUNTS = ("count", "count from 0", "optional count", "limit", "optional limit")


def forms(kind: str, rank: int) -> dict[str, object]:
    """Return every way to write 1 that an argument of a kind takes."""
    one = {"numpy int": np.int64(1), "small numpy int": np.uint8(1), "0-d array": np.array(1)}
    if kind in COUNTS:
        return one
    several = {
        "list": [1] * rank, "tuple": (1,) * rank, "array": np.ones(rank, int), "of numpy ints": (np.int32(1),) * rank,
        "of 0-d arrays": [np.array(1)] * rank, "objects": np.ones(rank, int).astype(object),
    }  # fmt: skip
    pairs = {"pairs": [[1, 1]] * rank, "array of pairs": np.ones((rank, 2), int)} if "padding" in kind else {}
    return {**one, **several, **pairs}


def told(call: Call, parameter: str, value: object) -> tuple[object, ...]:
    """Return what a call gives, as something to compare."""
    arguments = {name: each for name, each in call.arguments.items() if name != "out"}
    try:
        result = call.function(**{**arguments, parameter: value})
    except sk.StridekitError as error:
        return (type(error),)
    return (result.shape, result.tobytes()) if isinstance(result, np.ndarray) else (repr(result),)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "compare_strides"])
def test_every_way_to_write_an_integer_means_the_same(name: str) -> None:
    call = CALLS[name]
    for parameter in call.parameters:
        kind = call.kind(parameter)
        if kind in SIZES + COUNTS:
            wanted = told(call, parameter, 1)
            for label, value in forms(kind, call.rank if kind in SIZES else 0).items():
                assert told(call, parameter, value) == wanted, f"{name}({parameter}=<{label}>)"
