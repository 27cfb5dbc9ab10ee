// How a stage is filled: rows of the implicit matrix of x, gathered pixel by pixel and tap by tap, and rows of packed
// weights. Element k of a row is channel k % channel_pitch of tap k / channel_pitch.
#pragma once
#include "geometry.cuh"
#include "tile.cuh"

namespace loading {

using tile::CHUNKS;
using tile::ELEMENTS_OF_CHUNK;
using tile::ELEMENTS_OF_ROW;
typedef ELEMENT::Storage Storage;

// A tap of the kernel, as steps from a window's first pixel.
struct Tap {
    int t, r, s;
};

DEVICE Tap tap_at(const ConvParameters& P, u32 flat) {
    Tap tap;
    tap.s = static_cast<int>(split_off(flat, P.by_kernel_column));
    tap.r = static_cast<int>(split_off(flat, P.by_kernel_row));
    tap.t = static_cast<int>(flat);
    return tap;
}

DEVICE void advance(const ConvParameters& P, Tap& tap) {
    if (++tap.s < static_cast<int>(P.kernel[2])) return;
    tap.s = 0;
    if (++tap.r < static_cast<int>(P.kernel[1])) return;
    tap.r = 0;
    ++tap.t;
}

// No offset: steps may be negative, so that -1 may be one.
constexpr i64 NOWHERE = -(1ll << 62);

// The window of one output pixel: its sample and group, and its first pixel, which may lie in the padding.
struct Window {
    i64 start;  // elements from x to channel 0 of this group of the sample; NOWHERE beyond the last output pixel
    int d, h, w;
};

DEVICE Window window_at(const ConvParameters& P, u32 m, i64 group) {
    Window window = {NOWHERE, 0, 0, 0};
    if (m >= static_cast<u32>(P.M)) return window;
    const Pixel at = pixel_at(P, m);
    window.start = static_cast<i64>(at.n) * P.x_step.n + group * P.group_step;
    window.d = at.o * static_cast<int>(P.stride[0]) - static_cast<int>(P.padding[0]);
    window.h = at.p * static_cast<int>(P.stride[1]) - static_cast<int>(P.padding[1]);
    window.w = at.q * static_cast<int>(P.stride[2]) - static_cast<int>(P.padding[2]);
    return window;
}

// Elements from x to the input pixel under a tap of a window; NOWHERE if there is a zero instead, or nothing at all.
DEVICE i64 pixel_under(const ConvParameters& P, const Window& window, const Tap& tap) {
    const int mode = static_cast<int>(P.padding_mode);
    const int d = source_index(window.d + tap.t * static_cast<int>(P.dilation[0]), static_cast<int>(P.size[0]), mode);
    const int h = source_index(window.h + tap.r * static_cast<int>(P.dilation[1]), static_cast<int>(P.size[1]), mode);
    const int w = source_index(window.w + tap.s * static_cast<int>(P.dilation[2]), static_cast<int>(P.size[2]), mode);
    if (window.start == NOWHERE || tap.t >= static_cast<int>(P.kernel[0]) || (d | h | w) < 0) return NOWHERE;
    return window.start + d * P.x_step.d + h * P.x_step.h + w * P.x_step.w;
}

// Rows of x in chunks of 16 bytes by cp.async: channels lie one after the other, every step is a multiple of a chunk
// and x lies on 16 bytes. A thread fills one chunk of every (THREADS / CHUNKS)-th row.
class ChunkLoader {
    static constexpr int STEP = THREADS / CHUNKS, ROWS = tile::ROWS_M / STEP;

    const ConvParameters& P;
    Window window[ROWS];
    i64 offset[ROWS];  // from x to the pixel under the tap, or NOWHERE
    Tap tap;
    int channel, chunk, first;
    bool moved;

public:
    __device__ __forceinline__ ChunkLoader(const ConvParameters& parameters, u32 m, i64 group, u32 block)
        : P(parameters), moved(true) {
        chunk = static_cast<int>(threadIdx.x) % CHUNKS;
        first = static_cast<int>(threadIdx.x) / CHUNKS;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            window[i] = window_at(P, m + first + i * STEP, group);
            offset[i] = NOWHERE;
        }
        u32 flat = block * ELEMENTS_OF_ROW + chunk * ELEMENTS_OF_CHUNK;
        channel = static_cast<int>(split_off(flat, P.by_channel_pitch));
        tap = tap_at(P, flat);
    }

