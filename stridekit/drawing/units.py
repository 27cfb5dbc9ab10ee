"""Numbers as people read them: times, bytes, shares and strides in words, the same in tables, pictures and advice."""

from __future__ import annotations

from collections.abc import Sequence


def format_stride(stride: Sequence[int]) -> str:
    """Write a stride: one number where all axes agree, else rows x columns.

    Examples
    --------
    >>> format_stride((2, 2)), format_stride((2, 1))
    ('2', '2x1')
    """
    return str(stride[0]) if len(set(stride)) == 1 else format_sizes(stride)


def format_sizes(sizes: Sequence[float]) -> str:
    """Write sizes as rows x columns.

    Examples
    --------
    >>> format_sizes((600, 512)), format_sizes((0.0, -0.5))
    ('600x512', '0x-0.5')
    """
    return "x".join(f"{size:g}" for size in sizes)


def format_time(seconds: float) -> str:
    """Write a time with three digits.

    Examples
    --------
    >>> format_time(0.01234), format_time(4.2e-5), format_time(71.4)
    ('12.3 ms', '42.0 µs', '71.4 s')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.9995:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def format_bytes(nbytes: float) -> str:
    """Write an amount of memory in binary units.

    Examples
    --------
    >>> format_bytes(900), format_bytes(41_943_040), format_bytes(3 * 2**30)
    ('900 B', '40.0 MiB', '3.00 GiB')
    """
    if nbytes < 1024:
        return f"{nbytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        nbytes /= 1024
        if nbytes < 999.5:
            return f"{_three_digits(nbytes)} {unit}"
    return f"{_three_digits(nbytes / 1024)} TiB"


def format_count(number: float) -> str:
    """Write a large number with three digits.

    Examples
    --------
    >>> format_count(950), format_count(25_557_032), format_count(4_089_184_256)
    ('950', '25.6 M', '4.09 G')
    """
    if number < 1000:
        return f"{number:g}"
    for unit in ("k", "M", "G"):
        number /= 1000
        if number < 999.5:
            return f"{_three_digits(number)} {unit}"
    return f"{_three_digits(number / 1000)} T"


def format_share(share: float) -> str:
    """Write a share as a percentage; what only rounds to nothing, or to everything, says so.

    Examples
    --------
    >>> format_share(0.1234), format_share(0.0), format_share(0.0001), format_share(0.9997)
    ('12.3 %', '0 %', '<0.1 %', '>99.9 %')
    """
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{100 * share:.1f} %" if share not in (0, 1) else f"{100 * share:.0f} %"


def _three_digits(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
