"""Padding: its forms as an argument, the pixels they come to, and what a padded pixel holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from stridekit.arguments import as_int, counted, is_int, items_of, one_of, shown
from stridekit.errors import ShapeError

Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]
PaddingPairs: TypeAlias = tuple[tuple[int, int], ...]

PADDING_NAMES = ("valid", "same", "same_lower", "causal")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

_PADDING_FORMS = "wanted an int, one int or one (before, after) pair per axis, or one of " + ", ".join(PADDING_NAMES)


def resolve_padding(
    padding: Padding,
    sizes: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> PaddingPairs:
    """Turn any form of `padding` into one (before, after) pair of pixels per axis."""
    rank = len(sizes)
    if isinstance(padding, str):
        return _named_padding(padding, sizes, kernels, strides, dilations)
    if is_int(padding):
        amount = as_int("padding", padding)
        pairs: PaddingPairs = ((amount, amount),) * rank
    else:
        items = items_of(padding)
        if items is None:
            raise ShapeError(f"padding is {shown(padding)}; {_PADDING_FORMS}")
        if len(items) != rank:
            raise ShapeError(f"padding has {counted(items)} for {rank} spatial axes; {_PADDING_FORMS}")
        pairs = tuple(_pair(item) for item in items)
    if any(amount < 0 for pair in pairs for amount in pair):
        raise ShapeError(f"padding is {shown(padding)}; no value may be negative (slice the input instead)")
    return pairs


def _named_padding(
    name: str, sizes: Sequence[int], kernels: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> PaddingPairs:
    if name not in PADDING_NAMES:
        raise ShapeError(f"padding is {shown(name)}; {_PADDING_FORMS}")
    if name == "causal" and len(sizes) != 1:
        raise ShapeError(f"padding 'causal' is for one spatial axis, not {len(sizes)}; give (before, after) pairs")
    pairs = []
    for size, kernel, stride, dilation in zip(sizes, kernels, strides, dilations, strict=True):
        extent = dilation * (kernel - 1) + 1
        # TensorFlow's rule, which ONNX names SAME_UPPER: as little as gives ceil(W / s) windows.
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        if name == "same":
            pairs.append((total // 2, total - total // 2))
        elif name == "same_lower":
            pairs.append((total - total // 2, total // 2))
        elif name == "causal":
            pairs.append((extent - 1, 0))
        else:
            pairs.append((0, 0))
    return tuple(pairs)


def check_padding_mode(mode: str, pairs: PaddingPairs, sizes: Sequence[int]) -> None:
    """Raise `ShapeError` unless `mode` is known and the input is large enough to be padded so."""
    one_of("padding_mode", mode, PADDING_MODES)
    for number, (size, pair) in enumerate(zip(sizes, pairs, strict=True)):
        most = {"reflect": size - 1, "circular": size}.get(mode)
        if most is not None and max(pair) > most:
            raise ShapeError(
                f"padding {pair} on spatial axis {number} is more than {mode!r} can take from {size} pixels "
                f"(at most {most}); padding_mode 'replicate' or 'zeros' takes any amount"
            )


def source_index(index: int, size: int, mode: int) -> int:
    """Input coordinate that the padded coordinate `index` holds, or -1 where it holds a zero.

    Parameters
    ----------
    index : int
        Coordinate counted from the first input pixel; negative or past the end in the padding.
    size : int
        Input pixels on this axis.
    mode : int
        Position of the padding mode in `PADDING_MODES`: a number, because compiled backends run this very
        function.
    """
    if 0 <= index < size:
        return index
    if mode == 0:
        return -1
    if mode == 1:
        return -index if index < 0 else 2 * (size - 1) - index
    if mode == 2:
        return 0 if index < 0 else size - 1
    return index + size if index < 0 else index - size


def margin_lines(size: int, before: int, after: int, mode: int) -> Iterator[tuple[int, int]]:
    """Yield every line of an axis's padding and the line it copies, both counted from the first padded line.

    Parameters
    ----------
    mode : int
        Position in `PADDING_MODES`, not that of zeros.
    """
    for position in (*range(-before, 0), *range(size, size + after)):
        yield position + before, source_index(position, size, mode) + before


def _pair(item: Any) -> tuple[int, int]:
    if is_int(item):
        amount = as_int("padding", item)
        return amount, amount
    pair = items_of(item)
    if pair is None or len(pair) != 2:
        raise ShapeError(f"padding holds {shown(item)}; {_PADDING_FORMS}")
    return as_int("padding", pair[0]), as_int("padding", pair[1])
