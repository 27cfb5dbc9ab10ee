// Implicit GEMM, forward: a tile of output pixels times a tile of filters, the matrix of x never written down.
//
//   y[m, k] = activation(bias[k] + sum over i of X[m, i] * W[k, i]),   i = tap * channel_pitch + channel
//
// Layouts        x: channels last, in chunks of 16 bytes (LOADER ChunkLoader), or any steps (ElementLoader).
//                W: packed as [groups][K][depth] by pack_weights.cu. bias, y: any steps.
// Grid           x: tiles of pixels times tiles of filters, filters first, so that the blocks that read the same
//                pixels run together and find them in the second-level cache; y: groups; z: splits of the reduction.
// Threads        THREADS fill a stage together, 64 bytes of the reduction of every row; then each warp (tensor cores,
//                PRODUCT) or thread (fused multiply-adds) multiplies its part of the tile.
// Pipeline       STAGES stages; STAGES - 1 are under way while one is multiplied.
// Reduction      sequential in i, in each split; splits are added in order by sum_partials.cu. It depends on the
//                problem of one sample alone, never on the tile.
// Shared memory  tile::SHARED_BYTES: the stages, or later the sums.
// Preconditions  padded sizes, strides, depth and M below 2^31; offsets are 64 bits wide.
// Chosen         wherever the filters of a group fill a good part of a tile.
//
// -D ENTRY, ELEMENT, LOADER, MULTIPLIER (with its part of the tile), TILE_M, TILE_N, THREADS, STAGES, MIN_BLOCKS,
// EXPECTED_SHARED_BYTES; all from stridekit/backends/cuda/tiles.py
#include "loading.cuh"
#include "multiplying.cuh"
#include "storing.cuh"

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS) ENTRY(const __grid_constant__ ConvParameters P) {
    SHARED_MEMORY(shared);
    const u32 operands = shared_address(shared);
    const i64 tile_m = static_cast<i64>(blockIdx.x) / P.filter_tiles;
    const i64 k = (static_cast<i64>(blockIdx.x) - tile_m * P.filter_tiles) * TILE_N;
    const u32 m = static_cast<u32>(tile_m * TILE_M);
    const i64 group = blockIdx.y, split = blockIdx.z;
    const i64 begin = split * P.blocks_per_split, all = P.depth / tile::ELEMENTS_OF_ROW;
    const int blocks = static_cast<int>((begin + P.blocks_per_split < all ? begin + P.blocks_per_split : all) - begin);

    loading::LOADER x(P, m, group, static_cast<u32>(begin));
    loading::WeightLoader weight(P, k, group, static_cast<u32>(begin));
    multiplying::MULTIPLIER multiplier;

    // The first turns only fill: one loop, so that what fills a stage is compiled once.
    int full = 0, free = 0;
#pragma unroll 1
    for (int block = 1 - STAGES; block < blocks; ++block) {
        if (block >= 0) {
            // A thread's own copies have arrived, then everyone's; and everyone has left the stage that is filled next.
            copy_async_wait<STAGES - 2>();
            __syncthreads();
        }
        const bool more = block + STAGES - 1 < blocks;
        const u32 next = operands + free * tile::STAGE_BYTES;
        if (more) {
            x.fetch(next);
            weight.fetch(next + tile::X_BYTES);
        }
        copy_async_commit();
        if (block >= 0) {
            multiplier.multiply(shared + full * tile::STAGE_BYTES, operands + full * tile::STAGE_BYTES);
            full = full + 1 == STAGES ? 0 : full + 1;
        }
        if (more) x.store(next);
        free = free + 1 == STAGES ? 0 : free + 1;
    }
    copy_async_wait<0>();
    __syncthreads();
    storing::store(P, multiplier, shared, m, k, group, split);
}
EXPORT(ENTRY)
