// Small kernels that each show one thing: what a check must catch, and beside it the same without the mistake.
#include "device.cuh"

struct ProbeParameters {
    const float* x;
    float* y;
    i64 amount;   // what it means is the kernel's
    i64 planted;  // 0: correct; else which mistake
};
#define PROBE(name)                                                                       \
    extern "C" __global__ void name(const __grid_constant__ ProbeParameters P);           \
    EXPORT(name)                                                                          \
    extern "C" __global__ void name(const __grid_constant__ ProbeParameters P)

DEVICE u32 thread_number() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

// Which thread of which block: y[unit] = unit, counted the CUDA way, x fastest.
PROBE(number_threads) {
    const u32 block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const u32 unit = block * blockDim.x * blockDim.y * blockDim.z + thread_number();
    P.y[unit] = static_cast<float>(unit);
}

// Sums of warps by shuffles, of the block through shared memory. Planted: no barrier between.
PROBE(sum_block) {
    SHARED_MEMORY(memory);
    float* part = reinterpret_cast<float*>(memory);
    float value = P.x[threadIdx.x];
    for (int lanes = 16; lanes; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    if (!P.planted) __syncthreads();
    float sum = 0;
    for (u32 warp = 0; warp < blockDim.x / 32; ++warp) sum += part[warp];
    P.y[threadIdx.x] = sum;
}

// Vectors exchanged with a neighbouring warp. Planted: no barrier at all, so that a thread ends before another starts.
PROBE(exchange_vectors) {
    SHARED_MEMORY(memory);
    uint4* place = reinterpret_cast<uint4*>(memory);
    const u32 me = threadIdx.x;
    place[me] = reinterpret_cast<const uint4*>(P.x)[me];
    if (!P.planted) __syncthreads();
    reinterpret_cast<uint4*>(P.y)[me] = place[(me + 32) % blockDim.x];
}

// Values handed on by way of a neighbouring warp. Planted: no barrier between reading and writing anew.
PROBE(hand_on) {
    SHARED_MEMORY(memory);
    float* place = reinterpret_cast<float*>(memory);
    const u32 me = threadIdx.x, other = (me + 32) % blockDim.x;
    float value = P.x[me];
    place[me] = value;
    __syncthreads();
    for (int round = 0; round < 3; ++round) {
        value = place[other];
        if (!P.planted) __syncthreads();
        place[me] = value;
        __syncthreads();
    }
    P.y[me] = value;
}

// Three stages of asynchronous copies, each thread summing what another one's copy brought.
// Planted: 1 no wait; 2 a wait that lets one group too many pass; 3 the barrier before the wait; 4 the next copy issued
// before the barrier, into memory that others still read.
PROBE(pipeline) {
    SHARED_MEMORY(memory);
    constexpr int stages = 3;
    const int steps = static_cast<int>(P.amount);
    const u32 start = shared_address(memory), me = threadIdx.x, stage_bytes = blockDim.x * 16;
    const u32 other = (me + 32) % blockDim.x;
    auto copy = [&](int step) {
        const u32 place = start + static_cast<u32>(step % stages) * stage_bytes + me * 16;
        if (step < steps) copy_async_16(place, P.x + (static_cast<u32>(step) * blockDim.x + me) * 4, true);
        copy_async_commit();
    };
    for (int step = 0; step < stages - 1; ++step) copy(step);
    float sum = 0;
    for (int step = 0; step < steps; ++step) {
        if (P.planted == 3) __syncthreads();
        if (P.planted == 4) copy(step + stages - 1);
        if (P.planted == 2)
            copy_async_wait<stages - 1>();
        else if (P.planted == 4)
            copy_async_wait<stages - 1>();
        else if (P.planted != 1)
            copy_async_wait<stages - 2>();
        if (P.planted != 3) __syncthreads();
        if (P.planted != 4) copy(step + stages - 1);
        const float* chunk = reinterpret_cast<const float*>(memory + step % stages * stage_bytes) + other * 4;
        sum += chunk[0] + chunk[1] + chunk[2] + chunk[3];
    }
    P.y[me] = sum;
}

// The first `amount` threads meet at a barrier, the others exit.
PROBE(exit_before_barrier) {
    if (static_cast<i64>(threadIdx.x) >= P.amount) return;
    __syncthreads();
    P.y[threadIdx.x] = 1;
}

PROBE(barrier_in_each_branch) {
    if (static_cast<i64>(threadIdx.x) < P.amount) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    P.y[threadIdx.x] = 1;
}

// The first `amount` lanes shuffle; the others exit, or (planted) vote.
PROBE(diverging_warp) {
    float value = 1;
    if (static_cast<i64>(threadIdx.x % 32) < P.amount)
        value = __shfl_down_sync(0xffffffffu, value, 1);
    else if (P.planted)
        value = static_cast<float>(__ballot_sync(0xffffffffu, 1));
    P.y[threadIdx.x] = value;
}

// The lane, rotated by `amount` through shuffles of a constant distance, and the ballot of odd lanes.
PROBE(shuffle_lanes) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    float* y = P.y + threadIdx.x * 6;
    y[0] = static_cast<float>(__shfl_sync(0xffffffffu, lane, lane + static_cast<int>(P.amount)));
    y[1] = static_cast<float>(__shfl_up_sync(0xffffffffu, lane, static_cast<u32>(P.amount)));
    y[2] = static_cast<float>(__shfl_down_sync(0xffffffffu, lane, static_cast<u32>(P.amount)));
    y[3] = static_cast<float>(__shfl_xor_sync(0xffffffffu, lane, static_cast<int>(P.amount)));
    y[4] = static_cast<float>(__shfl_down_sync(0xffffffffu, lane, 1u, 8));
    y[5] = static_cast<float>(__popc(__ballot_sync(0xffffffffu, lane % 2)));
}

