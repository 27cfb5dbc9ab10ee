// The epilogue: what happens to a sum of the convolution once it is complete, in the accumulator's type.
#pragma once
#include "activation.cuh"
#include "elements.cuh"
#include "parameters.cuh"

// Whether there is anything to do.
DEVICE bool finishes(const ConvParameters& P) { return P.bias || P.residual || P.activation != NO_ACTIVATION; }

// The sum of filter `k` of all. `offset` tells where the output pixel lies in an array over them, given its steps.
template <class Element, class Offset>
DEVICE typename Element::Accumulator finished(const ConvParameters& P, typename Element::Accumulator sum, i64 k,
                                              const Offset& offset) {
    typedef typename Element::Storage Storage;
    if (P.bias) sum += Element::widen(static_cast<const Storage*>(P.bias)[k * P.bias_step]);
    if (P.residual)
        sum += Element::widen(static_cast<const Storage*>(P.residual)[offset(P.residual_step) + k * P.residual_step.c]);
    return activate(sum, static_cast<int>(P.activation), P.slope);
}
