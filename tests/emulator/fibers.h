// Fibers: each CUDA thread has a stack of its own, and switches to another thread only where it waits.
#pragma once
#include <stdlib.h>
#include <sys/mman.h>

#include "sanitizers.h"

#if !defined(__x86_64__) || !defined(__linux__)
#error "the emulator switches stacks in x86-64 assembly, for Linux: write emulator_switch for this machine"
#endif

// Saves what a function must preserve, leaves the stack pointer in *from, and goes on where `to` was left.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size emulator_switch, .-emulator_switch
)");

namespace emulator {

// Frames grow under the sanitizers: red zones, no sharing of slots. Pages are taken as they are touched. The odd lines
// keep the tops of all stacks from falling into the same set of the cache.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t stack_bytes = (512 << 10) + 9 * 64;
#else
constexpr size_t stack_bytes = (128 << 10) + 9 * 64;
#endif
constexpr unsigned long long stack_mark = 0x5afe57ac6e4d0f11;

struct Fiber {
    void* stack_pointer;
    void* bottom;      // lowest address of the stack
    size_t bytes;
    void* fake_stack;  // AddressSanitizer's
    void* twin;        // ThreadSanitizer's

    UNSEEN void use(void* stack) {
        bottom = stack;
        bytes = stack_bytes;
        *static_cast<unsigned long long*>(stack) = stack_mark;
    }
    UNSEEN void restart(void (*body)()) {
        fake_stack = nullptr;
        void** top = reinterpret_cast<void**>(static_cast<char*>(bottom) + stack_bytes);
        // `body` is entered as by a call: a return address, null so that stack traces end there, on 16 bytes less 8.
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(body);
        for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
        stack_pointer = top;
    }
    UNSEEN bool overflowed() const { return *static_cast<unsigned long long*>(bottom) != stack_mark; }

    UNSEEN void create_twin() {
#if defined(__SANITIZE_THREAD__)
        twin = __tsan_create_fiber(0);
#endif
    }
    UNSEEN void take_twin() {
#if defined(__SANITIZE_THREAD__)
        twin = __tsan_get_current_fiber();
#endif
    }
    UNSEEN void destroy_twin() {
#if defined(__SANITIZE_THREAD__)
        __tsan_destroy_fiber(twin);
#endif
    }
};

// From one fiber to another; `last` where `from` never runs again.
UNSEEN __attribute__((noinline)) inline void switch_fibers(Fiber& from, Fiber& to, bool last) {
    (void)last;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.bottom, to.bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.twin, 1);  // 1: the switch itself orders nothing
#endif
    emulator_switch(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// What a fiber did that is never resumed happens before what `other`, the running one, does next.
UNSEEN inline void abandon(Fiber& fiber, Fiber& other) {
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.twin, 1);
    __tsan_switch_to_fiber(other.twin, 0);
#else
    (void)fiber, (void)other;
#endif
}

class Stacks {
   public:
    UNSEEN bool map(size_t count) {
        unmap();
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* mapped = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (mapped == MAP_FAILED) return false;
        start_ = static_cast<char*>(mapped);
        count_ = count;
        return true;
    }
    UNSEEN void* operator[](size_t number) const { return start_ + number * stack_bytes; }

    // Frames that never returned, after a failure, have left their red zones behind.
    UNSEEN void unmap() {
        if (!start_) return;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(start_, count_ * stack_bytes);
#endif
        munmap(start_, count_ * stack_bytes);
        start_ = nullptr;
        count_ = 0;
    }

   private:
    char* start_ = nullptr;
    size_t count_ = 0;
};

}  // namespace emulator