// Only the first `amount` threads write what all read.
PROBE(read_unwritten) {
    SHARED_MEMORY(memory);
    float* place = reinterpret_cast<float*>(memory);
    if (static_cast<i64>(threadIdx.x) < P.amount) place[threadIdx.x] = 1;
    __syncthreads();
    P.y[threadIdx.x] = place[threadIdx.x];
}

// `amount` elements further than its own.
PROBE(read_global) { P.y[threadIdx.x] = P.x[static_cast<i64>(threadIdx.x) + P.amount]; }
PROBE(write_shared) {
    SHARED_MEMORY(memory);
    reinterpret_cast<float*>(memory)[static_cast<i64>(threadIdx.x) + P.amount] = 1;
}
PROBE(overflow_int) { P.y[threadIdx.x] = static_cast<float>(static_cast<int>(P.amount) * 3); }

// An instruction on the shared address `amount` bytes from the start; planted says which.
PROBE(address_shared) {
    SHARED_MEMORY(memory);
    const u32 address = shared_address(memory) + static_cast<u32>(P.amount);
    u32 fragment[4];
    if (P.planted == 0) store_shared_16(address, 1, 2, 3, 4);
    if (P.planted == 1) load_matrices(fragment, address);
    if (P.planted == 2) copy_async_16(address, P.x, false);
    if (P.planted == 3) shared_address(memory + P.amount);
}
PROBE(copy_from_global) {
    SHARED_MEMORY(memory);
    copy_async_16(shared_address(memory), P.x + P.amount, true);
    copy_async_wait<0>();
}

// Rows of 16 bytes, `amount` bytes apart.
PROBE(load_rows) {
    SHARED_MEMORY(memory);
    u32 fragment[4];
    load_matrices(fragment, shared_address(memory) + threadIdx.x % 8 * static_cast<u32>(P.amount));
}

// More copies than the emulator keeps, none waited for.
PROBE(endless_copies) {
    SHARED_MEMORY(memory);
    for (i64 i = 0; i < P.amount; ++i) copy_async_16(shared_address(memory), P.x, true);
}

// A frame of 200 KiB in thread 1.
static __device__ __noinline__ float fill_frame(i64 amount) {
    volatile char frame[200 << 10];
    for (int i = 0; i < static_cast<int>(sizeof frame); ++i) frame[i] = 1;
    return frame[amount];
}
PROBE(deep_frame) {
    if (threadIdx.x == 1) P.y[1] = fill_frame(P.amount);
}
