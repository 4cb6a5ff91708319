// The instructions of `attnref_cupy/mma.cuh`, on a CPU: for tests, slowly, and exactly enough.
//
// A thread of a block is a fiber. Fibers of a warp wait for each other at every instruction
// that the warp executes together; all of a block wait at a barrier. In between they run in
// turn, one warp as far as it gets before the next, which is what an unfortunate GPU does.
// Asynchronous copies happen as early as they may (`EAGER`) or as late as they may: a kernel
// that forgets to wait, or overwrites what another warp still reads, is wrong in one of both.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#define DEVICE inline __attribute__((always_inline))
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;
struct uint2 {
    u32 x, y;
};
struct uint4 {
    u32 x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

struct Index {
    int x;
};

namespace emulator {

struct Copy {
    unsigned char* to;
    const void* from;
    bool real;

    void run() const {
        if (real) {
            std::memcpy(to, from, 16);
        } else {
            std::memset(to, 0, 16);
        }
    }
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

struct Meeting {
    int arrived = 0;
    unsigned round = 0;
};

constexpr int STACK = 1 << 18;

inline bool eager = std::getenv("EAGER") != nullptr;
inline std::vector<Fiber> fibers;
inline std::vector<Meeting> warps, groups;
inline Meeting block;
inline ucontext_t scheduler;
inline int current = 0;
inline int alive = 0;
inline std::vector<unsigned char> memory;
inline std::function<void()> body;
inline Index thread_index, block_index, grid_size, block_size;

struct Exchange {
    u32 in[32][10];
    u32 out[32][4];
};
inline std::vector<Exchange> exchanges;

inline void yield() {
    swapcontext(&fibers[current].context, &scheduler);
}

inline void meet(Meeting& meeting, int members, const std::function<void()>& act) {
    const unsigned round = meeting.round;
    if (++meeting.arrived == members) {
        act();
        meeting.arrived = 0;
        meeting.round++;
    } else {
        while (meeting.round == round) yield();
    }
}

inline int lanes() { return std::min(32, block_size.x - current / 32 * 32); }

template <typename Act>
void together(const Act& act) {
    const int warp = current / 32;
    meet(warps[warp], lanes(), [&] { act(exchanges[warp]); });
}

inline void start() {
    body();
    fibers[current].done = true;
    alive--;
    yield();
}

inline void run_block(int threads) {
    if (int(fibers.size()) < threads) fibers.resize(threads);
    warps.assign((threads + 31) / 32, {});
    groups.assign((threads + 127) / 128, {});
    exchanges.resize((threads + 31) / 32);
    block = {};
    alive = threads;
    for (int n = 0; n < threads; n++) {
        Fiber& f = fibers[n];
        if (!f.stack) f.stack.reset(new char[STACK]);
        f.done = false;
        f.open.clear();
        f.groups.clear();
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = STACK;
        f.context.uc_link = nullptr;
        makecontext(&f.context, start, 0);
    }
    // A warp runs until all of its fibers wait for the whole block.
    while (alive > 0) {
        for (int warp = 0; warp * 32 < threads; warp++) {
            bool moved = true;
            while (moved) {
                const Meeting before = block;
                const unsigned round = warps[warp].round;
                const Meeting group = groups[warp / 4];
                const int living = alive;
                for (int n = warp * 32; n < std::min(threads, warp * 32 + 32); n++) {
                    if (fibers[n].done) continue;
                    current = n;
                    thread_index.x = n;
                    swapcontext(&scheduler, &fibers[n].context);
                }
                moved = warps[warp].round != round || alive != living ||
                        block.arrived != before.arrived || block.round != before.round ||
                        groups[warp / 4].arrived != group.arrived ||
                        groups[warp / 4].round != group.round;
            }
        }
    }
}

template <typename... P, std::size_t... I>
void launch(void (*kernel)(P...), int grid, int threads, int shared, void** arguments,
            std::index_sequence<I...>) {
    memory.assign(shared + 1024, 0xff);
    grid_size.x = grid;
    block_size.x = threads;
    body = [=] { kernel(*static_cast<P*>(arguments[I])...); };
    for (int n = 0; n < grid; n++) {
        block_index.x = n;
        std::fill(memory.begin(), memory.end(), 0xff);
        run_block(threads);
    }
}
template <typename... P>
void launch(void (*kernel)(P...), int grid, int threads, int shared, void** arguments) {
    launch(kernel, grid, threads, shared, arguments, std::index_sequence_for<P...>{});
}

inline float from_half(u16 x) {
    const int sign = x >> 15, power = x >> 10 & 31, rest = x & 1023;
    float y = power == 31  ? (rest ? std::numeric_limits<float>::quiet_NaN()
                                   : std::numeric_limits<float>::infinity())
              : power == 0 ? std::ldexp(float(rest), -24)
                           : std::ldexp(float(1024 + rest), power - 25);
    return sign ? -y : y;
}
inline u16 to_half(float x) {
    const u16 sign = std::signbit(x) ? 0x8000 : 0;
    const float y = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (y >= 65520.0f) return sign | 0x7c00;
    if (y < std::ldexp(1.0f, -14)) return sign | u16(std::nearbyint(std::ldexp(y, 24)));
    int power;
    std::frexp(y, &power);
    const float scaled = std::nearbyint(std::ldexp(y, 11 - power));  // 1024 to 2048
    return sign | u16(((power + 13) << 10) + int(scaled) - 0);
}
inline float from_brain(u16 x) {
    const u32 bits = u32(x) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline u16 to_brain(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return 0x7fff;
    return u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define gridDim emulator::grid_size
#define blockDim emulator::block_size

inline void __syncthreads() {
    emulator::meet(emulator::block, emulator::block_size.x, [] {});
}
inline void __syncwarp() {
    emulator::together([](auto&) {});
}

template <typename V>
V __shfl_sync(u32, V x, int lane) {
    using namespace emulator;
    const int me = current % 32;
    std::memcpy(exchanges[current / 32].in[me], &x, sizeof x);
    V y;
    together([](Exchange& e) { std::memcpy(e.out, e.in, 0); for (int n = 0; n < 32; n++) std::memcpy(e.out[n], e.in[n], 8); });
    std::memcpy(&y, exchanges[current / 32].out[lane % 32], sizeof y);
    return y;
}
template <typename V>
V __shfl_xor_sync(u32, V x, int mask) {
    return __shfl_sync(~0u, x, emulator::current % 32 ^ mask);
}
inline int __any_sync(u32, int x) {
    using namespace emulator;
    exchanges[current / 32].in[current % 32][0] = x != 0;
    together([](Exchange& e) {
        u32 any = 0;
        for (int n = 0; n < lanes(); n++) any |= e.in[n][0];
        for (int n = 0; n < 32; n++) e.out[n][0] = any;
    });
    return exchanges[current / 32].out[current % 32][0];
}
inline int __all_sync(u32, int x) { return !__any_sync(~0u, !x); }
inline float __fdividef(float x, float y) { return x / y; }
template <typename V>
V atomicAdd(V* to, V x) {
    const V old = *to;
    *to += x;
    return old;
}

DEVICE float infinity() { return std::numeric_limits<float>::infinity(); }

template <typename T>
DEVICE u32 pack(float low, float high);
template <>
DEVICE u32 pack<f16>(float low, float high) {
    return emulator::to_half(low) | u32(emulator::to_half(high)) << 16;
}
template <>
DEVICE u32 pack<bf16>(float low, float high) {
    return emulator::to_brain(low) | u32(emulator::to_brain(high)) << 16;
}
DEVICE float widen(f16 x) { return emulator::from_half(x.bits); }
DEVICE float widen(bf16 x) { return emulator::from_brain(x.bits); }
DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }

template <typename T>
DEVICE T narrow(float x);
template <>
DEVICE f16 narrow<f16>(float x) {
    return {emulator::to_half(x)};
}
template <>
DEVICE bf16 narrow<bf16>(float x) {
    return {emulator::to_brain(x)};
}
template <>
DEVICE float narrow<float>(float x) {
    return x;
}
template <typename T>
DEVICE T narrow(double x) {
    return narrow<T>(float(x));
}
template <>
DEVICE double narrow<double>(double x) {
    return x;
}

DEVICE float exp2_of(float x) { return std::exp2(x); }

DEVICE float log2_of(float x) { return std::log2(x); }

DEVICE unsigned char* shared_memory() {
    return reinterpret_cast<unsigned char*>(
        (reinterpret_cast<std::uintptr_t>(emulator::memory.data()) + 1023) / 1024 * 1024);
}
DEVICE u32 shared_address(const void* pointer) {
    return u32(static_cast<const unsigned char*>(pointer) - shared_memory());
}

inline void load_any(u32 (&to)[4], u32 address, bool transposed) {
    using namespace emulator;
    exchanges[current / 32].in[current % 32][0] = address;
    together([&](Exchange& e) {
        for (int matrix = 0; matrix < 4; matrix++) {
            u16 x[8][8];
            for (int r = 0; r < 8; r++)
                std::memcpy(x[r], shared_memory() + e.in[8 * matrix + r][0], 16);
            for (int n = 0; n < 32; n++) {
                const int g = n / 4, t = 2 * (n % 4);
                e.out[n][matrix] = transposed ? x[t][g] | u32(x[t + 1][g]) << 16
                                              : x[g][t] | u32(x[g][t + 1]) << 16;
            }
        }
    });
    std::memcpy(to, exchanges[current / 32].out[current % 32], 16);
}
inline void load_matrices(u32 (&to)[4], u32 address) { load_any(to, address, false); }
inline void load_transposed(u32 (&to)[4], u32 address) { load_any(to, address, true); }

template <typename T>
float half_of(u32 two, int which) {
    return widen(T{u16(two >> 16 * which)});
}

template <typename T>
void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    using namespace emulator;
    u32* in = exchanges[current / 32].in[current % 32];
    std::memcpy(in, a, 16);
    in[4] = b0;
    in[5] = b1;
    std::memcpy(in + 6, c, 16);
    together([](Exchange& e) {
        float a[16][16], b[16][8];
        for (int n = 0; n < 32; n++) {
            const int g = n / 4, t = 2 * (n % 4);
            for (int r = 0; r < 4; r++)
                for (int w = 0; w < 2; w++)
                    a[g + r % 2 * 8][t + r / 2 * 8 + w] = half_of<T>(e.in[n][r], w);
            for (int r = 0; r < 2; r++)
                for (int w = 0; w < 2; w++) b[t + 8 * r + w][g] = half_of<T>(e.in[n][4 + r], w);
        }
        for (int n = 0; n < 32; n++) {
            const int g = n / 4, t = 2 * (n % 4);
            float c[4];
            std::memcpy(c, e.in[n] + 6, 16);
            for (int r = 0; r < 4; r++)
                for (int k = 0; k < 16; k++) c[r] += a[g + r / 2 * 8][k] * b[k][t + r % 2];
            std::memcpy(e.out[n], c, 16);
        }
    });
    std::memcpy(c, exchanges[current / 32].out[current % 32], 16);
}

inline void copy_sixteen(u32 to, const void* from, bool real) {
    const emulator::Copy copy{shared_memory() + to, from, real};
    if (emulator::eager) {
        copy.run();
    } else {
        emulator::fibers[emulator::current].open.push_back(copy);
    }
}
inline void copy_sixteen_if(bool any, u32 to, const void* from) {
    if (any) copy_sixteen(to, from, true);
}
inline void end_group() {
    emulator::Fiber& f = emulator::fibers[emulator::current];
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}
template <int N>
void wait_groups() {
    auto& groups = emulator::fibers[emulator::current].groups;
    for (; int(groups.size()) > N; groups.pop_front())
        for (const auto& copy : groups.front()) copy.run();
}

inline void write_sixteen(void* to, uint4 x) { std::memcpy(to, &x, 16); }

DEVICE float quad_max(float x) {
    x = std::fmax(x, __shfl_xor_sync(~0u, x, 1));
    return std::fmax(x, __shfl_xor_sync(~0u, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
template <typename T>
DEVICE T warp_max(T x) {
    for (int m = 16; m > 0; m /= 2) {
        T y = __shfl_xor_sync(~0u, x, m);
        x = y > x ? y : x;
    }
    return x;
}
template <typename T>
DEVICE T warp_sum(T x) {
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(~0u, x, m);
    return x;
}
