// What a kernel is told: one struct, by value. That of the kernels that convolve is here; each of the others has its own
// in its file. All have twins in stridekit/backends/cuda, which fills them in; a test holds the layouts together.
//
// Spatial axes are always three, in the array's order (depth, rows, columns); a problem of fewer has leading axes of
// size 1. Steps are in elements, and may be negative.
#pragma once
#include "device.cuh"

// Division by a constant as multiplication: Granlund and Montgomery, PLDI 1994, theorem 4.2. With l = ceil(log2(d)) the
// multipliers are ceil(2^(31 + l) / d), for n below 2^31, and ceil(2^(63 + l) / d), for n below 2^63; shift is l - 1.
struct Divisor {
    u64 divisor, multiplier_64;
    u32 multiplier_32, shift;
};

DEVICE u32 divide(u32 n, const Divisor& by) {
    return by.divisor == 1 ? n : static_cast<u32>(static_cast<u64>(n) * by.multiplier_32 >> 32) >> by.shift;
}
DEVICE u64 divide(u64 n, const Divisor& by) {
    return by.divisor == 1 ? n : multiply_high(n, by.multiplier_64) >> by.shift;
}

// Divides in place and returns the remainder.
template <class Unsigned>
DEVICE Unsigned split_off(Unsigned& n, const Divisor& by) {
    const Unsigned quotient = divide(n, by), remainder = n - quotient * static_cast<Unsigned>(by.divisor);
    n = quotient;
    return remainder;
}

struct Steps {
    i64 n, c, d, h, w;
};

struct ConvParameters {
    const void* x;
    const void* weight;
    const void* bias;      // may be null
    const void* residual;  // may be null
    void* y;
    const void* packed;   // weights as [groups][K][depth]
    float* partials;      // sums of each split as [splits][groups][M][K]
    Steps x_step, y_step, residual_step;
    i64 weight_step[5];  // filter, channel, depth, row, column
    i64 bias_step;
    i64 N, groups, C, K;  // C and K of one group
    i64 size[3], output[3], kernel[3], stride[3], dilation[3], padding[3];
    i64 padding_mode;  // position in stridekit.problems.padding.PADDING_MODES
    i64 activation;    // position in stridekit.problems.activations.FUSED, or -1
    double slope;
    i64 threads;        // of direct.cu
    i64 M;              // output pixels of all samples
    i64 depth;          // length of the reduction: taps * channel_pitch, rounded up to whole blocks
    i64 channel_pitch;  // C, rounded up to whole chunks of 16 bytes if it has at least one
    i64 group_step;     // elements of x from one group's channels to the next's
    i64 splits, blocks_per_split;
    i64 filter_tiles;   // tiles of K in one group
    i64 y_in_vectors;   // whether y takes stores of 16 bytes along the filters
    i64 y_by_filters;   // whether neighbours in y are filters, not pixels
    Divisor by_channel_pitch, by_filters, by_pixels;            // channel_pitch, K, M
    Divisor by_kernel_row, by_kernel_column;                    // kernel[1], kernel[2]
    Divisor by_output_depth, by_output_row, by_output_column;   // output
    Divisor by_filter_blocks, by_all_filter_blocks;             // blocks of FILTERS in a group, and in all groups
};
