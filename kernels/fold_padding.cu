// The adjoint of padding: the gradient of a padded input added up into that of the input. Without padding a copy, to
// a wider type if ELEMENT is one.
//
//     y[n, c, i] = sum over the padded positions u that hold pixel i of  x[n, c, u]
//
// x and y any steps; x spans size + padding (before) + output (here: the padding after). Every axis is added in one
// order: the pixel itself, its copies before it, its copies after it. Nothing is added to a first summand, so that a
// copy keeps the sign of zero.
//
// Threads        one an element of y; neighbours are channels if y_by_filters, else columns.
// Shared memory  none.
// Chosen         for input gradients under reflect, replicate and circular padding, and to widen their operands.
//
// -D ENTRY, SOURCE, ELEMENT (of elements.cuh), THREADS
#include "elements.cuh"
#include "geometry.cuh"

typedef SOURCE::Storage From;
typedef ELEMENT::Storage To;

// Candidate j for the positions of pixel `at`: itself, then the padding from its first pixel to its last.
DEVICE i64 candidate(const ConvParameters& P, int axis, i64 at, i64 j) {
    if (j == 0) return at;
    const i64 before = P.padding[axis];
    return j <= before ? j - 1 - before : P.size[axis] + j - 1 - before;
}

DEVICE bool holds(const ConvParameters& P, int axis, i64 position, i64 at) {
    return source_index<i64>(position, P.size[axis], static_cast<int>(P.padding_mode)) == at;
}

// Four blocks at a time: asked for none, ptxas spills a few bytes to fit more.
extern "C" __global__ void __launch_bounds__(THREADS, 4) ENTRY(const __grid_constant__ ConvParameters P) {
    const i64 i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= P.threads) return;
    u64 rest = static_cast<u64>(i);
    i64 c = 0;
    if (P.y_by_filters) c = static_cast<i64>(split_off(rest, P.by_filters));
    const i64 w = static_cast<i64>(split_off(rest, P.by_input_column));
    const i64 h = static_cast<i64>(split_off(rest, P.by_input_row));
    const i64 d = static_cast<i64>(split_off(rest, P.by_output_depth));
    if (!P.y_by_filters) c = static_cast<i64>(split_off(rest, P.by_filters));
    const i64 n = static_cast<i64>(rest);
    const From* x = static_cast<const From*>(P.x) + n * P.x_step.n + c * P.x_step.c + P.padding[0] * P.x_step.d +
                    P.padding[1] * P.x_step.h + P.padding[2] * P.x_step.w;
    To* y = static_cast<To*>(P.y) + n * P.y_step.n + c * P.y_step.c + d * P.y_step.d + h * P.y_step.h + w * P.y_step.w;
    SOURCE::Accumulator sum = SOURCE::widen(x[d * P.x_step.d + h * P.x_step.h + w * P.x_step.w]);
    for (i64 a = 0; a <= P.padding[0] + P.output[0]; ++a) {
        const i64 depth = candidate(P, 0, d, a);
        if (!holds(P, 0, depth, d)) continue;
        const From* slice = x + depth * P.x_step.d;
        for (i64 b = 0; b <= P.padding[1] + P.output[1]; ++b) {
            const i64 row = candidate(P, 1, h, b);
            if (!holds(P, 1, row, h)) continue;
            const From* line = slice + row * P.x_step.h;
#pragma unroll 1
            for (i64 e = 0; e <= P.padding[2] + P.output[2]; ++e) {
                const i64 column = candidate(P, 2, w, e);
                if (a + b + e == 0 || !holds(P, 2, column, w)) continue;
                sum += SOURCE::widen(line[column * P.x_step.w]);
            }
        }
    }
    *y = ELEMENT::round(static_cast<ELEMENT::Accumulator>(sum));
}
EXPORT(ENTRY)
