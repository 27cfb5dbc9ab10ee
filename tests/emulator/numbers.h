// Numbers between formats, as the conversions of a GPU round them.
#pragma once
#include "cuda_builtins.h"

DEVICE u64 multiply_high(u64 a, u64 b) { return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64); }

DEVICE float float_from_bits(u32 bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

DEVICE u32 bits_from_float(float value) {
    u32 bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

DEVICE float float_from_half(u16 half) {
    _Float16 value;
    __builtin_memcpy(&value, &half, sizeof value);
    return static_cast<float>(value);
}

DEVICE u16 half_from_float(float value) {
    const _Float16 rounded = static_cast<_Float16>(value);
    u16 half;
    __builtin_memcpy(&half, &rounded, sizeof half);
    return half;
}

DEVICE float float_from_bfloat16(u16 value) { return float_from_bits(static_cast<u32>(value) << 16); }

// Half of the last place kept, less one where that place is even: the carry rounds to nearest, ties to even.
DEVICE u16 bfloat16_from_float(float value) {
    const u32 bits = bits_from_float(value);
    if (isnan(value)) return static_cast<u16>(bits >> 16 | 0x40);
    return static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Half of the last place kept: the carry rounds ties away from zero, and the largest floats to infinity.
DEVICE u32 tf32_from_float(float value) {
    const u32 bits = bits_from_float(value);
    if (isnan(value)) return (bits | 0x400000) & ~0x1fffu;
    return (bits + 0x1000) & ~0x1fffu;
}
