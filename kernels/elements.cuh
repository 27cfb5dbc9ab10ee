// The element types: how each is stored, what it is summed in, and the way between the two.
#pragma once
#include "device.cuh"

struct Float16 {
    typedef u16 Storage;
    typedef float Accumulator;
    DEVICE float widen(u16 value) { return float_from_half(value); }
    DEVICE u16 round(float value) { return half_from_float(value); }
};

struct BFloat16 {
    typedef u16 Storage;
    typedef float Accumulator;
    DEVICE float widen(u16 value) { return float_from_bfloat16(value); }
    DEVICE u16 round(float value) { return bfloat16_from_float(value); }
};

struct Float32 {
    typedef float Storage;
    typedef float Accumulator;
    DEVICE float widen(float value) { return value; }
    DEVICE float round(float value) { return value; }
};

struct Float64 {
    typedef double Storage;
    typedef double Accumulator;
    DEVICE double widen(double value) { return value; }
    DEVICE double round(double value) { return value; }
};

DEVICE float multiply_add(float a, float b, float sum) { return fmaf(a, b, sum); }
DEVICE double multiply_add(double a, double b, double sum) { return fma(a, b, sum); }
