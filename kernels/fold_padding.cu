// The adjoint of padding: the gradient of a padded input added up into that of the input. Without padding a copy, to
// a wider type if ELEMENT is one.
//
//     y[n, c, i] = sum over the padded positions u that hold pixel i of  x[n, c, u]
//
// x and y any steps; x spans before + size + behind. Every axis is added in one order: the pixel itself, its copies
// before it, its copies after it. Nothing is added to a first summand, so that a copy keeps the sign of zero.
//
// Threads        one an element of y; neighbours are channels if channels_inside, else columns.
// Shared memory  none.
// Chosen         for input gradients under reflect, replicate and circular padding, and to widen their operands.
//
// -D ENTRY, SOURCE, ELEMENT (of elements.cuh), THREADS
#include "elements.cuh"
#include "geometry.cuh"
#include "walk.cuh"

typedef SOURCE::Storage From;
typedef ELEMENT::Storage To;

struct FoldParameters {
    Walk walk;
    void* y;
    Steps y_step;
    i64 channels_inside;
    const void* x;
    Steps x_step;
    i64 size[3], before[3], behind[3];  // of y; the padding around it
    i64 padding_mode;                   // as in ConvParameters
};

// Candidate j for the positions of pixel `at`: itself, then the padding from its first pixel to its last.
DEVICE i64 candidate(const FoldParameters& P, int axis, i64 at, i64 j) {
    if (j == 0) return at;
    const i64 before = P.before[axis];
    return j <= before ? j - 1 - before : P.size[axis] + j - 1 - before;
}

DEVICE bool holds(const FoldParameters& P, int axis, i64 position, i64 at) {
    return source_index<i64>(position, P.size[axis], static_cast<int>(P.padding_mode)) == at;
}

// Four blocks at a time: asked for none, ptxas spills a few bytes to fit more.
extern "C" __global__ void __launch_bounds__(THREADS, 4) ENTRY(const __grid_constant__ FoldParameters P) {
    const i64 i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= P.walk.elements) return;
    const Place<i64> place = place_of<i64>(P.walk, static_cast<u64>(i), P.channels_inside);
    const i64 d = place.at[0], h = place.at[1], w = place.at[2];
    const From* x = static_cast<const From*>(P.x) + place.n * P.x_step.n + place.c * P.x_step.c +
                    P.before[0] * P.x_step.d + P.before[1] * P.x_step.h + P.before[2] * P.x_step.w;
    SOURCE::Accumulator sum = SOURCE::widen(x[d * P.x_step.d + h * P.x_step.h + w * P.x_step.w]);
    for (i64 a = 0; a <= P.before[0] + P.behind[0]; ++a) {
        const i64 depth = candidate(P, 0, d, a);
        if (!holds(P, 0, depth, d)) continue;
        const From* slice = x + depth * P.x_step.d;
        for (i64 b = 0; b <= P.before[1] + P.behind[1]; ++b) {
            const i64 row = candidate(P, 1, h, b);
            if (!holds(P, 1, row, h)) continue;
            const From* line = slice + row * P.x_step.h;
#pragma unroll 1
            for (i64 e = 0; e <= P.before[2] + P.behind[2]; ++e) {
                const i64 column = candidate(P, 2, w, e);
                if (a + b + e == 0 || !holds(P, 2, column, w)) continue;
                sum += SOURCE::widen(line[column * P.x_step.w]);
            }
        }
    }
    static_cast<To*>(P.y)[offset_of(P.y_step, place)] = ELEMENT::round(static_cast<ELEMENT::Accumulator>(sum));
}
EXPORT(ENTRY)
