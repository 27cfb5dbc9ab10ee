// Weights of any steps into rows of an implicit GEMM: [groups][K][depth], channels of a tap together, zeros beyond C
// and beyond the last tap.
//
// Threads        one an element of the result; neighbours are neighbours there.
// Shared memory  none.
// Chosen         before implicit_gemm.cu, once for packed weights, else in every call.
//
// -D ENTRY, STORAGE (u16, u32, u64: bits are moved, not numbers), THREADS
#include "parameters.cuh"

struct PackParameters {
    const void* weight;
    i64 weight_step[5];  // filter, channel, depth, row, column
    void* packed;
    i64 elements;            // of all groups
    i64 channels, depths;    // of a filter: C, and taps along the first axis
    Divisor by_row, by_channel_pitch, by_kernel_row, by_kernel_column;  // length of a row; as in ConvParameters
};

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ PackParameters P) {
    const i64 i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= P.elements) return;
    u64 filter = static_cast<u64>(i);
    u32 tap = static_cast<u32>(split_off(filter, P.by_row));
    const i64 channel = split_off(tap, P.by_channel_pitch);
    const i64 s = split_off(tap, P.by_kernel_column), r = split_off(tap, P.by_kernel_row), t = tap;
    STORAGE value = 0;
    if (channel < P.channels && t < P.depths)
        value = static_cast<const STORAGE*>(P.weight)[static_cast<i64>(filter) * P.weight_step[0] + channel * P.weight_step[1] +
                                                      t * P.weight_step[2] + r * P.weight_step[3] +
                                                      s * P.weight_step[4]];
    static_cast<STORAGE*>(P.packed)[i] = value;
}
EXPORT(ENTRY)
