// Where threads meet: the block's barrier, and operations of a whole warp.
#pragma once
#include "machine.h"

// A thread that has exited never arrives: leaving before a barrier is reported, though newer GPUs allow it.
UNSEEN static inline void __syncthreads(CALLED_AT) {
    using namespace emulator;
    Machine& machine = *here.machine;
    Barrier& barrier = machine.barrier;
    const Site site = {"__syncthreads", file, line};
    if (barrier.arrived == 0) barrier.site = site;
    if (!(barrier.site == site))
        fail("divergent __syncthreads: this thread is at %s:%d, others are at %s:%d", file, line, barrier.site.file,
             barrier.site.line);
    Token& token = barrier.generations.now();
    token.release();
    if (++barrier.arrived < machine.thread_count) {
        wait(site);
    } else {
        barrier.arrived = 0;
        barrier.generations.next();
        for (u32 number = 0; number < machine.thread_count; ++number) set_ready(machine, number);
    }
    token.acquire();
}

namespace emulator {

// Each lane in `mask` brings an operand. The last to arrive does the work for all. `aligned` operations must be the
// same instruction for all lanes; others only the same operation, as PTX has it. Lanes of a warp that meet under two
// masks at the same time, which PTX allows, count as diverged: no kernel here does that.
UNSEEN inline void meet(const Site& site, u32 mask, void* operand, void (*complete)(void* const* operands, u32 mask),
                        bool aligned) {
    Machine& machine = *here.machine;
    Thread& me = *here.thread;
    Warp& warp = machine.warps[me.warp];
    mask &= warp.present;
    if (!(mask >> me.lane & 1)) fail_at(site, "the calling lane is not in its own mask");
    if (!warp.arrived) {
        warp.site = site;
        warp.mask = mask;
    } else if (warp.mask != mask || (aligned ? !(warp.site == site) : warp.site.operation != site.operation)) {
        const Site& theirs = warp.site;
        fail("warp divergence: this lane is at %s (%s:%d, mask %08x), others are at %s (%s:%d, mask %08x)",
             site.operation, site.file, site.line, mask, theirs.operation, theirs.file, theirs.line, warp.mask);
    }
    warp.operands[me.lane] = operand;
    warp.arrived |= 1u << me.lane;
    if (warp.arrived != mask) {
        wait(site);
        return;
    }
    warp.arrived = 0;
    complete(warp.operands, mask);
    for (u32 lane = 0; lane < warp_size; ++lane)
        if (mask >> lane & 1) set_ready(machine, me.warp * warp_size + lane);
}

template <class T>
struct Shuffle {
    T value, result;
    u32 source;

    UNSEEN static void complete(void* const* operands, u32 mask) {
        for (u32 lane = 0; lane < warp_size; ++lane) {
            if (!(mask >> lane & 1)) continue;
            Shuffle& mine = *static_cast<Shuffle*>(operands[lane]);
            // A lane that is not there has no value: the hardware's is undefined, this one is the lane's own.
            const bool there = mask >> mine.source & 1;
            mine.result = there ? static_cast<Shuffle*>(operands[mine.source])->value : mine.value;
        }
    }
};

template <class T>
UNSEEN T shuffle(const Site& site, u32 mask, T value, u32 source) {
    Shuffle<T> operand = {value, value, source};
    meet(site, mask, &operand, Shuffle<T>::complete, false);
    return operand.result;
}

struct Vote {
    bool holds;
    u32 ballot;

    UNSEEN static void complete(void* const* operands, u32 mask) {
        u32 ballot = 0;
        for (u32 lane = 0; lane < warp_size; ++lane)
            if ((mask >> lane & 1) && static_cast<Vote*>(operands[lane])->holds) ballot |= 1u << lane;
        for (u32 lane = 0; lane < warp_size; ++lane)
            if (mask >> lane & 1) static_cast<Vote*>(operands[lane])->ballot = ballot;
    }
};

UNSEEN inline void next_generation(void* const*, u32) {
    here.machine->warps[here.thread->warp].generations.next();
}

}  // namespace emulator

// Of a warp's operations only this one orders memory accesses.
UNSEEN static inline void __syncwarp(u32 mask = ~0u, CALLED_AT) {
    using namespace emulator;
    Token& token = here.machine->warps[here.thread->warp].generations.now();
    token.release();
    meet({"__syncwarp", file, line}, mask, nullptr, next_generation, false);
    token.acquire();
}

template <class T>
static inline T __shfl_sync(u32 mask, T value, int source, int width = 32, CALLED_AT) {
    const u32 group = emulator::here.thread->lane & ~static_cast<u32>(width - 1);
    const u32 within = static_cast<u32>(source) & static_cast<u32>(width - 1);
    return emulator::shuffle({"__shfl_sync", file, line}, mask, value, group | within);
}

template <class T>
static inline T __shfl_xor_sync(u32 mask, T value, int lanes, int width = 32, CALLED_AT) {
    const u32 lane = emulator::here.thread->lane, source = lane ^ static_cast<u32>(lanes);
    // Beyond its own group a lane may read from groups below, not above.
    const bool reachable = source / width <= lane / width;
    return emulator::shuffle({"__shfl_xor_sync", file, line}, mask, value, reachable ? source : lane);
}

template <class T>
static inline T __shfl_down_sync(u32 mask, T value, u32 lanes, int width = 32, CALLED_AT) {
    const u32 lane = emulator::here.thread->lane;
    const bool reachable = lane % width + lanes < static_cast<u32>(width);
    return emulator::shuffle({"__shfl_down_sync", file, line}, mask, value, reachable ? lane + lanes : lane);
}

template <class T>
static inline T __shfl_up_sync(u32 mask, T value, u32 lanes, int width = 32, CALLED_AT) {
    const u32 lane = emulator::here.thread->lane;
    const bool reachable = lane % width >= lanes;
    return emulator::shuffle({"__shfl_up_sync", file, line}, mask, value, reachable ? lane - lanes : lane);
}

static inline u32 __ballot_sync(u32 mask, int predicate, CALLED_AT) {
    emulator::Vote vote = {predicate != 0, 0};
    emulator::meet({"__ballot_sync", file, line}, mask, &vote, emulator::Vote::complete, false);
    return vote.ballot;
}
static inline int __any_sync(u32 mask, int predicate, CALLED_AT) {
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(u32 mask, int predicate, CALLED_AT) {
    return __ballot_sync(mask, !predicate, file, line) == 0;
}
