// The products of one stage. Both ways keep the order of the reduction: block after block, and within a block from the
// first element to the last, so that no choice of tile changes a bit.
#pragma once
#include "tile.cuh"

namespace multiplying {

// Tensor cores: a warp multiplies WARP_M x WARP_N, in steps of 32 bytes of the reduction. A row of 8 matrices of 16
// bits is 16 bytes, so that ldmatrix serves tf32 too: lane l receives the 32-bit element l % 4 of row l / 4.
struct HalfProduct {
    DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) { multiply_half(sum, a, b); }
};

struct BFloat16Product {
    DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) { multiply_bfloat16(sum, a, b); }
};

struct Tf32Product {
    DEVICE void multiply(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        u32 rounded_a[4], rounded_b[2];
#pragma unroll
        for (int i = 0; i < 4; ++i) rounded_a[i] = tf32_from_float(float_from_bits(a[i]));
#pragma unroll
        for (int i = 0; i < 2; ++i) rounded_b[i] = tf32_from_float(float_from_bits(b[i]));
        multiply_tf32(sum, rounded_a, rounded_b);
    }
};

template <class Product, int WARP_M, int WARP_N>
class TensorMultiplier {
    static constexpr int ACROSS_M = TILE_M / WARP_M, ACROSS_N = TILE_N / WARP_N;
    static constexpr int A = WARP_M / 16, B = WARP_N / 8;
    static_assert(ACROSS_M * ACROSS_N * 32 == THREADS, "a warp for each part of the tile");
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "fragments of 16 x 16");

    float sum[A][B][4];
    int lane, row, column;

public:
    __device__ __forceinline__ TensorMultiplier() {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        lane = static_cast<int>(threadIdx.x) % 32;
        row = warp % ACROSS_M * WARP_M;
        column = warp / ACROSS_M * WARP_N;
#pragma unroll
        for (int i = 0; i < A; ++i)
#pragma unroll
            for (int j = 0; j < B; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[i][j][e] = 0.f;
    }

    __device__ __forceinline__ void multiply(const u8*, u32 stage) {
#pragma unroll
        for (int step = 0; step < tile::CHUNKS; step += 2) {
            u32 a[A][4], b[B / 2][4];
#pragma unroll
            for (int i = 0; i < A; ++i)
                load_matrices(a[i], stage + tile::chunk_offset(row + i * 16 + lane % 16, step + lane / 16));
#pragma unroll
            for (int j = 0; j < B / 2; ++j)
                load_matrices(b[j], stage + tile::X_BYTES +
                                        tile::chunk_offset(column + j * 16 + lane % 8 + lane / 16 * 8,
                                                           step + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < A; ++i)
#pragma unroll
                for (int j = 0; j < B; ++j) {
                    const u32 half[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    Product::multiply(sum[i][j], a[i], half);
                }
        }
    }

    // Calls visit(row, column, sum) for every element of the tile that this thread holds.
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll
        for (int i = 0; i < A; ++i)
#pragma unroll
            for (int j = 0; j < B; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    visit(row + i * 16 + e / 2 * 8 + lane / 4, column + j * 8 + lane % 4 * 2 + e % 2, sum[i][j][e]);
    }
};

// Fused multiply-adds: a thread multiplies THREAD_M x THREAD_N, of rows THREADS_M and THREADS_N apart. The lanes of a
// warp are 8 x 4, so that each of its reads touches 8, or 4, neighbouring rows: no two in the same banks.
template <int THREAD_M, int THREAD_N>
class FmaMultiplier {
    typedef ELEMENT::Accumulator Sum;
    static constexpr int THREADS_M = TILE_M / THREAD_M, THREADS_N = TILE_N / THREAD_N;
    static_assert(THREADS_M * THREADS_N == THREADS, "a thread for each part of the tile");
    static_assert(THREADS_M % 8 == 0 && THREADS_N % 4 == 0, "whole warps of 8 x 4");

    // Read 8 bytes at a time: twice as many reads as with 16, and half the registers.
    static constexpr int ELEMENTS = 8 / static_cast<int>(sizeof(Sum));
    struct alignas(8) Piece {
        Sum element[ELEMENTS];
    };

    Sum sum[THREAD_M][THREAD_N];
    int row, column;

public:
    __device__ __forceinline__ FmaMultiplier() {
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        row = warp / (THREADS_N / 4) * 8 + lane / 4;
        column = warp % (THREADS_N / 4) * 4 + lane % 4;
#pragma unroll
        for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
            for (int j = 0; j < THREAD_N; ++j) sum[i][j] = 0;
    }

    __device__ __forceinline__ void multiply(const u8* stage, u32) {
#pragma unroll 2
        for (int piece = 0; piece < tile::ROW_BYTES / 8; ++piece) {
            const int chunk = piece / 2, half = piece % 2 * 8;
            Piece a[THREAD_M];
#pragma unroll
            for (int i = 0; i < THREAD_M; ++i)
                a[i] = *reinterpret_cast<const Piece*>(stage + tile::chunk_offset(row + i * THREADS_M, chunk) + half);
#pragma unroll
            for (int j = 0; j < THREAD_N; ++j) {
                const int offset = tile::X_BYTES + tile::chunk_offset(column + j * THREADS_N, chunk) + half;
                const Piece b = *reinterpret_cast<const Piece*>(stage + offset);
#pragma unroll
                for (int e = 0; e < ELEMENTS; ++e)
#pragma unroll
                    for (int i = 0; i < THREAD_M; ++i) sum[i][j] = multiply_add(a[i].element[e], b.element[e], sum[i][j]);
            }
        }
    }

    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll
        for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
            for (int j = 0; j < THREAD_N; ++j) visit(row + i * THREADS_M, column + j * THREADS_N, sum[i][j]);
    }
};

}  // namespace multiplying
