// The instructions of `attnref_cupy/warpgroup.cuh`, on a CPU: a factor is found where the manual
// says that the hardware looks for it. A product happens as soon as all of a warpgroup ask for it.
#pragma once
#include "mma.cuh"

using u64 = unsigned long long;

DEVICE u64 factor(u32 address, u32 apart) {
    return u64((address & 0x3ffff) >> 4) | u64(apart >> 4) << 16 | u64(1024 >> 4) << 32 |
           u64(1) << 62;
}

DEVICE void show_to_products() {}
DEVICE void open_products() {}
DEVICE void end_products() {}
template <int N>
DEVICE void wait_products() {}
template <int TILES>
DEVICE void settled(float (&)[TILES][4]) {}

namespace emulator {

// A number of a factor: place `at` along the sixteen that are summed over, of row or column `n`.
template <typename T>
float number_of(u64 told, int n, int at, bool by_columns) {
    const u32 start = u32(told & 0x3fff) << 4, apart = u32(told >> 16 & 0x3fff) << 4;
    const u32 eights = u32(told >> 32 & 0x3fff) << 4;
    u32 place = by_columns ? start + n / 64 * apart + n % 64 * 2 + at / 8 * eights + at % 8 * 128
                           : start + n / 8 * eights + n % 8 * 128 + at * 2;
    place ^= (place >> 7 & 7) << 4;
    T x;
    std::memcpy(&x, shared_memory() + place, 2);
    return widen(x);
}

struct Asked {
    float* c;
    const u32* a;
};
inline Asked asked[1024];

// Have 128 threads wait for each other, and the last of them do what all of them are here for.
template <typename T>
void multiply_together(float* c, int tiles, const u32* a, u64 a_told, u64 b, bool add) {
    asked[current] = {c, a};
    const int first = current / 128 * 128;
    meet(groups[current / 128], 128, [=] {
        std::vector<float> right(16 * 8 * tiles);
        for (int n = 0; n < 8 * tiles; n++)
            for (int k = 0; k < 16; k++) right[n * 16 + k] = number_of<T>(b, n, k, a != nullptr);
        for (int thread = 0; thread < 128; thread++) {
            const int warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
            const Asked& mine = asked[first + thread];
            for (int h = 0; h < 2; h++) {
                float left[16];
                for (int k = 0; k < 16; k++) {
                    if (a) {
                        const u32* of = asked[first + warp * 32 + g * 4 + k % 8 / 2].a;
                        left[k] = half_of<T>(of[h + k / 8 * 2], k % 2);
                    } else {
                        left[k] = number_of<T>(a_told, warp * 16 + g + 8 * h, k, false);
                    }
                }
                for (int n = 0; n < tiles; n++)
                    for (int e = 0; e < 2; e++) {
                        float sum = add ? mine.c[4 * n + 2 * h + e] : 0.0f;
                        for (int k = 0; k < 16; k++)
                            sum += left[k] * right[(8 * n + 2 * t + e) * 16 + k];
                        mine.c[4 * n + 2 * h + e] = sum;
                    }
            }
        }
    });
}

}  // namespace emulator

template <typename T, int TILES>
void multiply_rows(float (&c)[TILES][4], u64 a, u64 b, bool add) {
    emulator::multiply_together<T>(&c[0][0], TILES, nullptr, a, b, add);
}
template <typename T, int TILES>
void multiply_columns(float (&c)[TILES][4], const u32 (&a)[4], u64 b) {
    emulator::multiply_together<T>(&c[0][0], TILES, a, 0, b, true);
}
