// Every element of an (n, c, d, h, w) array, one thread each: which element is whose.
//
// A kernel that walks has this struct in its own; WALK in stridekit/backends/cuda/parameters.py is its twin.
#pragma once
#include "parameters.cuh"

struct Walk {
    i64 elements;
    Divisor by_channels, by_depth, by_row, by_column;
};

// One element.
template <class Index>
struct Place {
    i64 n, c;
    Index at[3];
};

// Neighbouring threads take neighbouring channels where `channels_inside`, else neighbouring columns.
template <class Index, class Unsigned>
DEVICE Place<Index> place_of(const Walk& walk, Unsigned rest, bool channels_inside) {
    Place<Index> place;
    if (channels_inside) place.c = static_cast<i64>(split_off(rest, walk.by_channels));
    place.at[2] = static_cast<Index>(split_off(rest, walk.by_column));
    place.at[1] = static_cast<Index>(split_off(rest, walk.by_row));
    place.at[0] = static_cast<Index>(split_off(rest, walk.by_depth));
    if (!channels_inside) place.c = static_cast<i64>(split_off(rest, walk.by_channels));
    place.n = static_cast<i64>(rest);
    return place;
}

template <class Index>
DEVICE i64 offset_of(const Steps& step, const Place<Index>& place) {
    return place.n * step.n + place.c * step.c + static_cast<i64>(place.at[0]) * step.d +
           static_cast<i64>(place.at[1]) * step.h + static_cast<i64>(place.at[2]) * step.w;
}
