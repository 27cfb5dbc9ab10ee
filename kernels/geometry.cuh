// Where things lie: the input pixel behind a padded coordinate, the place of an output pixel.
#pragma once
#include "parameters.cuh"

// The input coordinate that padded coordinate `index` holds, or -1 where it holds a zero: twin of
// stridekit.problems.padding.source_index.
template <class Index>
DEVICE Index source_index(Index index, Index size, int padding_mode) {
    if (index >= 0 && index < size) return index;
    if (padding_mode == 0) return -1;
    if (padding_mode == 1) return index < 0 ? -index : 2 * (size - 1) - index;
    if (padding_mode == 2) return index < 0 ? 0 : size - 1;
    return index < 0 ? index + size : index - size;
}

// One output pixel of one sample.
struct Pixel {
    int n, o, p, q;
};

// Pixel `m` of M, below 2^31: the host launches a larger batch in parts.
DEVICE Pixel pixel_at(const ConvParameters& P, u32 m) {
    Pixel at;
    at.q = static_cast<int>(split_off(m, P.by_output_column));
    at.p = static_cast<int>(split_off(m, P.by_output_row));
    at.o = static_cast<int>(split_off(m, P.by_output_depth));
    at.n = static_cast<int>(m);
    return at;
}

DEVICE i64 offset_of(const Pixel& at, const Steps& by) {
    return static_cast<i64>(at.n) * by.n + at.o * by.d + at.p * by.h + at.q * by.w;
}
