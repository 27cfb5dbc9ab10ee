// What happens to the sums of a tile: epilogue and rounding on the way through shared memory, from where they
// are stored in the order in which y lies; or, of one split among several, as they are, for sum_partials.cu.
#pragma once
#include "epilogue.cuh"
#include "geometry.cuh"
#include "tile.cuh"

namespace storing {

typedef ELEMENT::Storage Storage;
using tile::Sum;

struct alignas(16) Chunk {
    Storage element[tile::ELEMENTS_OF_CHUNK];
};

constexpr int SUMS = tile::CHUNK_BYTES / static_cast<int>(sizeof(Sum));
struct alignas(16) SumChunk {
    Sum element[SUMS];
};

// All threads have left the operands when this begins.
template <class Multiplier>
DEVICE void store(const ConvParameters& P, const Multiplier& multiplier, u8* shared, u32 m, i64 k, i64 group, i64 split) {
    const bool partial = P.splits > 1, by_filters = partial || P.y_by_filters;
    const int step_m = by_filters ? TILE_N + tile::PADDING : 1, step_n = by_filters ? 1 : TILE_M + tile::PADDING;
    Sum* sums = reinterpret_cast<Sum*>(shared);
    i64* places = reinterpret_cast<i64*>(shared + tile::SUMS_BYTES);
    const int rows = static_cast<int>(P.M - m < TILE_M ? P.M - m : TILE_M);
    const int columns = static_cast<int>(P.K - k < TILE_N ? P.K - k : TILE_N);
    const int thread = static_cast<int>(threadIdx.x);

    for (int row = thread; row < rows; row += THREADS)
        places[row] = partial ? ((split * P.groups + group) * P.M + m + row) * P.K + k
                              : offset_of(pixel_at(P, m + row), P.y_step) + (group * P.K + k) * P.y_step.c;
    multiplier.each([&](int row, int column, Sum sum) { sums[row * step_m + column * step_n] = sum; });
    __syncthreads();

    if (!partial && finishes(P)) {
        // A thread keeps its column; once for the whole tile, not once for each of a thread's sums: a gelu is long.
        constexpr int STEP = THREADS / TILE_N > 0 ? THREADS / TILE_N : 1;
        static_assert(STEP * TILE_N == THREADS, "a thread has one column");
        const int column = thread % TILE_N;
        const i64 filter = group * P.K + k + column;
#pragma unroll 1
        for (int row = thread / TILE_N; row < rows && column < columns; row += STEP) {
            Sum& sum = sums[row * step_m + column * step_n];
            const auto offset = [&](const Steps& by) { return offset_of(pixel_at(P, m + row), by); };
            sum = finished<ELEMENT>(P, sum, filter, offset);
        }
        __syncthreads();
    }

    if (partial) {
        Sum* target = reinterpret_cast<Sum*>(P.partials);
#pragma unroll 1
        for (int i = thread; i < rows * TILE_N; i += THREADS) {
            const int row = i / TILE_N, column = i % TILE_N;
            if (column < columns) target[places[row] + column] = sums[row * step_m + column];
        }
        return;
    }
    Storage* y = static_cast<Storage*>(P.y);
    if (by_filters && P.y_in_vectors) {
        constexpr int ELEMENTS = tile::ELEMENTS_OF_CHUNK, CHUNKS_OF_ROW = TILE_N / ELEMENTS;
#pragma unroll 1
        for (int i = thread; i < rows * CHUNKS_OF_ROW; i += THREADS) {
            const int row = i / CHUNKS_OF_ROW, column = i % CHUNKS_OF_ROW * ELEMENTS;
            if (column >= columns) continue;
            Chunk chunk;
#pragma unroll
            for (int e = 0; e < ELEMENTS; e += SUMS) {
                // 16 bytes at a time: single sums of neighbouring threads would share banks.
                const SumChunk read = *reinterpret_cast<const SumChunk*>(sums + row * step_m + column + e);
#pragma unroll
                for (int i = 0; i < SUMS; ++i) chunk.element[e + i] = ELEMENT::round(read.element[i]);
            }
            *reinterpret_cast<Chunk*>(y + places[row] + column) = chunk;
        }
    } else if (by_filters) {
#pragma unroll 1
        for (int i = thread; i < rows * TILE_N; i += THREADS) {
            const int row = i / TILE_N, column = i % TILE_N;
            if (column < columns) y[places[row] + column * P.y_step.c] = ELEMENT::round(sums[row * step_m + column]);
        }
    } else {
#pragma unroll 1
        for (int i = thread; i < columns * TILE_M; i += THREADS) {
            const int column = i / TILE_M, row = i % TILE_M;
            if (row < rows) y[places[row] + column * P.y_step.c] = ELEMENT::round(sums[column * step_n + row]);
        }
    }
}

}  // namespace storing
