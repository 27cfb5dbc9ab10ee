// Adds the sums of all splits, first to last, then bias, activation and rounding: the end of a split implicit GEMM.
//
// Layouts        partials as [splits][groups][M][K] in the accumulator; bias and y with any steps.
// Threads        one an output element; neighbours are filters.
// Shared memory  none.
// Chosen         after implicit_gemm.cu with more than one split.
//
// -D ENTRY, ELEMENT, THREADS
#include "epilogue.cuh"
#include "geometry.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ ConvParameters P) {
    typedef ELEMENT Element;
    typedef Element::Storage Storage;
    typedef Element::Accumulator Sum;

    const i64 count = P.groups * P.M * P.K, i = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= count) return;
    u64 rest = static_cast<u64>(i);
    const i64 filter = static_cast<i64>(split_off(rest, P.by_filters));
    const u32 m = static_cast<u32>(split_off(rest, P.by_pixels));
    const i64 k = static_cast<i64>(rest) * P.K + filter;

    const Sum* partials = reinterpret_cast<const Sum*>(P.partials) + i;
    Sum sum = 0;
    for (i64 split = 0; split < P.splits; ++split) sum += partials[split * count];
    const auto offset = [&](const Steps& by) { return offset_of(pixel_at(P, m), by); };
    static_cast<Storage*>(P.y)[offset(P.y_step) + k * P.y_step.c] = Element::round(finished<Element>(P, sum, k, offset));
}
EXPORT(ENTRY)
