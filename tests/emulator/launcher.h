// The way in from Python: finds an entry by its name, checks what CUDA checks at a launch, runs the grid.
#pragma once
#include "async_copies.h"
#include "machine.h"

namespace emulator {

// One for each EXPORT, in a list.
struct Entry {
    const char* name;
    u64 parameter_bytes;
    void (*kernel)();
    void (*call)(const Entry& entry, const void* parameters);
    Entry* next;
};
inline Entry* entries = nullptr;

template <class Parameters>
struct Registration : Entry {
    Registration(const char* name, void (*kernel)(Parameters)) {
        static_assert(__is_trivially_copyable(Parameters), "parameters travel as bytes");
        *static_cast<Entry*>(this) = {name, sizeof(Parameters), reinterpret_cast<void (*)()>(kernel), run, entries};
        entries = this;
    }
    UNSEEN static void run(const Entry& entry, const void* parameters) {
        reinterpret_cast<void (*)(Parameters)>(entry.kernel)(*static_cast<const Parameters*>(parameters));
    }
};

// The first frame of every fiber. It never returns, so it must leave no red zones behind.
UNSEEN __attribute__((no_sanitize("address"))) inline void thread_body() {
    Machine& machine = *here.machine;
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!machine.launcher.bottom) {  // the first switch of a launch comes from its launcher
        machine.launcher.bottom = const_cast<void*>(bottom);
        machine.launcher.bytes = bytes;
    }
#endif
    machine.started.acquire();
    machine.entry->call(*machine.entry, machine.request->parameters);
    Thread& me = *here.thread;
    finish_all_copies(me);
    if (me.fiber.overflowed()) fail("the thread needs more stack than the emulator's %zu bytes", stack_bytes);
    machine.finished.release();
    me.done = true;
    set_waiting(machine, me.number);
    if (--machine.live == 0) leave(machine);
    Thread* next = next_ready(machine, me.number);
    if (!next) fail_in_deadlock(machine);
    switch_to_thread(machine, *next);
    __builtin_unreachable();
}

UNSEEN inline void run_block(Machine& machine, u64 number) {
    const dim3 grid = machine.grid, block = machine.block;
    machine.block_index = {static_cast<u32>(number % grid.x), static_cast<u32>(number / grid.x % grid.y),
                           static_cast<u32>(number / grid.x / grid.y)};
    fill(machine.shared, 0xff, machine.shared_bytes);  // NaN in every format
    machine.live = machine.thread_count;
    for (u32 i = 0; i < machine.thread_count; ++i) {
        Thread& thread = machine.threads[i];
        thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        thread.done = false;
        thread.copies_begun = thread.copies_done = thread.copy_groups = 0;
        thread.fiber.restart(thread_body);
        set_ready(machine, i);
    }
    ++machine.request->statistics.blocks;
    machine.started.release();
    here.thread = next_ready(machine, machine.order == DESCENDING ? machine.thread_count - 1 : 0);
    switch_fibers(machine.launcher, here.thread->fiber, false);
    machine.finished.acquire();
}

// Random order walks through the blocks in steps that have no factor in common with their number.
UNSEEN inline void run_grid(Machine& machine) {
    const u64 blocks = u64(machine.grid.x) * machine.grid.y * machine.grid.z;
    u64 step = 1, number = 0;
    if (machine.order == DESCENDING) {
        step = blocks - 1;
        number = blocks - 1;
    } else if (machine.order == RANDOM_ORDER) {
        number = random_number(machine) % blocks;
        for (u64 a = 0, b; a != 1;) {
            step = 1 + random_number(machine) % blocks;
            a = step, b = blocks;
            while (b) {
                const u64 rest = a % b;
                a = b, b = rest;
            }
        }
    }
    for (u64 done = 0; done < blocks && !machine.failed; ++done) {
        run_block(machine, number);
        number += step;
        if (number >= blocks) number -= blocks;
    }
}

__attribute__((format(printf, 2, 3))) inline bool refuse(Request& request, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(request.message, sizeof request.message, format, arguments);
    va_end(arguments);
    return false;
}

