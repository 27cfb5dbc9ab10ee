"""The job of the kernel that turns weights, as it lies in memory: a `Turning`, and a `TurnedTap` for each tap."""

from __future__ import annotations

from typing import NamedTuple


class Turning(NamedTuple):
    """A job of turning weights.

    Attributes
    ----------
    groups, filters, channels, taps : lanes of one group, what is summed over, taps of the kernel
    vectors, tile_vectors, lanes, itemsize : as in a `Blocking`
    counter : address of the shared task counter
    weight, end : address of the first element, and one past the last
    g, k, c : bytes from group to group, from filter to filter, from channel to channel
    """

    groups: int
    filters: int
    channels: int
    taps: int
    vectors: int
    tile_vectors: int
    lanes: int
    itemsize: int
    counter: int
    weight: int
    end: int
    g: int
    k: int
    c: int


class TurnedTap(NamedTuple):
    """Where the weights of one tap go.

    Attributes
    ----------
    packed, unbounded : addresses of its phase's, as in a `Packing`; `packed` is 0 for a tap of no phase
    positions, number : taps of the phase, and which of them this is
    channel_block : as in the phase's `Blocking`
    """

    packed: int
    unbounded: int
    positions: int
    number: int
    channel_block: int
