// Dynamic shared memory: plain memory for plain accesses, which AddressSanitizer guards, and 32-bit addresses for the
// instructions, checked here.
#pragma once
#include "machine.h"

#define SHARED_MEMORY(name) u8* const name = emulator::here.machine->shared

namespace emulator {

// Not zero, so that an address which is none is noticed.
constexpr u32 first_shared_address = 1024;

inline void check_shared(const char* operation, u32 address, u32 bytes) {
    const Machine& machine = *here.machine;
    if (address % bytes) fail("%s: shared address 0x%x does not lie on %u bytes", operation, address, bytes);
    if (address < first_shared_address || u64(address) + bytes > u64(first_shared_address) + machine.shared_bytes)
        fail("%s: shared address 0x%x lies %lld bytes into the block's %u bytes of shared memory", operation, address,
             static_cast<i64>(address) - first_shared_address, machine.shared_bytes);
}

UNSEEN inline u8* shared_place(u32 address) { return here.machine->shared + (address - first_shared_address); }

}  // namespace emulator

DEVICE u32 shared_address(const void* pointer) {
    using namespace emulator;
    const Machine& machine = *here.machine;
    const i64 offset = static_cast<const u8*>(pointer) - machine.shared;
    if (offset < 0 || offset > static_cast<i64>(machine.shared_bytes))
        fail("shared_address: a pointer that is %lld bytes from the start of %u bytes of shared memory", offset,
             machine.shared_bytes);
    return static_cast<u32>(offset) + first_shared_address;
}

DEVICE void store_shared_16(u32 shared, u32 a, u32 b, u32 c, u32 d) {
    using namespace emulator;
    check_shared("store_shared_16", shared, 16);
    const u32 words[4] = {a, b, c, d};
    announce_write(shared_place(shared), 16);
    __builtin_memcpy(shared_place(shared), words, 16);
}
