// Direct convolution, forward: one thread computes FILTERS neighbouring filters of one output pixel.
//
//   y[n, k, o, p, q] = activation(bias[k] + sum over t, r, s, c of
//                          x[n, c, o * stride + t * dilation - padding, ...] * weight[k, c, t, r, s])
//
// Layouts        x, weight, bias and y with any steps, read and written where they lie.
// Threads        1-D. Neighbours are output pixels, or filters where NEIGHBOURS_ARE_FILTERS, as y lies.
// Reduction      taps in order, channels within a tap; fused multiply-add in the accumulator.
// Shared memory  none.
// Preconditions  every padded coordinate, channel times step, filter times step and P.threads fit into INDEX.
// Chosen         for depthwise and small groups, for sizes beyond 32 bits, and wherever no tile fits. It is the oracle
//                of the other kernels on a GPU.
//
// -D ENTRY, ELEMENT (elements.cuh), INDEX and UNSIGNED_INDEX (int and u32, i64 and u64), FILTERS,
//    NEIGHBOURS_ARE_FILTERS (0, 1), THREADS, MIN_BLOCKS
#include "epilogue.cuh"
#include "geometry.cuh"

static_assert(FILTERS >= 1 && FILTERS <= 8, "each filter takes a register");
static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) ENTRY(const __grid_constant__ ConvParameters P) {
    typedef INDEX Index;
    typedef UNSIGNED_INDEX Unsigned;
    typedef ELEMENT Element;
    typedef Element::Storage Storage;
    typedef Element::Accumulator Accumulator;

    const Unsigned thread = static_cast<Unsigned>(blockIdx.x) * THREADS + threadIdx.x;
    if (thread >= static_cast<Unsigned>(P.threads)) return;
    Unsigned rest = thread, block = 0;
    if (NEIGHBOURS_ARE_FILTERS) block = split_off(rest, P.by_all_filter_blocks);
    Index at[3];
    at[2] = static_cast<Index>(split_off(rest, P.by_output_column));
    at[1] = static_cast<Index>(split_off(rest, P.by_output_row));
    at[0] = static_cast<Index>(split_off(rest, P.by_output_depth));
    if (!NEIGHBOURS_ARE_FILTERS) block = split_off(rest, P.by_all_filter_blocks);
    const i64 n = static_cast<i64>(rest);
    const Index first = static_cast<Index>(split_off(block, P.by_filter_blocks)) * FILTERS;
    const i64 group = static_cast<i64>(block);

    const Storage* x = static_cast<const Storage*>(P.x) + n * P.x_step.n + group * P.C * P.x_step.c;
    const Storage* weight = static_cast<const Storage*>(P.weight) + (group * P.K + first) * P.weight_step[0];
    const int mode = static_cast<int>(P.padding_mode);
    const Index channels = static_cast<Index>(P.C);
    const Index value_step = static_cast<Index>(P.x_step.c), factor_step = static_cast<Index>(P.weight_step[1]);
    // Filters beyond the group's last read the last one's weights again; their sums are not stored.
    Index filter_step[FILTERS];
#pragma unroll
    for (int f = 0; f < FILTERS; ++f) {
        const Index own = first + f < static_cast<Index>(P.K) ? f : static_cast<Index>(P.K) - 1 - first;
        filter_step[f] = own * static_cast<Index>(P.weight_step[0]);
    }

    Accumulator sum[FILTERS];
#pragma unroll
    for (int f = 0; f < FILTERS; ++f) sum[f] = 0;

    Index begin[3], size[3], dilation[3], taps[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        begin[axis] = at[axis] * static_cast<Index>(P.stride[axis]) - static_cast<Index>(P.padding[axis]);
        size[axis] = static_cast<Index>(P.size[axis]);
        dilation[axis] = static_cast<Index>(P.dilation[axis]);
        taps[axis] = static_cast<Index>(P.kernel[axis]);
    }
    for (Index t = 0; t < taps[0]; ++t) {
        const Index d = source_index(begin[0] + t * dilation[0], size[0], mode);
        if (d < 0) continue;
        for (Index r = 0; r < taps[1]; ++r) {
            const Index h = source_index(begin[1] + r * dilation[1], size[1], mode);
            if (h < 0) continue;
            for (Index s = 0; s < taps[2]; ++s) {
                const Index w = source_index(begin[2] + s * dilation[2], size[2], mode);
                if (w < 0) continue;
                const Storage* value = x + (static_cast<i64>(d) * P.x_step.d + static_cast<i64>(h) * P.x_step.h +
                                            static_cast<i64>(w) * P.x_step.w);
                const Storage* factor = weight + (static_cast<i64>(t) * P.weight_step[2] +
                                                  static_cast<i64>(r) * P.weight_step[3] +
                                                  static_cast<i64>(s) * P.weight_step[4]);
                for (Index c = 0; c < channels; ++c) {
                    const Accumulator wide = Element::widen(value[c * value_step]);
#pragma unroll
                    for (int f = 0; f < FILTERS; ++f)
                        sum[f] = multiply_add(wide, Element::widen(factor[c * factor_step + filter_step[f]]), sum[f]);
                }
            }
        }
    }

    const auto offset = [&](const Steps& by) {
        return n * by.n + static_cast<i64>(at[0]) * by.d + static_cast<i64>(at[1]) * by.h + static_cast<i64>(at[2]) * by.w;
    };
    Storage* y = static_cast<Storage*>(P.y) + offset(P.y_step);
#pragma unroll
    for (int f = 0; f < FILTERS; ++f) {
        if (first + f >= static_cast<Index>(P.K)) break;
        const i64 k = group * P.K + first + f;
        y[k * P.y_step.c] = Element::round(finished<Element>(P, sum[f], k, offset));
    }
}
EXPORT(ENTRY)
