"""The summary: what each layer does to sizes and receptive field, and what it costs, in integers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from stridekit.concurrency import cached_property
from stridekit.memory.arrays import dtype_name, itemsize
from stridekit.networks.operations import Input, Shape, volume
from stridekit.networks.receptive import Fields, axis_fields

if TYPE_CHECKING:
    from stridekit.networks.layers import Layer
    from stridekit.networks.network import Network


@dataclass(frozen=True)
class SummaryRow:
    """One layer. Sizes per spatial axis are in the array's own order; numbers of bytes and operations are of the batch.

    Attributes
    ----------
    name, operation : str
        The layer and its kind.
    output_shape : tuple of int
        ``(N, C, *spatial)``.
    stride, effective_stride : tuple or None
        Of this layer's window, and of its output's pixels in pixels of the input; a fraction after an upsampling.
    receptive_field, field_start : tuple of int or None
        Pixels of the input that an output pixel depends on, and where the first pixel's field begins (below 0: in
        padding). None without pixels, or where every pixel is read. After an upsampling neighbours differ; then it is
        the smallest span that moves with the pixel and holds theirs.
    field_padding : tuple of (int, int) or None
        How far the fields of the first and the last pixel reach beyond the image.
    outgrows_image : bool
        Whether the field is larger than the image along some axis.
    remainder, dropped, overlap, phase, unread : tuple or None
        As in `stridekit.conv_geometry`, of this layer's window.
    parameters, macs, bytes_moved, activation_bytes, weight_bytes : int
        What is trained; multiply-accumulates; bytes that any algorithm must move; bytes of the output and of the
        parameters and buffers. Shared parameters count where they are owned.
    """

    name: str
    operation: str
    output_shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    effective_stride: tuple[int | float, ...] | None
    receptive_field: tuple[int, ...] | None
    field_start: tuple[int, ...] | None
    field_padding: tuple[tuple[int, int], ...] | None
    outgrows_image: bool
    remainder: tuple[int, ...] | None
    dropped: tuple[int, ...] | None
    overlap: tuple[int, ...] | None
    phase: tuple[float, ...] | None
    unread: tuple[int, ...] | None
    parameters: int
    macs: int
    bytes_moved: int
    activation_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Summary:
    """A network's rows and totals.

    Attributes
    ----------
    network : str
    input_shape : tuple of int
        ``(N, C, *spatial)`` of the first input.
    dtype : str
    rows : tuple of SummaryRow
    """

    network: str
    input_shape: tuple[int, ...]
    dtype: str
    rows: tuple[SummaryRow, ...]

    @cached_property
    def last_spatial(self) -> SummaryRow | None:
        """The last layer whose pixels have a bounded field: before global pooling, flattening or a linear layer."""
        found = None
        for row in self.rows:
            if row.receptive_field is not None and row.operation != Input.kind:
                found = row
        return found

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """Pixels per axis that a pixel of `last_spatial` depends on."""
        return None if self.last_spatial is None else self.last_spatial.receptive_field

    @property
    def effective_stride(self) -> tuple[int | float, ...] | None:
        """Pixels of the input per axis between neighbouring pixels of `last_spatial`."""
        return None if self.last_spatial is None else self.last_spatial.effective_stride

    @property
    def outgrows_image_at(self) -> str | None:
        """Name of the first layer whose receptive field is larger than the image."""
        return next((row.name for row in self.rows if row.outgrows_image), None)

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the batch."""
        return sum(row.macs for row in self.rows)

    @property
    def bytes_moved(self) -> int:
        """Bytes that the layers must move, each by itself."""
        return sum(row.bytes_moved for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layers' outputs."""
        return sum(row.activation_bytes for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers: what a model file holds."""
        return sum(row.weight_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return rows and totals as plain lists, dictionaries and numbers."""
        totals = ("receptive_field", "effective_stride", "outgrows_image_at", "parameters", "macs", "bytes_moved")
        return {
            "network": self.network,
            "input_shape": self.input_shape,
            "dtype": self.dtype,
            **{name: getattr(self, name) for name in (*totals, "activation_bytes", "weight_bytes")},
            "layers": [asdict(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """Return the JSON of `to_dict`."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        """Return the table, if rich is installed; else the totals in one line."""
        try:
            from stridekit.drawing.tables import text_of
            from stridekit.networks.summary_tables import summary_parts
        except ImportError:
            return f"{self.network}: {self.parameters:,} parameters, {self.macs:,} multiply-adds (pip install rich)"
        return text_of(summary_parts(self, all_layers=True))


def summarize(network: Network, batch: int, dtype: Any) -> Summary:
    """Return the summary of a network at its own input size."""
    name = dtype_name("dtype", dtype)
    fields = axis_fields(network)
    image = network.features[network.inputs[0].name].shape
    rows = tuple(_row(network, layer, fields[layer.name], image, batch, itemsize(name)) for layer in network.layers)
    return Summary(network.name, (batch, *image), name, rows)


def _row(network: Network, layer: Layer, fields: Fields | None, image: Shape, batch: int, unit: int) -> SummaryRow:
    operation, feature, at = layer.operation, network.features[layer.name], network.resolved[layer.name]
    geometry, owned = at.geometry if at.geometry.axes else None, layer.shares is None
    parameters, buffers = (sum(map(volume, each.values())) for each in (at.parameters, at.buffers))
    samples = batch * feature.samples
    read = sum(volume(each.shape) * each.samples for each in (network.features[name] for name in layer.read))
    size = feature.shape[1:]
    return SummaryRow(
        name=layer.name,
        operation=operation.kind,
        output_shape=(samples, *feature.shape),
        stride=None if geometry is None else geometry.stride,
        effective_stride=None if fields is None else tuple(_number(field.stride) for field in fields),
        receptive_field=None if fields is None else tuple(field.size for field in fields),
        field_start=None if fields is None else tuple(int(field.first // 1) for field in fields),
        field_padding=None
        if fields is None
        else tuple(
            field.padding(outputs, pixels) for field, outputs, pixels in zip(fields, size, image[1:], strict=False)
        ),
        outgrows_image=fields is not None
        and any(field.size > pixels for field, pixels in zip(fields, image[1:], strict=False)),
        remainder=None if geometry is None else geometry.remainder,
        dropped=None if geometry is None else geometry.dropped,
        overlap=None if geometry is None else geometry.overlap,
        phase=None if geometry is None else geometry.phase,
        unread=None if geometry is None else geometry.unread,
        parameters=parameters if owned else 0,
        macs=at.macs * samples,
        bytes_moved=0
        if isinstance(operation, Input)
        else (batch * read + samples * volume(feature.shape) + parameters + buffers) * unit,
        activation_bytes=samples * volume(feature.shape) * unit,
        weight_bytes=(parameters + buffers) * unit if owned else 0,
    )


def _number(value: Any) -> int | float:
    return int(value) if value.denominator == 1 else float(value)
