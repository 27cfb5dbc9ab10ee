// Asynchronous copies: done at once, at the wait that needs them, or by chance at either, as the schedule says.
#pragma once
#include "shared_memory.h"

namespace emulator {

UNSEEN inline void finish_copy(const AsyncCopy& copy) {
    u8* place = shared_place(copy.shared);
    announce_write(place, 16);
    if (copy.global) {
        announce_read(copy.global, 16);
        __builtin_memcpy(place, copy.global, 16);
    } else {
        __builtin_memset(place, 0, 16);
    }
}

// Finish, in order, what the latest `pending` groups do not hold.
UNSEEN inline void finish_copies(Thread& thread, u32 pending) {
    while (thread.copies_done != thread.copies_begun) {
        const AsyncCopy& copy = thread.copies[thread.copies_done % most_copies];
        if (copy.group + pending >= thread.copy_groups) break;
        finish_copy(copy);
        ++thread.copies_done;
    }
}

// What nobody waited for lands when the thread ends.
UNSEEN inline void finish_all_copies(Thread& thread) {
    ++thread.copy_groups;
    finish_copies(thread, 0);
}

}  // namespace emulator

UNSEEN DEVICE void copy_async_16(u32 shared, const void* global, bool read) {
    using namespace emulator;
    check_shared("copy_async_16", shared, 16);
    if (reinterpret_cast<size_t>(global) % 16)
        fail("copy_async_16: global address %p does not lie on 16 bytes", global);
    Machine& machine = *here.machine;
    Thread& thread = *here.thread;
    ++machine.request->statistics.async_copies;
    const AsyncCopy copy = {shared, thread.copy_groups, read ? global : nullptr};
    const bool late = machine.copies == RANDOM_COPIES ? random_number(machine) & 1 : machine.copies == LATE;
    if (!late) {
        finish_copy(copy);
        return;
    }
    if (thread.copies_begun - thread.copies_done == most_copies)
        fail("copy_async_16: more than %u copies under way", most_copies);
    thread.copies[thread.copies_begun++ % most_copies] = copy;
}

UNSEEN DEVICE void copy_async_commit() { ++emulator::here.thread->copy_groups; }

template <int pending>
UNSEEN DEVICE void copy_async_wait() {
    static_assert(pending >= 0, "a number of groups");
    emulator::finish_copies(*emulator::here.thread, pending);
}
