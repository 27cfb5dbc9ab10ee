// The machine that runs a grid: block after block, and of a block one thread at a time, until it waits. Here is its
// state, the choice of the thread that runs next, and the end of a launch that fails.
#pragma once
#include <stdarg.h>
#include <stdio.h>

#include "cuda_builtins.h"
#include "fibers.h"

namespace emulator {

constexpr u32 warp_size = 32, most_threads = 1024, most_shared_bytes = 232448;

// What a launch asks for, and what comes back; twin of _Launch in machine.py.
struct Statistics {
    u64 blocks, switches, async_copies, matrix_loads, bank_conflicts, matrix_products;
};
enum Order { ASCENDING, DESCENDING, RANDOM_ORDER };
enum Copies { EARLY, LATE, RANDOM_COPIES };
struct Request {
    const char* entry;
    dim3 grid, block;
    u32 shared_bytes;
    int order, copies;
    u64 seed;
    const void* parameters;
    u64 parameter_bytes;
    Statistics statistics;
    char message[1024];
};

// Where a thread waits, for messages.
struct Site {
    const char* operation;
    const char* file;
    int line;

    UNSEEN bool operator==(const Site& other) const {
        return operation == other.operation && file == other.file && line == other.line;
    }
};
// A parameter that tells where its function was called.
#define CALLED_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct AsyncCopy {
    u32 shared, group;
    const void* global;  // null: zeros
};
constexpr u32 most_copies = 256;

struct Thread {
    Fiber fiber;
    dim3 index;
    u32 number, lane, warp;
    bool done;
    Site waits;
    u32 copies_begun, copies_done, copy_groups;  // counted from the block's start
    AsyncCopy* copies;                           // a ring of most_copies
};

struct Warp {
    u32 present, arrived, mask;
    Site site;
    void* operands[warp_size];
    Generations generations;
};

struct Barrier {
    u32 arrived;
    Site site;
    Generations generations;
};

struct Entry;  // launcher.h

struct Machine {
    Request* request;
    dim3 grid, block, block_index;
    u32 thread_count, live;
    u64 ready[most_threads / 64];  // a bit a thread
    Warp warps[most_threads / warp_size];
    Barrier barrier;
    u8* shared;
    u32 shared_bytes;
    int order, copies;
    u64 random_state;
    Thread* threads;
    Fiber launcher;
    // Two, lest what a thread that has finished did be ordered before what one does that starts later.
    Token started, finished;
    bool failed;
    const Entry* entry;
};

// Each launching thread has a machine of its own.
struct Here {
    Machine* machine;
    Thread* thread;
};
inline thread_local Here here;

UNSEEN inline u32 random_number(Machine& machine) {  // Marsaglia's xorshift64
    u64& state = machine.random_state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return static_cast<u32>(state >> 32);
}

UNSEEN inline void set_ready(Machine& machine, u32 number) { machine.ready[number / 64] |= 1ull << number % 64; }
UNSEEN inline void set_waiting(Machine& machine, u32 number) { machine.ready[number / 64] &= ~(1ull << number % 64); }

// The next thread that can run, at or beyond `start` in the schedule's direction, round the end; null if none can.
UNSEEN inline Thread* next_ready(Machine& machine, u32 start) {
    const u32 words = (machine.thread_count + 63) / 64;
    const bool down = machine.order == DESCENDING;
    if (machine.order == RANDOM_ORDER) start = random_number(machine) % machine.thread_count;
    u32 word = start / 64;
    const u64 below = (2ull << start % 64) - 1, above = ~0ull << start % 64;
    u64 candidates = machine.ready[word] & (down ? below : above);
    for (u32 visited = 0; !candidates; ++visited) {
        if (visited == words) return nullptr;
        word = (word + (down ? words - 1 : 1)) % words;
        candidates = machine.ready[word];
    }
    const int bit = down ? 63 - __builtin_clzll(candidates) : __builtin_ctzll(candidates);
    return &machine.threads[word * 64 + static_cast<u32>(bit)];
}

UNSEEN inline void switch_to_thread(Machine& machine, Thread& next) {
    Thread& me = *here.thread;
    here.thread = &next;
    ++machine.request->statistics.switches;
    switch_fibers(me.fiber, next.fiber, me.done);
}

[[noreturn]] UNSEEN inline void leave(Machine& machine) {
    Thread& me = *here.thread;
    here.thread = nullptr;
    machine.finished.release();
    switch_fibers(me.fiber, machine.launcher, me.done);
    __builtin_unreachable();
}

// End the launch. The other threads are never resumed.
[[noreturn]] __attribute__((format(printf, 1, 2))) inline void fail(const char* format, ...) {
    Machine& machine = *here.machine;
    char* message = machine.request->message;
    const size_t bytes = sizeof machine.request->message;
    const dim3 block = machine.block_index, thread = here.thread->index;
    const int length = snprintf(message, bytes, "block (%u, %u, %u), thread (%u, %u, %u): ", block.x, block.y, block.z,
                                thread.x, thread.y, thread.z);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + length, bytes - static_cast<size_t>(length), format, arguments);
    va_end(arguments);
    machine.failed = true;
    leave(machine);
}

[[noreturn]] inline void fail_at(const Site& site, const char* what) {
    fail("%s at %s:%d: %s", site.operation, site.file, site.line, what);
}

// Threads that wait at the same place are named together.
[[noreturn]] inline void fail_in_deadlock(const Machine& machine) {
    char text[768];
    int length = 0;
    u32 exited = 0;
    bool told[most_threads] = {};
    for (u32 first = 0; first < machine.thread_count; ++first) {
        const Thread& thread = machine.threads[first];
        exited += thread.done;
        if (thread.done || told[first]) continue;
        u32 count = 0;
        for (u32 other = first; other < machine.thread_count; ++other) {
            const bool same = !machine.threads[other].done && machine.threads[other].waits == thread.waits;
            told[other] |= same;
            count += same;
        }
        if (length < static_cast<int>(sizeof text) - 200)
            length += snprintf(text + length, 200, "%u waiting at %s (%.100s:%d), the first being thread %u; ", count,
                               thread.waits.operation, thread.waits.file, thread.waits.line, first);
    }
    fail("deadlock: %s%u of %u threads have exited", text, exited, machine.thread_count);
}

// Let others run until one of them sets this thread ready.
UNSEEN inline void wait(const Site& site) {
    Machine& machine = *here.machine;
    Thread& me = *here.thread;
    me.waits = site;
    set_waiting(machine, me.number);
    Thread* next = next_ready(machine, me.number);
    if (!next) fail_in_deadlock(machine);
    switch_to_thread(machine, *next);
}

}  // namespace emulator

#define threadIdx (emulator::here.thread->index)
#define blockIdx (emulator::here.machine->block_index)
#define blockDim (emulator::here.machine->block)
#define gridDim (emulator::here.machine->grid)
