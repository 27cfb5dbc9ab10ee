// What the pooling kernels are told: one struct, by value. Twin of POOL_PARAMETERS in
// stridekit/backends/cuda/pool_windows.py, which fills it in; a test holds the two layouts together.
//
// Spatial axes are always three, as in parameters.cuh. Steps are in elements, and may be negative.
#pragma once
#include "elements.cuh"
#include "walk.cuh"

struct PoolParameters {
    const void* source;  // input, or the output's gradient
    void* target;        // output, or the input's gradient; null where only indices are wanted
    i64* indices;        // may be null
    Steps source_step, target_step, index_step;
    i64 size[3], output[3], kernel[3], stride[3], dilation[3], padding[3];
    i64 low[3], high[3];  // bounds of the input coordinates that an average counts
    Walk walk;            // over the result
    Divisor by_stride[3], by_dilation[3];
};

// Division of what is not negative. A processor's own would be a subroutine, around which registers spill.
DEVICE int over(int n, const Divisor& by) { return static_cast<int>(divide(static_cast<u32>(n), by)); }
DEVICE i64 over(i64 n, const Divisor& by) { return static_cast<i64>(divide(static_cast<u64>(n), by)); }

// How many taps of the window at `output` an average counts, on one axis.
template <class Index>
DEVICE Index counted(const PoolParameters& P, int axis, Index output) {
    const Index dilation = static_cast<Index>(P.dilation[axis]);
    const Index start = output * static_cast<Index>(P.stride[axis]) - static_cast<Index>(P.padding[axis]);
    const Index to_low = static_cast<Index>(P.low[axis]) - start, to_high = static_cast<Index>(P.high[axis]) - start;
    const Index first = to_low > 0 ? over(to_low + dilation - 1, P.by_dilation[axis]) : 0;
    const Index stop = to_high > 0 ? over(to_high + dilation - 1, P.by_dilation[axis]) : 0;
    const Index last = stop < static_cast<Index>(P.kernel[axis]) ? stop : static_cast<Index>(P.kernel[axis]);
    return last > first ? last - first : 0;
}
