"""One axis of a strided window in words and characters: the formula with its numbers, and where the windows lie."""

from __future__ import annotations

from stridekit.problems.geometry import AxisGeometry

PIXEL, PADDED, UNREAD, TAP, HOLE = "o", "-", "x", "#", "."
LEGEND = f"{PIXEL} pixel   {PADDED} padding   {UNREAD} pixel that no window reads   {TAP} tap   {HOLE} between taps"

_ELLIPSIS = " ... "
_WIDEST = 72
_MOST_WINDOWS = 8
_FIRST_WINDOWS, _LAST_WINDOWS = 3, 2


def describe_axis(axis: AxisGeometry) -> list[str]:
    """Say what an axis comes to, in lines of text: formula, remainder, what is dropped or skipped, phase.

    Examples
    --------
    >>> from stridekit.problems.geometry import conv_geometry
    >>> print(describe_axis(conv_geometry(224, kernel_size=7, stride=2, padding=3).axes[0])[1])
    floor((224 + 3 + 3 - 1 * (7 - 1) - 1) / 2) + 1 = floor(223 / 2) + 1 = 112
    """
    span = axis.padded_size - axis.kernel_extent
    skipped = axis.unread - axis.dropped
    last = axis.phase + (axis.output_size - 1) * axis.stride
    if axis.overlap >= 0:
        neighbours = f"neighbouring windows share {_pixels(axis.overlap)}"
    else:
        neighbours = f"neighbouring windows leave a gap of {_pixels(-axis.overlap)}"
    return [
        "output = floor((size + before + after - dilation * (kernel - 1) - 1) / stride) + 1",
        f"floor(({axis.size} + {axis.pad_before} + {axis.pad_after} - {axis.dilation} * ({axis.kernel} - 1) - 1) / "
        f"{axis.stride}) + 1 = floor({span} / {axis.stride}) + 1 = {axis.output_size}",
        f"remainder: {axis.remainder} at the end, of {_pixels(axis.padded_size)} with padding, that no window reaches",
        f"dropped:   {axis.dropped} of these {'is' if axis.dropped == 1 else 'are'} of the input, not padding",
        f"skipped:   {_pixels(skipped)} within reach that no tap reads",
        f"window:    spans {_pixels(axis.kernel_extent)}; {neighbours}",
        f"phase:     the first window is centred on pixel {axis.phase:g}, the last on pixel {last:g}",
    ]


def draw_axis(axis: AxisGeometry) -> list[str]:
    """Draw the padded axis and windows under it, a character for each pixel; long axes by their start and end.

    Examples
    --------
    >>> from stridekit.problems.geometry import conv_geometry
    >>> print("\\n".join(draw_axis(conv_geometry(6, kernel_size=3, stride=2, padding=(1,)).axes[0])))
    input  -oooooo-
    out 0  ###
    out 1    ###
    out 2      ###
    """
    shown = _shown_windows(axis.output_size)
    parts = _shown_positions(axis, shown)
    width = max(len("input"), len(f"out {axis.output_size - 1}"))
    lines = [f"{'input':<{width}}  " + _joined([_axis_text(axis, part) for part in parts])]
    previous = -1
    for output in shown:
        if output > previous + 1:
            lines.append(f"{'...':<{width}}")
        window = _joined([_window_text(axis, output, part) for part in parts], " " * len(_ELLIPSIS))
        lines.append(f"{f'out {output}':<{width}}  {window}".rstrip())
        previous = output
    return lines


def _shown_windows(count: int) -> list[int]:
    if count <= _MOST_WINDOWS:
        return list(range(count))
    return [*range(_FIRST_WINDOWS), *range(count - _LAST_WINDOWS, count)]


def _shown_positions(axis: AxisGeometry, shown: list[int]) -> list[range]:
    """Padded positions to draw: all of a short axis, else what the first windows span and what the last do."""
    size = axis.padded_size
    if size <= _WIDEST and len(shown) == axis.output_size:
        return [range(size)]
    half = (_WIDEST - len(_ELLIPSIS)) // 2
    first = min(half, axis.kernel_extent + (_FIRST_WINDOWS - 1) * axis.stride)
    last = min(half, axis.kernel_extent + (_LAST_WINDOWS - 1) * axis.stride + axis.remainder)
    return [range(size)] if first + last >= size else [range(first), range(size - last, size)]


def _axis_text(axis: AxisGeometry, positions: range) -> str:
    return "".join(_axis_mark(axis, position - axis.pad_before) for position in positions)


def _axis_mark(axis: AxisGeometry, pixel: int) -> str:
    if not 0 <= pixel < axis.size:
        return PADDED
    return PIXEL if axis.reading(pixel) else UNREAD


def _window_text(axis: AxisGeometry, output: int, positions: range) -> str:
    window = axis.input_window(output)
    marks = []
    for position in positions:
        pixel = position - axis.pad_before
        marks.append(TAP if pixel in window else HOLE if window[0] < pixel < window[-1] else " ")
    return "".join(marks)


def _joined(parts: list[str], between: str = _ELLIPSIS) -> str:
    return between.join(parts)


def _pixels(count: int) -> str:
    return f"{count} pixel{'' if count == 1 else 's'}"
