// Pixels that no window reads: y[n, c, pixel] = activation(bias[c]), zero without a bias.
//
// y any steps.
//
// Threads        one an element of y; neighbours are channels if channels_inside, else columns.
// Shared memory  none.
// Chosen         for the phases of an input gradient, or of a transposed convolution, without a tap.
//
// -D ENTRY, ELEMENT (of elements.cuh), THREADS
#include "activation.cuh"
#include "elements.cuh"
#include "walk.cuh"

typedef ELEMENT::Storage Storage;

struct FillParameters {
    Walk walk;
    void* y;
    Steps y_step;
    i64 channels_inside;
    const void* bias;  // may be null
    i64 bias_step;
    i64 activation;  // as in ConvParameters
    double slope;
};

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ FillParameters P) {
    const i64 i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= P.walk.elements) return;
    const Place<i64> place = place_of<i64>(P.walk, static_cast<u64>(i), P.channels_inside);
    ELEMENT::Accumulator value = 0;
    if (P.bias) {
        value = ELEMENT::widen(static_cast<const Storage*>(P.bias)[place.c * P.bias_step]);
        value = activate(value, static_cast<int>(P.activation), P.slope);
    }
    static_cast<Storage*>(P.y)[offset_of(P.y_step, place)] = ELEMENT::round(value);
}
EXPORT(ENTRY)
