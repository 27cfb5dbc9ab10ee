"""The largest batch that fits into so much memory: a search over predictions, in which nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable

_LARGEST = 1 << 24


def largest_batch(peak: Callable[[int], int], limit: int) -> int:
    """Return the most samples whose predicted `peak` is at most `limit` bytes, 0 if one sample is too much.

    Doubles until it no longer fits, then halves the interval: memory grows with the batch, save for workspaces, whose
    plans may change; what is returned has been predicted to fit, and one more sample not to.
    """
    if peak(1) > limit:
        return 0
    fits = 1
    while fits < _LARGEST and peak(2 * fits) <= limit:
        fits *= 2
    if fits >= _LARGEST:
        return fits
    fails = 2 * fits
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if peak(middle) <= limit:
            fits = middle
        else:
            fails = middle
    return fits
