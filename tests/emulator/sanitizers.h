// What AddressSanitizer and ThreadSanitizer must be told about fibers and about hardware that reads and writes memory.
//
// For ThreadSanitizer every CUDA thread is a thread of its own: it finds two accesses to shared memory with no barrier
// between them whatever the schedule. The emulator's own data must stay out of its sight, hence UNSEEN.
#pragma once
#include <stddef.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define UNSEEN __attribute__((no_sanitize("thread")))

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
void __tsan_read_range(void* start, unsigned long bytes);
void __tsan_write_range(void* start, unsigned long bytes);
}
#endif

namespace emulator {

// GCC expands small copies after its ThreadSanitizer pass, where they go unseen: what stands for a memory access of the
// hardware is announced beside the copy.
UNSEEN inline void announce_read(const void* start, size_t bytes) {
#if defined(__SANITIZE_THREAD__)
    __tsan_read_range(const_cast<void*>(start), bytes);
#else
    (void)start, (void)bytes;
#endif
}

UNSEEN inline void announce_write(void* start, size_t bytes) {
#if defined(__SANITIZE_THREAD__)
    __tsan_write_range(start, bytes);
#else
    (void)start, (void)bytes;
#endif
}

// What a thread did before it released a token happens before what a thread does once it has acquired it.
struct Token {
    char place;

    UNSEEN void release() {
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&place);
#endif
    }
    UNSEEN void acquire() {
#if defined(__SANITIZE_THREAD__)
        __tsan_acquire(&place);
#endif
    }
};

// The tokens of a barrier that is used again and again. One token for all generations would order a thread's accesses
// after the barrier before those of a latecomer to the same barrier, and hide races; two by turns do not.
struct Generations {
    Token tokens[2];
    unsigned generation;

    UNSEEN Token& now() { return tokens[generation & 1]; }
    UNSEEN void next() { ++generation; }
};

// memset is one of the functions that ThreadSanitizer watches.
UNSEEN inline void fill(void* start, unsigned char value, size_t bytes) {
#if defined(__SANITIZE_THREAD__)
    volatile unsigned char* at = static_cast<unsigned char*>(start);
    for (size_t i = 0; i < bytes; ++i) at[i] = value;
#else
    __builtin_memset(start, value, bytes);
#endif
}

}  // namespace emulator
