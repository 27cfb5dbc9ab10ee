// Pooling, forward: one thread computes one element of the output.
//
//   LARGEST   y = the largest x of the window, the first of equals, a NaN before all; -infinity where there is none.
//             indices, where given: its place (d * H + h) * W + w, or -1.
//   else      y = the sum of the window's x, divided by how many of its taps lie within low and high.
//
// Layouts        x, y and indices with any steps.
// Threads        1-D. Neighbours are output columns, or channels where CHANNELS_INSIDE, as x lies.
// Reduction      taps in order, in the accumulator.
// Shared memory  none.
// Preconditions  every padded coordinate and the number of elements fit into INDEX.
//
// -D ENTRY, ELEMENT (elements.cuh), INDEX and UNSIGNED_INDEX (int and u32, i64 and u64), LARGEST (0, 1),
//    CHANNELS_INSIDE (0, 1), THREADS
#include "pooling.cuh"

static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");

// Without the 1 the assembler keeps to 40 registers, and spills.
extern "C" __global__ void __launch_bounds__(THREADS, 1) ENTRY(const __grid_constant__ PoolParameters P) {
    typedef INDEX Index;
    typedef UNSIGNED_INDEX Unsigned;
    typedef ELEMENT Element;
    typedef Element::Storage Storage;
    typedef Element::Accumulator Accumulator;

    const Unsigned thread = static_cast<Unsigned>(blockIdx.x) * THREADS + threadIdx.x;
    if (thread >= static_cast<Unsigned>(P.walk.elements)) return;
    const Place<Index> place = place_of<Index>(P.walk, thread, CHANNELS_INSIDE);
    const Storage* x = static_cast<const Storage*>(P.source) + place.n * P.source_step.n + place.c * P.source_step.c;

    // Of a window the taps that lie inside the input: padding can hold any number of others.
    Index begin[3], dilation[3], first[3], stop[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        begin[axis] = place.at[axis] * static_cast<Index>(P.stride[axis]) - static_cast<Index>(P.padding[axis]);
        dilation[axis] = static_cast<Index>(P.dilation[axis]);
        const Index left = static_cast<Index>(P.size[axis]) - begin[axis], taps = static_cast<Index>(P.kernel[axis]);
        const Index reached = left > 0 ? over(left + dilation[axis] - 1, P.by_dilation[axis]) : 0;
        first[axis] = begin[axis] < 0 ? over(dilation[axis] - 1 - begin[axis], P.by_dilation[axis]) : 0;
        stop[axis] = reached < taps ? reached : taps;
    }
    Accumulator result = LARGEST ? static_cast<Accumulator>(float_from_bits(0xff800000u)) : 0;
    i64 found = -1;
    for (Index t = first[0]; t < stop[0]; ++t) {
        const Index d = begin[0] + t * dilation[0];
        for (Index r = first[1]; r < stop[1]; ++r) {
            const Index h = begin[1] + r * dilation[1];
            const Storage* row = x + (static_cast<i64>(d) * P.source_step.d + static_cast<i64>(h) * P.source_step.h);
            const i64 number = (static_cast<i64>(d) * P.size[1] + h) * P.size[2];
#pragma unroll 1
            for (Index s = first[2]; s < stop[2]; ++s) {
                const Index w = begin[2] + s * dilation[2];
                const Accumulator value = Element::widen(row[static_cast<i64>(w) * P.source_step.w]);
                if (!LARGEST) {
                    result += value;
                } else if (found < 0 || value > result || (value != value && result == result)) {
                    result = value;
                    found = number + w;
                }
            }
        }
    }
    if (!LARGEST) {
        i64 divisor = 1;
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) divisor *= counted<Index>(P, axis, place.at[axis]);
        result /= static_cast<Accumulator>(divisor > 0 ? divisor : 1);
    }
    if (P.target) static_cast<Storage*>(P.target)[offset_of(P.target_step, place)] = Element::round(result);
    if (LARGEST && P.indices) P.indices[offset_of(P.index_step, place)] = found;
}
EXPORT(ENTRY)
