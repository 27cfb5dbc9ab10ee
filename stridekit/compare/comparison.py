"""The result of comparing strides: one row per stride, what was compared where, and what to make of it.

Plain records. `stridekit.compare` measures them; `compare.pictures` and `stridekit.report` show them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stridekit.arguments import as_path
from stridekit.problems.geometry import ConvGeometry

ALTERNATIVES = ("conv", "max_pool", "avg_pool", "blur_pool")
"""Ways to shrink a response: the layer's own stride, and three poolings after it."""


@dataclass(frozen=True)
class StrideRow:
    """What one stride gives, costs and loses. Pairs are (rows, columns).

    Attributes
    ----------
    stride : tuple of int
        Pixels between windows.
    output_size : tuple of int
        Positions of the response.
    positions_kept : float
        Share of the positions of stride 1.
    padding : tuple of (before, after)
        Pixels; ``"same"`` means others at each stride.
    dropped : tuple of int
        Input pixels at the end of the axis that no window reaches.
    unread : tuple of int
        Input pixels that no window reads: the dropped ones, and those in the gaps of a stride larger than the kernel.
    overlap : tuple of int
        Pixels that neighbouring windows share; negative for a gap.
    phase : tuple of float
        Input coordinate of the centre of the first window.
    flops : int
        Floating-point operations, 2 for each multiply-add.
    time_s : float
        Median seconds of one execution.
    time_quartiles_s : tuple of float
        First and third quartile, in seconds.
    speedup : float
        Stride 1's median time over this one's.
    bytes : int
        Bytes that any algorithm must move: operands read once, output written once.
    predicted_peak_bytes, peak_bytes : int
        Most memory at once, operands included: said beforehand by `stridekit.vram.estimate`, and measured.
    aliased_energy : float
        Share of the energy of stride 1's response that this stride folds back; see `stridekit.compare.aliasing`.
    aliased_energy_by_filter : tuple of float
        The same for each filter alone.
    receptive_field_growth : tuple of int
        Input pixels that a 3 x 3 layer of stride 1 spans if it comes next: ``kernel extent + 2 * stride``.
    receptive_field_after_stride_1 : tuple of int
        The same if this layer had stride 1.
    algorithm : str
        What the backend computed it with.
    typical_use : str
        Where this stride is at home, in words.
    """

    stride: tuple[int, ...]
    output_size: tuple[int, ...]
    positions_kept: float
    padding: tuple[tuple[int, int], ...]
    dropped: tuple[int, ...]
    unread: tuple[int, ...]
    overlap: tuple[int, ...]
    phase: tuple[float, ...]
    flops: int
    time_s: float
    time_quartiles_s: tuple[float, float]
    speedup: float
    bytes: int
    predicted_peak_bytes: int
    peak_bytes: int
    aliased_energy: float
    aliased_energy_by_filter: tuple[float, ...]
    receptive_field_growth: tuple[int, ...]
    receptive_field_after_stride_1: tuple[int, ...]
    algorithm: str
    typical_use: str

    @property
    def area(self) -> int:
        """Input positions for each output position."""
        return self.stride[0] * self.stride[1]

    @property
    def leaves_gaps(self) -> bool:
        """Whether pixels between neighbouring windows are never read."""
        return any(shared < 0 and pixels for shared, pixels in zip(self.overlap, self.unread, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain dicts, lists and numbers."""
        row: dict[str, Any] = _plain(self)
        return row


@dataclass(frozen=True)
class Cost:
    """What one execution takes.

    Attributes
    ----------
    flops : int
        2 for each multiply-add, 1 for each pixel that a maximum or an average reads.
    time_s, time_quartiles_s : float, tuple of float
        Median seconds, and first and third quartile.
    peak_bytes, predicted_peak_bytes : int
        Most memory at once, measured and said beforehand: operands, everything that stays until the end, workspace.
    """

    flops: int
    time_s: float
    time_quartiles_s: tuple[float, float]
    peak_bytes: int
    predicted_peak_bytes: int


@dataclass(frozen=True)
class AlternativeRow:
    """One way to shrink a response by a stride.

    Attributes
    ----------
    stride : tuple of int
        By how much.
    alternative : str
        ``"conv"``: the layer at that stride. ``"max_pool"``, ``"avg_pool"``, ``"blur_pool"``: the layer at stride 1,
        then that pooling at the stride.
    window : tuple of int
        Pixels of the pooling's window: the stride, for the blur `blur_window`; (1, 1) for the layer alone.
    output_size : tuple of int
        The same for all: each takes what lies on every stride-th position.
    aliased_energy : float
        Share that the stride folds back of the energy of what it samples: the response at stride 1, pooled at stride 1.
    energy_kept : float
        Energy of what it samples, over that of the response. Pooled, both loss and gain of it are possible.
    forward : Cost
        Of the output, with packed weights.
    training : Cost or None
        Of a training step, with weights as given: output, pooling's gradient, gradients of input and weight.
    """

    stride: tuple[int, ...]
    alternative: str
    window: tuple[int, ...]
    output_size: tuple[int, ...]
    aliased_energy: float
    energy_kept: float
    forward: Cost
    training: Cost | None


@dataclass(frozen=True)
class FeatureMap:
    """The response of a few filters at one stride, for drawing; shape (filters, P, Q), and its geometry."""

    values: np.ndarray
    geometry: ConvGeometry


@dataclass(frozen=True)
class Pictures:
    """What the report draws: the input, and the same few filters' responses at every stride.

    Attributes
    ----------
    image : array, shape (C, H, W)
    filters : tuple of int
        Which filters are shown, from the one that aliases least to the one that aliases most.
    maps : mapping of stride to FeatureMap
        Stride 1 is always among them.
    """

    image: np.ndarray
    filters: tuple[int, ...]
    maps: Mapping[tuple[int, ...], FeatureMap]


@dataclass(frozen=True)
class StrideComparison:
    """One layer at several strides, measured on one picture.

    Attributes
    ----------
    layer : dict
        Kernel size, filters, channels, padding, dtype and the input's shape.
    device : str
        Backend and device that computed it.
    backend, why : str
        The backend's name, and the reason for it in words.
    rows : tuple of StrideRow
        In the order asked for.
    baseline : StrideRow
        Stride 1, measured whether or not it was asked for: speed and memory are compared with it.
    recommended_stride : tuple of int
        The largest stride whose aliased energy is within `max_aliased_energy` and whose windows leave no gap.
    recommendation : str
        The same in words, with what it saves and what the next stride would lose.
    warnings : tuple of str
        What to beware of.
    max_aliased_energy : float
        The limit of the recommendation.
    alternatives : tuple of AlternativeRow
        Ways to shrink by each stride beyond 1, by stride; empty if not asked for.
    repeats, alternatives_repeats : int
        Timed executions of each stride and of each alternative.
    filter_labels : tuple of str
        What each filter is.
    image : dict
        Name and size of the picture.
    versions : dict
        Of stridekit and the libraries that computed.
    """

    layer: dict[str, Any]
    device: str
    backend: str
    why: str
    rows: tuple[StrideRow, ...]
    baseline: StrideRow
    recommended_stride: tuple[int, ...]
    recommendation: str
    warnings: tuple[str, ...]
    max_aliased_energy: float
    alternatives: tuple[AlternativeRow, ...]
    repeats: int
    alternatives_repeats: int
    filter_labels: tuple[str, ...]
    image: dict[str, Any]
    versions: dict[str, str]
    pictures: Pictures = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the pictures as plain dicts, lists and numbers: the content of the JSON file."""
        known = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "pictures"}
        plain: dict[str, Any] = _plain(known)
        return plain

    def to_json(self) -> str:
        """Return `as_dict` as JSON text, which every reader of JSON takes (no NaN), with a newline at the end."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, directory: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write ``comparison.json``, pictures of the responses at each stride, and a plot of cost and loss.

        What an earlier comparison wrote there is replaced or removed; whose it is, its JSON says. Other files are left
        alone. Everything is made before the first file appears.

        Parameters
        ----------
        directory : str or path
            Made if it is not there.

        Returns
        -------
        tuple of Path
            The files, the JSON first.

        Raises
        ------
        FileExistsError
            If a file of such a name is there that no comparison wrote.
        OSError
            If it cannot be written.
        MissingExtraError
            If matplotlib is not installed: ``pip install '.[cli]'`` in the clone.
        """
        from stridekit.compare.saving import write_report

        return write_report(self, as_path("directory", directory))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
