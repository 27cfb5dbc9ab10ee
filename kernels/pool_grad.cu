// Pooling, the input's gradient: one thread gathers one pixel's sum from the windows that hold it.
//
//   LARGEST   the gradients of those whose index it is.
//   else      of each, the gradient divided by how many of its taps lie within low and high.
//
// Layouts        gradients and indices with any steps.
// Threads        1-D. Neighbours are input columns, or channels where CHANNELS_INSIDE.
// Reduction      windows in order, in the accumulator; no atomics, so that the bits are the same in every run.
// Shared memory  none.
// Preconditions  every padded coordinate and the number of elements fit into INDEX.
//
// -D as for pool.cu
#include "pooling.cuh"

static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");

// Whether a tap of the window at `output` lies at the padded coordinate `position`, which is within its extent.
template <class Index>
DEVICE bool has_tap(const PoolParameters& P, int axis, Index position, Index output) {
    const Index distance = position - output * static_cast<Index>(P.stride[axis]);
    return over(distance, P.by_dilation[axis]) * static_cast<Index>(P.dilation[axis]) == distance;
}

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
    const Storage* y = static_cast<const Storage*>(P.source) + place.n * P.source_step.n + place.c * P.source_step.c;
    const i64* indices = LARGEST ? P.indices + place.n * P.index_step.n + place.c * P.index_step.c : nullptr;
    const i64 number = (static_cast<i64>(place.at[0]) * P.size[1] + place.at[1]) * P.size[2] + place.at[2];

    // The windows that can hold the pixel; with dilation not all of them have a tap there.
    Index position[3], first[3], last[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const Index stride = static_cast<Index>(P.stride[axis]), dilation = static_cast<Index>(P.dilation[axis]);
        position[axis] = place.at[axis] + static_cast<Index>(P.padding[axis]);
        const Index before = position[axis] - dilation * (static_cast<Index>(P.kernel[axis]) - 1);
        first[axis] = before > 0 ? over(before + stride - 1, P.by_stride[axis]) : 0;
        const Index highest = static_cast<Index>(P.output[axis]) - 1;
        const Index latest = over(position[axis], P.by_stride[axis]);
        last[axis] = latest < highest ? latest : highest;
    }
    Accumulator sum = 0;
    for (Index o = first[0]; o <= last[0]; ++o) {
        if (!has_tap<Index>(P, 0, position[0], o)) continue;
        for (Index p = first[1]; p <= last[1]; ++p) {
            if (!has_tap<Index>(P, 1, position[1], p)) continue;
            const i64 taps = LARGEST ? 1 : static_cast<i64>(counted<Index>(P, 0, o)) * counted<Index>(P, 1, p);
#pragma unroll 1
            for (Index q = first[2]; q <= last[2]; ++q) {
                if (!has_tap<Index>(P, 2, position[2], q)) continue;
                const i64 od = o, oh = p, ow = q;
                if (LARGEST &&
                    indices[od * P.index_step.d + oh * P.index_step.h + ow * P.index_step.w] != number)
                    continue;
                const Accumulator value =
                    Element::widen(y[od * P.source_step.d + oh * P.source_step.h + ow * P.source_step.w]);
                sum += LARGEST ? value : value / static_cast<Accumulator>(taps * counted<Index>(P, 2, q));
            }
        }
    }
    static_cast<Storage*>(P.target)[offset_of(P.target_step, place)] = Element::round(sum);
}
EXPORT(ENTRY)
