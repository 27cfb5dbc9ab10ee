"""From numbers to words: what a stride is used for, which one to take, and what to beware of.

The rule of the recommendation: of the strides compared, the one with the most input positions for each output
position whose aliased energy stays within the limit and whose windows leave no pixel between them unread. Stride 1
aliases nothing, so there always is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from stridekit.compare.comparison import StrideRow
from stridekit.drawing.units import format_bytes, format_share, format_stride, format_time

NOISY_SPREAD = 0.25
"""Quartile distance over median from which a time deserves a warning."""

_KNOWN_USES: dict[tuple[int, ...], str] = {
    (1, 1): "dense prediction, segmentation, denoising: keeps every position",
    (2, 2): "the standard downsampling step, 1 position in 4: ResNet's stem (7x7) and stages, YOLO, most backbones",
    (3, 3): "uncommon in backbones, 1 position in 9 in one step; odd, so 3x3 windows tile the picture without overlap",
    (4, 4): "stems that shrink early, 1 position in 16: AlexNet (11x11), ConvNeXt and Swin patches (4x4)",
    (5, 5): "uncommon for images, 1 position in 25; first layers on raw audio (wav2vec 2.0: kernel 10, stride 5)",
    (8, 8): "patch embedding with small patches, 1 position in 64: ViT with patch 8 (8x8 kernel)",
    (14, 14): "patch embedding, 1 position in 196: CLIP's ViT-L/14, DINOv2 (14x14 kernel)",
    (16, 16): "patch embedding, 1 position in 256: ViT-B/16 (16x16 kernel)",
    (32, 32): "very coarse patch embedding, 1 position in 1024: ViT-B/32 (32x32 kernel)",
    (2, 1): "halves the rows only: text lines and spectrograms, whose columns are time and must stay (CRNN)",
    (1, 2): "halves the columns only: wide frames, or spectrograms that may lose time but not frequency",
}


def typical_use(stride: tuple[int, ...], kernel_extent: tuple[int, ...]) -> str:
    """Say where a stride is at home.

    Examples
    --------
    >>> typical_use((2, 2), (7, 7))
    "the standard downsampling step, 1 position in 4: ResNet's stem (7x7) and stages, YOLO, most backbones"
    >>> typical_use((6, 6), (6, 6))
    'patch embedding: windows of 6 pixels side by side, each pixel read once, 1 position in 36'
    """
    known = _KNOWN_USES.get(stride)
    if known:
        return known
    kept = f"1 position in {stride[0] * stride[1]}"
    if stride == kernel_extent:
        sizes = str(stride[0]) if stride[0] == stride[1] else f"{stride[0]} x {stride[1]}"
        return f"patch embedding: windows of {sizes} pixels side by side, each pixel read once, {kept}"
    if stride[0] != stride[1]:
        spared = "columns" if stride[0] > stride[1] else "rows"
        return f"{spared} kept finer, {kept}: spectrograms, text lines, scans with pixels that are not square"
    if stride[0] < 8:
        return f"uncommon, {kept}: in one step what backbones do in two or three"
    return f"very coarse, {kept}: patch embedding or a thumbnail-like overview, seldom with overlapping windows"


def recommend(
    rows: Sequence[StrideRow], baseline: StrideRow, limit: float, labels: Sequence[str]
) -> tuple[StrideRow, str]:
    """Choose a stride by the rule above and say why.

    Parameters
    ----------
    rows : sequence of StrideRow
        The strides asked for.
    baseline : StrideRow
        Stride 1.
    limit : float
        Largest aliased energy, 0 to 1.
    labels : sequence of str
        What each filter is.

    Returns
    -------
    StrideRow, str
    """
    others = [row for row in rows if row.stride != baseline.stride]
    fitting = [row for row in others if row.aliased_energy <= limit and not row.leaves_gaps]
    best = max(fitting, key=lambda row: (row.area, -row.aliased_energy), default=baseline)
    larger = [row for row in others if row is not best and row not in fitting and row.area >= best.area]
    sentences = [_why_best(best, baseline, limit, labels, bool(others))]
    if larger:
        sentences.append(_why_not(min(larger, key=lambda row: (row.area, row.aliased_energy)), limit, labels))
    elif others:
        sentences.append("No larger stride was compared.")
    return best, " ".join(sentences)


def _why_best(best: StrideRow, baseline: StrideRow, limit: float, labels: Sequence[str], compared: bool) -> str:
    if best is baseline:
        cost = f"{format_time(best.time_s)} and {format_bytes(best.peak_bytes)}"
        if not compared:
            return f"Stride 1 was the only one compared: it takes {cost}."
        return (
            f"Take stride 1: no other one compared keeps the aliased energy within {format_share(limit)} and leaves no "
            f"gaps; it takes {cost}."
        )
    faster = (
        f"{best.speedup:.1f} times as fast as stride 1 ({format_time(best.time_s)} instead of "
        f"{format_time(baseline.time_s)})"
    )
    return (
        f"Take stride {format_stride(best.stride)}: it aliases {format_share(best.aliased_energy)} of the "
        f"response's energy (limit {format_share(limit)}; {_worst_filter(best, labels)}), keeps 1 position in "
        f"{1 / best.positions_kept:.3g}, is {faster} and peaks at {format_bytes(best.peak_bytes)} instead of "
        f"{format_bytes(baseline.peak_bytes)}."
    )


def _why_not(row: StrideRow, limit: float, labels: Sequence[str]) -> str:
    head = f"The next, stride {format_stride(row.stride)}, takes {format_time(row.time_s)} but "
    if row.aliased_energy > limit:
        return f"{head}aliases {format_share(row.aliased_energy)} ({_worst_filter(row, labels)})."
    return head + f"leaves gaps: {_lines(row.unread)} are never read."


def _worst_filter(row: StrideRow, labels: Sequence[str]) -> str:
    worst = max(range(len(labels)), key=lambda number: row.aliased_energy_by_filter[number])
    return f"{format_share(row.aliased_energy_by_filter[worst])} of its worst filter, {labels[worst]}"


def warnings_about(rows: Sequence[StrideRow], kernel_extent: tuple[int, ...], *, flat: bool) -> tuple[str, ...]:
    """Say what in `rows` deserves care: a flat response, pixels never read or dropped, times that scatter."""
    found = []
    if flat:
        found.append("the response is flat, so nothing in it can alias: compare on a picture with something to see")
    for row in rows:
        name = f"stride {format_stride(row.stride)}"
        if row.leaves_gaps:
            extents = format_stride(kernel_extent)
            found.append(f"{name} is larger than the kernel's {extents} pixels: {_lines(row.unread)} are never read")
        elif any(row.dropped):
            found.append(f"{name} drops {_lines(row.dropped)} at the end, which no window reaches")
    noisy = [row for row in rows if row.time_quartiles_s[1] - row.time_quartiles_s[0] > NOISY_SPREAD * row.time_s]
    if noisy:
        names = ", ".join(format_stride(row.stride) for row in noisy)
        found.append(
            f"the times of stride {names} scatter by more than {NOISY_SPREAD:.0%}: the machine was probably busy with "
            "other work"
        )
    return tuple(found)


def _lines(counts: tuple[int, ...]) -> str:
    parts = [
        f"{count} {axis if count > 1 else axis[:-1]}"
        for count, axis in zip(counts, ("rows", "columns"), strict=True)
        if count
    ]
    return " and ".join(parts)
