"""Write the README's tables from recorded results: ``python -m bench.readme``.

The results come from ``stridekit compare --strides 1,2,2x1,4,8 --output bench/results/strides`` and from
``python -m bench.peers --device cpu``, without and with ``--direction input_grad`` and ``weight_grad``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stridekit.drawing.units import format_bytes, format_share, format_sizes, format_stride, format_time

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


def main() -> None:
    """Rewrite README.md."""
    path = ROOT / "README.md"
    path.write_text(with_tables(path.read_text()))


def with_tables(readme: str) -> str:
    """Return the README's text with its tables as the results have them."""
    comparison = json.loads((RESULTS / "strides" / "comparison.json").read_text())
    peers = json.loads((RESULTS / "peers_cpu.json").read_text())
    readme = _between(readme, "strides", strides_table(comparison))
    gradients = [
        json.loads((RESULTS / f"peers_cpu_{direction}.json").read_text()) for direction in ("input_grad", "weight_grad")
    ]
    readme = _between(readme, "gradients", gradients_table(gradients))
    return _between(readme, "speed", speed_table(peers))


def strides_table(comparison: dict[str, Any]) -> str:
    """Return what `stridekit compare` found, one row a stride."""
    lines = [
        "| stride | output | kept | dropped | time | speed-up | peak memory | aliased energy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {format_stride(row['stride'])} | {format_sizes(row['output_size'])} "
        f"| {format_share(row['positions_kept'])} | {format_stride(row['dropped'])} "
        f"| {format_time(row['time_s'])} | {row['speedup']:.1f}x "
        f"| {format_bytes(row['peak_bytes'])} | {format_share(row['aliased_energy'])} |"
        for row in comparison["rows"]
    ]
    layer = comparison["layer"]
    lines += [
        "",
        f"*{layer['filters']} filters of {format_sizes(layer['kernel_size'])}, padding {layer['padding']}, "
        f"{layer['dtype']}, on {comparison['image']['name']}; {comparison['device']}. "
        "`stridekit compare --strides 1,2,2x1,4,8`*",
        "",
        f"> {comparison['recommendation']}",
    ]
    return "\n".join(lines)


def gradients_table(races: list[dict[str, Any]]) -> str:
    """Return each direction's speed relative to PyTorch's backward: the geometric mean, and the layers at the ends."""
    lines = [
        "| gradient | threads | geometric mean | slowest layers | fastest layers |",
        "|---|---|---|---|---|",
    ]
    for race in races:
        for run in race["runs"]:
            rows = sorted(run["layers"], key=lambda row: row["over_torch"])
            ends = (
                ", ".join(f"{row['layer']} {row['over_torch']:.2f}" for row in some) for some in (rows[:4], rows[-4:])
            )
            mean = run["geometric_mean"]["over_torch"]
            lines.append(f"| {race['direction']} | {run['threads']} | **{mean:.2f}** | {' | '.join(ends)} |")
    machine, versions = races[0]["machine"], races[0]["versions"]
    count = len(races[0]["runs"][0]["layers"])
    lines += [
        "",
        f"*Speed relative to PyTorch's own backward over {count} layers at batch {races[0]['batch']} in float32, each "
        f"at its best layout; above 1 stridekit is faster. {machine['processor']}; PyTorch {versions['torch']}. "
        "`python -m bench.peers --direction input_grad`, `weight_grad`*",
    ]
    return "\n".join(lines)


def speed_table(peers: dict[str, Any]) -> str:
    """Return the geometric means and the layers of each run, as speeds relative to the peers'."""
    versions, lines = peers["versions"], []
    for run in peers["runs"]:
        means, plural = run["geometric_mean"], "" if run["threads"] == 1 else "s"
        lines.append(
            f"- {run['threads']} thread{plural}: weights as given run at **{means['given_over_torch']:.2f}** of "
            f"PyTorch's speed, packed weights at **{means['packed_over_onnxruntime']:.2f}** of ONNX Runtime's and at "
            f"{means['packed_over_better']:.2f} of the better of both."
        )
    names = [f"{run['threads']} thread{'' if run['threads'] == 1 else 's'}" for run in peers["runs"]]
    lines += [
        "",
        "| layer | "
        + " | ".join(f"{name}: given / PyTorch | packed / ONNX Runtime | of floor" for name in names)
        + " |",
        "|---|" + "---|" * 3 * len(names),
    ]
    for rows in zip(*(run["layers"] for run in peers["runs"]), strict=True):
        cells = [
            f"{row['given_over_torch']:.2f} | {row['packed_over_onnxruntime']:.2f} | {row['fraction_of_floor']:.2f}"
            for row in rows
        ]
        lines.append(f"| {rows[0]['layer']} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            f"Geometric means over {len(peers['runs'][0]['layers'])} layers at batch 1 in float32, each library at its "
            "best layout, taking turns in one process; above 1 stridekit is faster.",
            "",
            *lines,
            "",
            "*Of floor: the share reached of the least time that the machine's measured multiply-add peak and copy "
            f"rate allow. {peers['machine']['processor']}; PyTorch {versions['torch']}, ONNX Runtime "
            f"{versions['onnxruntime']}, Numba {versions['numba']}. `python -m bench.peers --device cpu`*",
        ]
    )


def _between(text: str, name: str, content: str) -> str:
    before, begin, rest = text.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end {name} -->")
    if not begin or not end:
        raise SystemExit(f"README.md has no place marked <!-- {name} --> ... <!-- end {name} -->")
    return f"{before}{begin}\n{content}\n\n{end}{after}"


if __name__ == "__main__":
    main()
