// One kernel for each primitive of device.cuh: applies it to what is given, and writes what comes out, bit for bit.
// Compiled for a CPU by the emulator and for a GPU by NVRTC; primitives.py says what to give and compares.
#include "device.cuh"

// All arrays are C-contiguous and lie on 16 bytes; count is the length of the result's first axis.
//
//   entry                a                    b              c                    result
//   half_to_float        u16 [count]                                              f32 [count]
//   bfloat16_to_float    u16 [count]                                              f32 [count]
//   float_to_half        f32 [count]                                              u16 [count]
//   float_to_bfloat16    f32 [count]                                              u16 [count]
//   float_to_tf32        f32 [count]                                              u32 [count]
//   load                 u32 [32][4] rows     u32 [count][32]                     u32 [count][32][4]
//   product_half         u32 [count][32][4]   u32 [count][32][2]  f32 [count][32][4]  f32 [count][32][4]
//   product_bfloat16     as product_half
//   product_tf32         as product_half
//   copy                 u32 [count][4]       u32 [count]                         u32 [count][4]
//   store                u32 [count][4]                                           u32 [count][4]
//
// load: b is the row whose address each lane gives. copy: where b is 0 nothing is read.
// A block is one warp, and has 512 bytes of shared memory. load and product_*: one block for each of `count`; the
// others: one thread for each.
struct PrimitiveParameters {
    const void* a;
    const void* b;
    const void* c;
    void* result;
    i64 count;
};
#define PRIMITIVE(name)                                                                     \
    extern "C" __global__ void name(const __grid_constant__ PrimitiveParameters P);         \
    EXPORT(name)                                                                            \
    extern "C" __global__ void name(const __grid_constant__ PrimitiveParameters P)

#define CONVERSION(name, From, To, expression)                                              \
    PRIMITIVE(name) {                                                                       \
        const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;              \
        if (i >= P.count) return;                                                           \
        const From value = static_cast<const From*>(P.a)[i];                                \
        static_cast<To*>(P.result)[i] = expression;                                         \
    }
CONVERSION(half_to_float, u16, u32, bits_from_float(float_from_half(value)))
CONVERSION(bfloat16_to_float, u16, u32, bits_from_float(float_from_bfloat16(value)))
CONVERSION(float_to_half, u32, u16, half_from_float(float_from_bits(value)))
CONVERSION(float_to_bfloat16, u32, u16, bfloat16_from_float(float_from_bits(value)))
CONVERSION(float_to_tf32, u32, u32, tf32_from_float(float_from_bits(value)))

PRIMITIVE(load) {
    SHARED_MEMORY(memory);
    const u32 lane = threadIdx.x, start = shared_address(memory);
    const u32* row = static_cast<const u32*>(P.a) + lane * 4;
    store_shared_16(start + lane * 16, row[0], row[1], row[2], row[3]);
    __syncthreads();
    const i64 at = static_cast<i64>(blockIdx.x) * 32 + lane;
    u32 fragment[4];
    load_matrices(fragment, start + static_cast<const u32*>(P.b)[at] * 16);
    for (int i = 0; i < 4; ++i) static_cast<u32*>(P.result)[at * 4 + i] = fragment[i];
}

#define PRODUCT(name, multiply)                                                             \
    PRIMITIVE(name) {                                                                       \
        const i64 at = static_cast<i64>(blockIdx.x) * 32 + threadIdx.x;                     \
        float sum[4];                                                                       \
        u32 a[4], b[2];                                                                     \
        for (int i = 0; i < 4; ++i) sum[i] = static_cast<const float*>(P.c)[at * 4 + i];    \
        for (int i = 0; i < 4; ++i) a[i] = static_cast<const u32*>(P.a)[at * 4 + i];        \
        for (int i = 0; i < 2; ++i) b[i] = static_cast<const u32*>(P.b)[at * 2 + i];        \
        multiply(sum, a, b);                                                                \
        for (int i = 0; i < 4; ++i) static_cast<float*>(P.result)[at * 4 + i] = sum[i];     \
    }
PRODUCT(product_half, multiply_half)
PRODUCT(product_bfloat16, multiply_bfloat16)
PRODUCT(product_tf32, multiply_tf32)

PRIMITIVE(copy) {
    SHARED_MEMORY(memory);
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const u32 place = shared_address(memory) + threadIdx.x * 16;
    store_shared_16(place, 0x55555555, 0x55555555, 0x55555555, 0x55555555);
    __syncthreads();
    // Beyond the last, the last again: every thread takes part.
    const i64 row = i < P.count ? i : P.count - 1;
    copy_async_16(place, static_cast<const u32*>(P.a) + row * 4, static_cast<const u32*>(P.b)[row] != 0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    const u32* word = reinterpret_cast<const u32*>(memory) + threadIdx.x * 4;
    for (int j = 0; i < P.count && j < 4; ++j) static_cast<u32*>(P.result)[i * 4 + j] = word[j];
}

PRIMITIVE(store) {
    SHARED_MEMORY(memory);
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= P.count) return;
    const u32* a = static_cast<const u32*>(P.a) + i * 4;
    store_shared_16(shared_address(memory) + threadIdx.x * 16, a[0], a[1], a[2], a[3]);
    const u32* word = reinterpret_cast<const u32*>(memory) + threadIdx.x * 4;
    for (int j = 0; j < 4; ++j) static_cast<u32*>(P.result)[i * 4 + j] = word[j];
}
