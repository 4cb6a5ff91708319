// Products of a warpgroup, Hopper's own: 64 rows at a time, of factors that lie in shared memory.
//
// Everything here is one instruction written as PTX, as in `mma.cuh`; the tests put another file
// of this name in its place. It compiles for `sm_90a` alone, and is used where plan.py says so.
//
// Four warps make a product together: warp `w` of them has its rows `[16 w, 16 w + 16)`, in the
// layout of `c` and `a` of `mma.cuh`. So a kernel that gives a warp sixteen rows is the same for
// either kind of product, but for the loops that feed it. Products run on their own: what they
// write may be read, and what they read may be written, after they were waited for. See the PTX
// manual, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
#pragma once
#include "mma.cuh"

using u64 = unsigned long long;

// A factor in shared memory, at an address of sixteen bytes: rows of 128 bytes, chunks of which lie
// as in `tile.cuh`, and from one sixty-four of columns to the next `apart` bytes. Eight rows begin
// at a multiple of 1024.
DEVICE u64 factor(u32 address, u32 apart) {
    return u64((address & 0x3ffff) >> 4) | u64(apart >> 4) << 16 | u64(1024 >> 4) << 32 |
           u64(1) << 62;
}

// What this thread's copies brought is seen by products after the next barrier.
DEVICE void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Registers that were written are seen by products from here on.
DEVICE void open_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// The products since the last call become one group.
DEVICE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Wait for all groups of products but the latest N.
template <int N>
DEVICE void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Nobody reads these numbers before this line: they were just waited for.
template <int TILES>
DEVICE void settled(float (&c)[TILES][4]) {
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) asm volatile("" : "+f"(c[n][e])::"memory");
}

// `c (+)= a b^T`, sixteen columns of `a` and `b`; `c` is not read unless `add`.
template <typename T, int TILES>
DEVICE void multiply_rows(float (&c)[TILES][4], u64 a, u64 b, bool add);
// `c += a b`, sixteen rows of `b`; `a` is in registers, as weights are.
template <typename T, int TILES>
DEVICE void multiply_columns(float (&c)[TILES][4], const u32 (&a)[4], u64 b);

// Operands are numbered: those of `c` come first, eight to an `L`, and `BOTH` is told the five after
// them. For each N, the columns of `c`: what `plan.py` has as tiles, and heads.
// clang-format off
#define C4(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define C8(n) C4(n), C4(n + 1)
#define L0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define L1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define L2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define L3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define L4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define L5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define L6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define L7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define L8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define L9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define L10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define PRODUCTS(T, NAME, N, X0, X1, X2, X3, X4)                                                   \
    template <>                                                                                    \
    DEVICE void multiply_rows<T, N / 8>(float (&c)[N / 8][4], u64 a, u64 b, bool add) {            \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #X2 ", 0; "                                \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME               \
                     " {" LIST##N "}, %" #X0 ", %" #X1 ", p, 1, 1, 0, 0; }"                        \
                     : LANES##N : "l"(a), "l"(b), "r"(int(add)));                                  \
    }                                                                                              \
    template <>                                                                                    \
    DEVICE void multiply_columns<T, N / 8>(float (&c)[N / 8][4], const u32 (&a)[4], u64 b) {       \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME               \
                     " {" LIST##N "}, {%" #X0 ", %" #X1 ", %" #X2 ", %" #X3 "}, %" #X4             \
                     ", 1, 1, 1, 1;"                                                               \
                     : LANES##N : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));             \
    }
#define BOTH(N, X0, X1, X2, X3, X4)                                                                \
    PRODUCTS(f16, "f16", N, X0, X1, X2, X3, X4)                                                    \
    PRODUCTS(bf16, "bf16", N, X0, X1, X2, X3, X4)
#define LANES48 C8(0), C8(2), C8(4)
#define LIST48 L0 ", " L1 ", " L2
BOTH(48, 24, 25, 26, 27, 28)
#define LANES64 C8(0), C8(2), C8(4), C8(6)
#define LIST64 L0 ", " L1 ", " L2 ", " L3
BOTH(64, 32, 33, 34, 35, 36)
#define LANES96 C8(0), C8(2), C8(4), C8(6), C8(8), C8(10)
#define LIST96 L0 ", " L1 ", " L2 ", " L3 ", " L4 ", " L5
BOTH(96, 48, 49, 50, 51, 52)
#define LANES128 C8(0), C8(2), C8(4), C8(6), C8(8), C8(10), C8(12), C8(14)
#define LIST128 L0 ", " L1 ", " L2 ", " L3 ", " L4 ", " L5 ", " L6 ", " L7
BOTH(128, 64, 65, 66, 67, 68)
#define LANES176 C8(0), C8(2), C8(4), C8(6), C8(8), C8(10), C8(12), C8(14), C8(16), C8(18), C8(20)
#define LIST176 L0 ", " L1 ", " L2 ", " L3 ", " L4 ", " L5 ", " L6 ", " L7 ", " L8 ", " L9 ", " L10
BOTH(176, 88, 89, 90, 91, 92)
// clang-format on
