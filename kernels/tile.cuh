// The tile of an implicit GEMM, in numbers, and where its operands lie in shared memory.
//
// A stage holds ROWS_M rows of x and ROWS_N rows of weights; a row is 64 bytes of the reduction: 4 chunks of 16 bytes.
// Chunks of a row change places with bits 1 and 2 of the row, so that the 8 rows that ldmatrix or a warp reads at once,
// 64 bytes apart, fall into 8 different groups of 4 banks.
#pragma once
#include "elements.cuh"

static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
static_assert(STAGES >= 2, "one stage is read while another is filled");

namespace tile {

constexpr int ROW_BYTES = 64, CHUNK_BYTES = 16, CHUNKS = ROW_BYTES / CHUNK_BYTES;
constexpr int ROWS_M = TILE_M, ROWS_N = TILE_N;
constexpr int X_BYTES = ROWS_M * ROW_BYTES, STAGE_BYTES = (ROWS_M + ROWS_N) * ROW_BYTES;
constexpr int ELEMENTS_OF_CHUNK = CHUNK_BYTES / static_cast<int>(sizeof(ELEMENT::Storage));
constexpr int ELEMENTS_OF_ROW = CHUNKS * ELEMENTS_OF_CHUNK;

static_assert((THREADS / CHUNKS) * CHUNKS == THREADS, "a row is filled by whole threads");
static_assert(TILE_M % (THREADS / CHUNKS) == 0, "every thread fills the same number of rows of x");

// Bytes from the start of an operand's stage to a chunk of a row.
DEVICE int chunk_offset(int row, int chunk) { return row * ROW_BYTES + ((chunk ^ (row >> 1 & 3)) << 4); }

// Sums wait here to be stored: rows of M, or of N where neighbours in y are pixels; 16 bytes apart from a power of two.
typedef ELEMENT::Accumulator Sum;
constexpr int PADDING = CHUNK_BYTES / static_cast<int>(sizeof(Sum));
constexpr int SUMS_M_BYTES = TILE_M * (TILE_N + PADDING) * static_cast<int>(sizeof(Sum));
constexpr int SUMS_N_BYTES = TILE_N * (TILE_M + PADDING) * static_cast<int>(sizeof(Sum));
constexpr int SUMS_BYTES = SUMS_M_BYTES > SUMS_N_BYTES ? SUMS_M_BYTES : SUMS_N_BYTES;
constexpr int PLACES_BYTES = TILE_M * 8;
constexpr int OPERANDS_BYTES = STAGES * STAGE_BYTES;
constexpr int SHARED_BYTES = OPERANDS_BYTES > SUMS_BYTES + PLACES_BYTES ? OPERANDS_BYTES : SUMS_BYTES + PLACES_BYTES;
static_assert(SHARED_BYTES == EXPECTED_SHARED_BYTES, "stridekit/backends/cuda/tiles.py counts other bytes");

}  // namespace tile