inline bool may_launch(Request& request, const Entry* entry) {
    const dim3 grid = request.grid, block = request.block;
    if (!entry) return refuse(request, "no entry is called %s", request.entry);
    if (entry->parameter_bytes != request.parameter_bytes)
        return refuse(request, "%s takes a struct of %llu bytes, and is given %llu", request.entry,
                      entry->parameter_bytes, request.parameter_bytes);
    if (!block.x || !block.y || !block.z || block.x > most_threads || block.y > most_threads || block.z > 64 ||
        block.x * block.y * block.z > most_threads)
        return refuse(request, "a block of (%u, %u, %u) threads: at most %u, and 64 along z", block.x, block.y, block.z,
                      most_threads);
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return refuse(request, "a grid of (%u, %u, %u) blocks: at most (2^31 - 1, 65535, 65535), at least 1", grid.x,
                      grid.y, grid.z);
    if (request.shared_bytes > most_shared_bytes)
        return refuse(request, "%u bytes of dynamic shared memory: at most %u", request.shared_bytes,
                      most_shared_bytes);
    return true;
}

// What a launching thread keeps from one launch to the next: to map the stacks and touch them first costs more than
// most launches of a test.
struct Resources {
    Machine machine;
    Stacks stacks;
    Thread* threads = nullptr;
    AsyncCopy* copies = nullptr;
    u32 thread_count = 0;
    ~Resources() { discard(); }

    UNSEEN bool prepare(u32 count) {
        if (count <= thread_count) return true;
        discard();
        if (!stacks.map(count)) return false;
        threads = static_cast<Thread*>(calloc(count, sizeof(Thread)));
        copies = static_cast<AsyncCopy*>(calloc(count * most_copies, sizeof(AsyncCopy)));
        if (!threads || !copies) return false;
        thread_count = count;
        for (u32 i = 0; i < count; ++i) {
            threads[i].copies = copies + i * most_copies;
            threads[i].fiber.create_twin();
        }
        return true;
    }
    UNSEEN void discard() {
        for (u32 i = 0; i < thread_count; ++i) threads[i].fiber.destroy_twin();
        free(threads);
        free(copies);
        stacks.unmap();
        threads = nullptr;
        copies = nullptr;
        thread_count = 0;
    }
};
inline thread_local Resources resources;

UNSEEN inline void begin(Machine& machine, Request& request, u8* shared) {
    fill(&machine, 0, sizeof machine);
    machine.request = &request;
    machine.grid = request.grid;
    machine.block = request.block;
    machine.thread_count = request.block.x * request.block.y * request.block.z;
    machine.shared = shared;
    machine.shared_bytes = request.shared_bytes;
    machine.order = request.order;
    machine.copies = request.copies;
    machine.random_state = request.seed * 0x9e3779b97f4a7c15 + 88172645463325252;
    if (!machine.random_state) machine.random_state = 1;  // xorshift never leaves zero
    machine.threads = resources.threads;
    machine.launcher.take_twin();
    for (u32 i = 0; i < machine.thread_count; ++i) {
        Thread& thread = machine.threads[i];
        thread.number = i;
        thread.lane = i % warp_size;
        thread.warp = i / warp_size;
        machine.warps[thread.warp].present |= 1u << thread.lane;
        thread.fiber.use(resources.stacks[i]);
    }
}

// Threads that a failure left where they were cannot be used again.
UNSEEN inline void clear_away(Machine& machine) {
    for (u32 i = 0; i < machine.thread_count; ++i) abandon(machine.threads[i].fiber, machine.launcher);
    resources.discard();
}

}  // namespace emulator

// Returns 0, or 1 with a message in the request.
extern "C" UNSEEN __attribute__((visibility("default"))) int emulator_launch(emulator::Request* request) {
    using namespace emulator;
    const Entry* entry = entries;
    while (entry && __builtin_strcmp(entry->name, request->entry)) entry = entry->next;
    if (!may_launch(*request, entry)) return 1;
    // Allocated to the byte, so that AddressSanitizer sees its end.
    void* shared = nullptr;
    const u32 count = request->block.x * request->block.y * request->block.z;
    if (!resources.prepare(count) || posix_memalign(&shared, 1024, request->shared_bytes ? request->shared_bytes : 1)) {
        refuse(*request, "no memory for a block of %u threads", count);
        return 1;
    }
    Machine& machine = resources.machine;
    begin(machine, *request, static_cast<u8*>(shared));
    here = {&machine, nullptr};
    machine.entry = entry;
    run_grid(machine);
    here = {};
    free(shared);
    if (machine.failed) clear_away(machine);
#if defined(__SANITIZE_THREAD__)
    // It knows 8128 threads at most, and each library has twins of its own.
    resources.discard();
#endif
    return machine.failed;
}

// The name is expanded first: a kernel's entry may be a macro.
#define EXPORT(entry) EMULATOR_REGISTER(entry)
#define EMULATOR_REGISTER(entry) static emulator::Registration emulator_entry_##entry(#entry, entry);
