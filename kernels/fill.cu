// Pixels that no window reads: y[n, c, pixel] = activation(bias[c]), zero without a bias.
//
// y any steps.
//
// Threads        one an element of y; neighbours are channels if y_by_filters, else columns.
// Shared memory  none.
// Chosen         for the phases of an input gradient, or of a transposed convolution, without a tap.
//
// -D ENTRY, ELEMENT (of elements.cuh), THREADS
#include "activation.cuh"
#include "elements.cuh"
#include "parameters.cuh"

typedef ELEMENT::Storage Storage;

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ ConvParameters P) {
    const i64 i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= P.threads) return;
    u64 rest = static_cast<u64>(i);
    i64 c = 0;
    if (P.y_by_filters) c = static_cast<i64>(split_off(rest, P.by_filters));
    const i64 w = static_cast<i64>(split_off(rest, P.by_input_column));
    const i64 h = static_cast<i64>(split_off(rest, P.by_input_row));
    const i64 d = static_cast<i64>(split_off(rest, P.by_output_depth));
    if (!P.y_by_filters) c = static_cast<i64>(split_off(rest, P.by_filters));
    ELEMENT::Accumulator value = 0;
    if (P.bias) {
        value = ELEMENT::widen(static_cast<const Storage*>(P.bias)[c * P.bias_step]);
        value = activate(value, static_cast<int>(P.activation), P.slope);
    }
    static_cast<Storage*>(P.y)[static_cast<i64>(rest) * P.y_step.n + c * P.y_step.c + d * P.y_step.d +
                               h * P.y_step.h + w * P.y_step.w] = ELEMENT::round(value);
}
EXPORT(ENTRY)
