// All that is not plain C++: element types, inline PTX, shared memory, warp-wide matrix operations.
//
// The only file with inline PTX. NVRTC takes the first half; a host compiler takes the twin of it in
// tests/emulator/, which runs every kernel on a CPU. A primitive added here is added there, and compared with it bit
// for bit on hardware by `python -m bench.gpu_gate`.
//
// Source: PTX ISA, the sections on cp.async, ldmatrix, mma.sync (fragment layouts) and cvt (roundings).
#pragma once

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define DEVICE static __device__ __forceinline__
// Dynamic shared memory, on 1024 bytes: one array for the whole module, whatever it is called.
#define SHARED_MEMORY(name) extern __shared__ __align__(1024) u8 name[]
// Lets the emulator find an entry by its name; nothing on a GPU.
#define EXPORT(entry)

// The upper half of a product.
DEVICE u64 multiply_high(u64 a, u64 b) { return __umul64hi(a, b); }

DEVICE float float_from_bits(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 bits_from_float(float value) { return __float_as_uint(value); }

// float16 and bfloat16 as 16 bits, rounded to nearest, ties to even; a NaN stays a NaN.
DEVICE float float_from_half(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
DEVICE u16 half_from_float(float value) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
DEVICE float float_from_bfloat16(u16 value) { return float_from_bits(static_cast<u32>(value) << 16); }
DEVICE u16 bfloat16_from_float(float value) {
    u16 result;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}

// The nearest float with 10 explicit bits of mantissa, ties away from zero; NaN stays some NaN.
DEVICE u32 tf32_from_float(float value) {
    u32 result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
    return result;
}

// The address of shared memory as the instructions below take it.
DEVICE u32 shared_address(const void* pointer) { return static_cast<u32>(__cvta_generic_to_shared(pointer)); }

// Copy 16 bytes from global to shared memory in the background, or write 16 zeros there. Both addresses lie on 16
// bytes; a source that is not read may be any valid address.
DEVICE void copy_async_16(u32 shared, const void* global, bool read) {
    const int bytes = read ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most `pending` of this thread's latest groups are under way.
template <int pending>
DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

DEVICE void store_shared_16(u32 shared, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lane 8 * m + i gives the address of row i of matrix m; lane l receives, of
// each matrix, the two elements of row l / 4 at columns 2 * (l % 4).
DEVICE void load_matrices(u32 (&fragment)[4], u32 row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row_address)
                 : "memory");
}

// sum += a * b over a warp: a is 16 x k, b is k x 8, sum is 16 x 8 in float32; k is 16, or 8 for tf32.
#define MATRIX_MULTIPLY(name, instruction)                                                       \
    DEVICE void name(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2]) {                    \
        asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));        \
    }
MATRIX_MULTIPLY(multiply_half, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
MATRIX_MULTIPLY(multiply_bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
MATRIX_MULTIPLY(multiply_tf32, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MATRIX_MULTIPLY

#else
#include "emulated_device.h"
#endif
