// x of any steps into [N][D][H][W][groups][channel_pitch], zeros beyond the channels of a group, so that
// implicit_gemm.cu can read whole chunks.
//
// Grid           x: tiles of 32 pixels of a sample, y: tiles of 32 channels, z: samples.
// Threads        32 x 8: a warp reads neighbouring pixels of a channel, or, where channels already are neighbours,
//                neighbouring channels of a pixel; and writes neighbouring channels of a pixel.
// Shared memory  32 rows of 33 elements; the odd one keeps a column's elements in different banks.
// Chosen         before implicit_gemm.cu, where x does not lie in chunks.
//
// -D ENTRY, STORAGE (u16, u32, u64: bits are moved, not numbers), THREADS (256)
#include "parameters.cuh"

constexpr int SIDE = 32, PITCH = SIDE + 1, LINES = THREADS / SIDE;
static_assert(THREADS == 256 && SIDE % LINES == 0, "32 x 8 threads");

struct CopyParameters {
    const void* x;
    Steps x_step;
    void* y;
    i64 samples, pixels;         // of x
    i64 channels;                // of one group of x
    i64 padded_channels;         // of all groups of y
    Divisor by_channel_pitch;    // channels of one group of y
    Divisor by_row, by_column;   // of x
};

extern "C" __global__ void __launch_bounds__(THREADS) ENTRY(const __grid_constant__ CopyParameters P) {
    SHARED_MEMORY(shared);
    STORAGE* square = reinterpret_cast<STORAGE*>(shared);
    const int lane = static_cast<int>(threadIdx.x) % SIDE, line = static_cast<int>(threadIdx.x) / SIDE;
    const i64 pixels = P.pixels, channels = P.padded_channels;
    const i64 first_pixel = static_cast<i64>(blockIdx.x) * SIDE, first_channel = static_cast<i64>(blockIdx.y) * SIDE;
    const bool by_channels = P.x_step.c == 1;

    for (i64 n = blockIdx.z; n < P.samples; n += gridDim.z) {
        // All reads before the first write, so that they are under way together.
        STORAGE value[SIDE / LINES];
#pragma unroll
        for (int i = 0; i < SIDE / LINES; ++i) {
            const int far = line + i * LINES, own_pixel = by_channels ? far : lane, own_channel = by_channels ? lane : far;
            const i64 pixel = first_pixel + own_pixel, padded = first_channel + own_channel;
            value[i] = 0;
            if (pixel < pixels && padded < channels) {
                u64 group = static_cast<u64>(padded), row = static_cast<u64>(pixel);
                const i64 channel = static_cast<i64>(split_off(group, P.by_channel_pitch));
                const i64 w = static_cast<i64>(split_off(row, P.by_column));
                const i64 h = static_cast<i64>(split_off(row, P.by_row)), d = static_cast<i64>(row);
                if (channel < P.channels)
                    value[i] = static_cast<const STORAGE*>(P.x)[n * P.x_step.n +
                                                                (static_cast<i64>(group) * P.channels + channel) * P.x_step.c +
                                                                d * P.x_step.d + h * P.x_step.h + w * P.x_step.w];
            }
        }
#pragma unroll
        for (int i = 0; i < SIDE / LINES; ++i) {
            const int far = line + i * LINES;
            square[(by_channels ? far : lane) * PITCH + (by_channels ? lane : far)] = value[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < SIDE; i += LINES) {
            const i64 pixel = first_pixel + line + i, channel = first_channel + lane;
            if (pixel < pixels && channel < channels)
                static_cast<STORAGE*>(P.y)[(n * pixels + pixel) * channels + channel] =
                    square[(line + i) * PITCH + lane];
        }
        __syncthreads();
    }
}
EXPORT(ENTRY)
