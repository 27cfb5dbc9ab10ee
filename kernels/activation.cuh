// The activations, in the accumulator's type. Comparisons are written so that NaN stays NaN.
#pragma once
#include "device.cuh"

// Positions in stridekit.problems.activations.FUSED.
enum Activation { NO_ACTIVATION = -1, RELU, RELU6, LEAKY_RELU, SILU, GELU };

DEVICE float exponential(float value) { return expf(value); }
DEVICE double exponential(double value) { return exp(value); }

// x * Phi(x) = x / 2 * erfc(-x / sqrt(2)). Far below zero erfc magnifies the rounding of its argument z by 2 z^2, so
// what rounding took from z is put back to first order: erfc'(z) = -2 / sqrt(pi) * exp(-z^2).
DEVICE float gelu(float value) {
    const float high = 0.707106769f, low = 1.21016173e-8f;  // sqrt(1/2) in two floats
    const float z = -value * high;
    const float lost = fmaf(-value, high, -z) - value * low;
    // An infinite argument has no slope to correct, and 0 * infinity would be NaN.
    const float slope = fabsf(z) < 16.f ? 1.12837917f * expf(-z * z) : 0.f;
    return 0.5f * value * (slope == 0.f ? erfcf(z) : fmaf(-slope, lost, erfcf(z)));
}
DEVICE double gelu(double value) { return 0.5 * value * erfc(-value * 0.70710678118654752440); }

template <class Accumulator>
DEVICE Accumulator activate(Accumulator value, int activation, double slope) {
    const Accumulator zero = 0;
    if (activation == NO_ACTIVATION) return value;
    if (activation == RELU) return value < zero ? zero : value;
    if (activation == RELU6) return value < zero ? zero : value > Accumulator(6) ? Accumulator(6) : value;
    if (activation == LEAKY_RELU) return value < zero ? value * static_cast<Accumulator>(slope) : value;
    return activation == SILU ? value / (Accumulator(1) + exponential(-value)) : gelu(value);
}