    // Start copying the next block of the reduction into a stage.
    __device__ __forceinline__ void fetch(u32 stage) {
        if (moved) {
#pragma unroll
            for (int i = 0; i < ROWS; ++i) offset[i] = pixel_under(P, window[i], tap);
        }
        const Storage* x = static_cast<const Storage*>(P.x);
#pragma unroll
        for (int i = 0; i < ROWS; ++i)
            copy_async_16(stage + tile::chunk_offset(first + i * STEP, chunk),
                          offset[i] != NOWHERE ? x + offset[i] + channel : x, offset[i] != NOWHERE);
        channel += ELEMENTS_OF_ROW;
        const int pitch = static_cast<int>(P.channel_pitch);
        moved = channel >= pitch;
        while (channel >= pitch) {
            channel -= pitch;
            advance(P, tap);
        }
    }

    __device__ __forceinline__ void store(u32) {}
};

// Rows of x element by element, wherever they lie: a thread fills chunks of one row, so that neighbours read
// neighbouring pixels. What is read waits in registers while the tile multiplies. With TAPS_SHARE_CHUNKS the channels
// are fewer than a chunk holds, and it holds those of several taps.
template <bool TAPS_SHARE_CHUNKS>
class ElementLoader {
    static_assert(THREADS % tile::ROWS_M == 0 && THREADS / tile::ROWS_M <= CHUNKS, "a thread has one row");
    static constexpr int STEP = THREADS / tile::ROWS_M, OWN = CHUNKS / STEP;

    union Chunk {
        Storage element[ELEMENTS_OF_CHUNK];
        u32 word[4];
    };

    const ConvParameters& P;
    Window window;
    Chunk held[OWN];
    u32 k;
    int row, first;

public:
    __device__ __forceinline__ ElementLoader(const ConvParameters& parameters, u32 m, i64 group, u32 block)
        : P(parameters), k(block * ELEMENTS_OF_ROW) {
        row = static_cast<int>(threadIdx.x) % tile::ROWS_M;
        first = static_cast<int>(threadIdx.x) / tile::ROWS_M;
        window = window_at(P, m + row, group);
    }

    __device__ __forceinline__ void fetch(u32) {
        const Storage* x = static_cast<const Storage*>(P.x);
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const u32 start = k + (first + i * STEP) * ELEMENTS_OF_CHUNK;
            u32 flat = start, channel = split_off(flat, P.by_channel_pitch);
            i64 offset = pixel_under(P, window, tap_at(P, flat));
#pragma unroll
            for (int j = 0; j < ELEMENTS_OF_CHUNK; ++j) {
                if (TAPS_SHARE_CHUNKS && j > 0) {
                    flat = start + j;
                    channel = split_off(flat, P.by_channel_pitch);
                    offset = pixel_under(P, window, tap_at(P, flat));
                }
                const u32 own = TAPS_SHARE_CHUNKS ? channel : channel + j;
                held[i].element[j] = offset != NOWHERE && own < static_cast<u32>(P.C) ? x[offset + own * P.x_step.c]
                                                                                     : Storage(0);
            }
        }
        k += ELEMENTS_OF_ROW;
    }

    __device__ __forceinline__ void store(u32 stage) {
#pragma unroll
        for (int i = 0; i < OWN; ++i)
            store_shared_16(stage + tile::chunk_offset(row, first + i * STEP), held[i].word[0], held[i].word[1],
                            held[i].word[2], held[i].word[3]);
    }
};

// Rows of packed weights: [K][depth] of one group, on 16 bytes; filters beyond the last are zeros.
class WeightLoader {
    static constexpr int STEP = THREADS / CHUNKS, ROWS = (tile::ROWS_N + STEP - 1) / STEP;

    const Storage* source[ROWS];
    bool inside[ROWS];
    int chunk, first;

public:
    __device__ __forceinline__ WeightLoader(const ConvParameters& P, i64 k, i64 group, u32 block) {
        chunk = static_cast<int>(threadIdx.x) % CHUNKS;
        first = static_cast<int>(threadIdx.x) / CHUNKS;
        const Storage* packed = static_cast<const Storage*>(P.packed);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const i64 filter = k + first + i * STEP;
            inside[i] = filter < P.K;
            source[i] = inside[i] ? packed + (group * P.K + filter) * P.depth + block * ELEMENTS_OF_ROW +
                                        chunk * ELEMENTS_OF_CHUNK
                                  : packed;
        }
    }

    __device__ __forceinline__ void fetch(u32 stage) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            if (tile::ROWS_N % STEP == 0 || first + i * STEP < tile::ROWS_N)
                copy_async_16(stage + tile::chunk_offset(first + i * STEP, chunk), source[i], inside[i]);
            if (inside[i]) source[i] += ELEMENTS_OF_ROW;
        }
    }
};

}  // namespace loading
