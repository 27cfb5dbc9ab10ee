// What CUDA C++ has built in: its keywords, integer names, vector types and mathematics. No <cmath>: it costs more time
// than a kernel to compile.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

#define DEVICE static inline

struct dim3 {
    u32 x, y, z;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

DEVICE int2 make_int2(int x, int y) { return {x, y}; }
DEVICE int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
DEVICE uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
DEVICE uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
DEVICE float2 make_float2(float x, float y) { return {x, y}; }
DEVICE float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
DEVICE double2 make_double2(double x, double y) { return {x, y}; }

template <class T>
DEVICE T __ldg(const T* pointer) {
    return *pointer;
}

// The C library's functions under their C names, and in CUDA's way under the double's name for floats too.
#define EMULATED_UNARY(name)                   \
    extern "C" double name(double) noexcept;   \
    extern "C" float name##f(float) noexcept;  \
    DEVICE float name(float x) { return name##f(x); }
#define EMULATED_BINARY(name)                         \
    extern "C" double name(double, double) noexcept;  \
    extern "C" float name##f(float, float) noexcept;  \
    DEVICE float name(float x, float y) { return name##f(x, y); }
EMULATED_UNARY(ceil)
EMULATED_UNARY(erf)
EMULATED_UNARY(erfc)
EMULATED_UNARY(exp)
EMULATED_UNARY(exp2)
EMULATED_UNARY(expm1)
EMULATED_UNARY(fabs)
EMULATED_UNARY(floor)
EMULATED_UNARY(log)
EMULATED_UNARY(log1p)
EMULATED_UNARY(log2)
EMULATED_UNARY(rint)
EMULATED_UNARY(sqrt)
EMULATED_UNARY(tanh)
EMULATED_UNARY(trunc)
EMULATED_BINARY(copysign)
EMULATED_BINARY(fmax)
EMULATED_BINARY(fmin)
EMULATED_BINARY(fmod)
EMULATED_BINARY(pow)
#undef EMULATED_UNARY
#undef EMULATED_BINARY
extern "C" double fma(double, double, double) noexcept;
extern "C" float fmaf(float, float, float) noexcept;
DEVICE float fma(float x, float y, float z) { return fmaf(x, y, z); }

template <class Real>
DEVICE bool isnan(Real x) {
    return __builtin_isnan(x);
}
template <class Real>
DEVICE bool isinf(Real x) {
    return __builtin_isinf(x);
}
template <class Real>
DEVICE bool isfinite(Real x) {
    return __builtin_isfinite(x);
}

#define EMULATED_EXTREMES(Type)                                 \
    DEVICE Type min(Type a, Type b) { return a < b ? a : b; }   \
    DEVICE Type max(Type a, Type b) { return a > b ? a : b; }
EMULATED_EXTREMES(int)
EMULATED_EXTREMES(u32)
EMULATED_EXTREMES(i64)
EMULATED_EXTREMES(u64)
#undef EMULATED_EXTREMES
DEVICE float min(float a, float b) { return fminf(a, b); }
DEVICE float max(float a, float b) { return fmaxf(a, b); }
DEVICE double min(double a, double b) { return fmin(a, b); }
DEVICE double max(double a, double b) { return fmax(a, b); }

DEVICE int __popc(u32 x) { return __builtin_popcount(x); }
DEVICE int __clz(u32 x) { return x ? __builtin_clz(x) : 32; }
DEVICE int __ffs(u32 x) { return __builtin_ffs(static_cast<int>(x)); }
DEVICE u32 __umulhi(u32 x, u32 y) { return static_cast<u32>(static_cast<u64>(x) * y >> 32); }
