"""Choose a stride for a layer on a picture, and see what a pooling would do instead. NumPy only.

``python examples/choose_a_stride.py``
"""

import numpy as np

import stridekit as sk
from stridekit.drawing.units import format_bytes, format_share, format_stride, format_time


def rings(size: int = 256) -> np.ndarray:
    """Return rings that become finer from the centre to the edge, on a shaded ground."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return 0.4 + 0.2 * x / size + 0.4 * np.cos(0.6 * np.pi * (x**2 + y**2) / size)


def main() -> None:
    """Compare strides; print what each way to shrink takes and loses."""
    result = sk.compare_strides(
        rings(), strides=(1, 2, 3), filters=8, alternatives=("conv", "max_pool", "avg_pool", "blur_pool")
    )
    print(result.device)
    print(result.recommendation, end="\n\n")
    print(f"{'shrinks by':<12}{'size':>9}{'time':>10}{'peak':>10}{'aliased':>9}{'energy kept':>13}")
    for row in result.alternatives:
        print(
            f"{row.alternative + ' ' + format_stride(row.stride):<12}{'x'.join(map(str, row.output_size)):>9}"
            f"{format_time(row.forward.time_s):>10}{format_bytes(row.forward.peak_bytes):>10}"
            f"{format_share(row.aliased_energy):>9}{format_share(row.energy_kept):>13}"
        )


if __name__ == "__main__":
    main()
