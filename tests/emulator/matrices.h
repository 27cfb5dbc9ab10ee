// Matrix fragments: ldmatrix and mma.sync, laid out as in the PTX ISA, section "Warp Level Matrix Instructions".
#pragma once
#include "collectives.h"
#include "numbers.h"
#include "shared_memory.h"

namespace emulator {

struct MatrixLoad {
    u32 row_address;  // of row lane % 8 of matrix lane / 8
    u32 rows[4];      // of row lane / 4 of each matrix

    // The eight rows of a matrix are read at once, unless two different ones lie in the same sixteen of the 128 bytes
    // that the 32 banks are wide: then again for each.
    UNSEEN static u32 conflicts(void* const* lanes) {
        u32 addresses[8], most = 1;
        for (int row = 0; row < 8; ++row) addresses[row] = static_cast<MatrixLoad*>(lanes[row])->row_address;
        for (int row = 0; row < 8; ++row) {
            u32 count = 1;
            for (int other = 0; other < row; ++other) {
                const bool same_banks = addresses[other] / 16 % 8 == addresses[row] / 16 % 8;
                count += same_banks && addresses[other] != addresses[row];
            }
            if (count > most) most = count;
        }
        return most - 1;
    }
    UNSEEN static void complete(void* const* lanes, u32) {
        Statistics& statistics = here.machine->request->statistics;
        ++statistics.matrix_loads;
        for (int matrix = 0; matrix < 4; ++matrix) {
            statistics.bank_conflicts += conflicts(lanes + 8 * matrix);
            for (int lane = 0; lane < 32; ++lane)
                static_cast<MatrixLoad*>(lanes[lane])->rows[matrix] =
                    static_cast<MatrixLoad*>(lanes[8 * matrix + lane / 4])->row_address;
        }
    }
};

}  // namespace emulator

UNSEEN DEVICE void load_matrices(u32 (&fragment)[4], u32 row_address, CALLED_AT) {
    using namespace emulator;
    check_shared("load_matrices", row_address, 16);
    MatrixLoad load;
    load.row_address = row_address;
    meet({"load_matrices", file, line}, ~0u, &load, MatrixLoad::complete, true);
    // Each lane reads for itself, so that a sanitizer blames the right one.
    for (int matrix = 0; matrix < 4; ++matrix) {
        const u8* element = shared_place(load.rows[matrix]) + here.thread->lane % 4 * 4;
        announce_read(element, 4);
        __builtin_memcpy(&fragment[matrix], element, 4);
    }
}

namespace emulator {

typedef float Row __attribute__((vector_size(32)));  // of b and of the sum: 8 columns

struct HalfElement {
    UNSEEN static float widen(u16 bits) { return float_from_half(bits); }
};
struct BFloat16Element {
    UNSEEN static float widen(u16 bits) { return float_from_bfloat16(bits); }
};

struct Product {
    float* sum;
    const u32 *a, *b;

    // Lane 4 * g + t holds, of the sum, rows g and g + 8 at columns 2t and 2t + 1; of a, the same rows, at k = 2t and
    // 2t + 1, and 8 further; of b, column g at the same k.
    template <class Element>
    UNSEEN static void complete_16_bit(void* const* lanes, u32) {
        float a[16][16];
        Row b[16], sum[16];
        for (int lane = 0; lane < 32; ++lane) {
            const Product& part = *static_cast<const Product*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i) {
                float* pair = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
                pair[0] = Element::widen(static_cast<u16>(part.a[i]));
                pair[1] = Element::widen(static_cast<u16>(part.a[i] >> 16));
                sum[g + i / 2 * 8][2 * t + i % 2] = part.sum[i];
            }
            for (int i = 0; i < 2; ++i) {
                b[2 * t + i * 8][g] = Element::widen(static_cast<u16>(part.b[i]));
                b[2 * t + i * 8 + 1][g] = Element::widen(static_cast<u16>(part.b[i] >> 16));
            }
        }
        finish<16>(lanes, a, b, sum);
    }

    // One element a register: of a, rows g and g + 8 at k = t, and 4 further; of b, column g at the same k. The
    // hardware does not look at the 13 low bits.
    UNSEEN static void complete_tf32(void* const* lanes, u32) {
        float a[16][8];
        Row b[8], sum[16];
        for (int lane = 0; lane < 32; ++lane) {
            const Product& part = *static_cast<const Product*>(lanes[lane]);
            const int g = lane / 4, t = lane % 4;
            for (int i = 0; i < 4; ++i) {
                a[g + i % 2 * 8][t + i / 2 * 4] = float_from_bits(part.a[i] & ~0x1fffu);
                sum[g + i / 2 * 8][2 * t + i % 2] = part.sum[i];
            }
            for (int i = 0; i < 2; ++i) b[t + i * 4][g] = float_from_bits(part.b[i] & ~0x1fffu);
        }
        finish<8>(lanes, a, b, sum);
    }

    // Rounds after every product; the hardware rounds otherwise, and where nothing is rounded both agree.
    template <int depth>
    UNSEEN static void finish(void* const* lanes, float (&a)[16][depth], Row (&b)[depth], Row (&sum)[16]) {
        ++here.machine->request->statistics.matrix_products;
        for (int row = 0; row < 16; ++row) {
            Row total = sum[row];
            for (int k = 0; k < depth; ++k) total += a[row][k] * b[k];
            sum[row] = total;
        }
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i)
                static_cast<Product*>(lanes[lane])->sum[i] = sum[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
    }
};

}  // namespace emulator

UNSEEN DEVICE void multiply_half(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2], CALLED_AT) {
    using namespace emulator;
    Product product = {sum, a, b};
    meet({"multiply_half", file, line}, ~0u, &product, Product::complete_16_bit<HalfElement>, true);
}
UNSEEN DEVICE void multiply_bfloat16(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2], CALLED_AT) {
    using namespace emulator;
    Product product = {sum, a, b};
    meet({"multiply_bfloat16", file, line}, ~0u, &product, Product::complete_16_bit<BFloat16Element>, true);
}
UNSEEN DEVICE void multiply_tf32(float (&sum)[4], const u32 (&a)[4], const u32 (&b)[2], CALLED_AT) {
    using namespace emulator;
    Product product = {sum, a, b};
    meet({"multiply_tf32", file, line}, ~0u, &product, Product::complete_tf32, true);
}
