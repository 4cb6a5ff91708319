// The instructions of tensor cores, of what feeds them, and of half precision.
//
// Everything here is one instruction, or a handful, written as PTX, so that no header of a
// toolkit is needed: NVRTC compiles these files by itself. Nothing else in the package is
// PTX, but `warpgroup.cuh`, which is also why the kernels can be run on a CPU: the tests put
// other files of these names in their places.
//
// A warp holds matrices as the instructions want them, see the PTX manual, "Matrix Fragments
// for mma.m16n8k16". With `g = lane / 4` and `t = lane % 4`:
//
//     a   16 x 16   a[0] (g, 2t..2t+1)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)
//     b   16 x 8    b0   (2t..2t+1, g)  b1   (2t+8..2t+9, g)
//     c   16 x 8    c[0..1] (g, 2t..2t+1)                 c[2..3] (g+8, 2t..2t+1)
//
// So the `c` of two products, rounded and packed in pairs, are the `a` of a next one: weights
// go from scores to the second product without leaving their registers.
#pragma once

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C++" __global__ void

using u16 = unsigned short;
using u32 = unsigned int;
using i64 = long long;

constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

// Half precisions, by their bits.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

DEVICE float infinity() { return __int_as_float(0x7f800000); }

// Two floats, rounded to the nearest and packed: `low` first in memory.
template <typename T>
DEVICE u32 pack(float low, float high);
template <>
DEVICE u32 pack<f16>(float low, float high) {
    u32 two;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}
template <>
DEVICE u32 pack<bf16>(float low, float high) {
    u32 two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}

// Any number of an array, as the float or double that is computed with, and back.
DEVICE float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
DEVICE float widen(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }

template <typename T>
DEVICE T narrow(float x);
template <>
DEVICE f16 narrow<f16>(float x) {
    return {u16(pack<f16>(x, 0.0f))};
}
template <>
DEVICE bf16 narrow<bf16>(float x) {
    return {u16(pack<bf16>(x, 0.0f))};
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

// 2^x by the special function unit, which a fused multiply-add feeds; -inf gives zero.
DEVICE float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// The binary logarithm, by the same unit.
DEVICE float log2_of(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Shared memory, all of it: what a launch asks for, at an address of 1024 bytes.
DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return memory;
}
DEVICE u32 shared_address(const void* pointer) { return u32(__cvta_generic_to_shared(pointer)); }

// Four 8 x 8 matrices of halves: lane `8 n + r` passes the address of row `r` of the n-th.
DEVICE void load_matrices(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}
// The same, each transposed.
DEVICE void load_transposed(u32 (&to)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
}

// c += a b, with a 16 x 16, b 16 x 8, and c 16 x 8 in float32.
template <typename T>
DEVICE void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <>
DEVICE void multiply<f16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
DEVICE void multiply<bf16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Sixteen bytes from global to shared memory, on their own; zeros, unread, where not `real`.
DEVICE void copy_sixteen(u32 to, const void* from, bool real) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(real ? 16 : 0)
                 : "memory");
}
// The same, where there is anything to copy; what is there stays otherwise.
DEVICE void copy_sixteen_if(bool any, u32 to, const void* from) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; "
                 "@p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(to),
                 "l"(from), "r"(int(any))
                 : "memory");
}
// The copies since the last call become one group.
DEVICE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait for this thread's groups but the latest N; others' are seen after a barrier.
template <int N>
DEVICE void wait_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Sixteen bytes to global memory, which the compiler cannot always tell that it is.
DEVICE void write_sixteen(void* to, uint4 x) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z),
                 "r"(x.w)
                 : "memory");
}

// Across the four lanes that share the rows of a `c`.
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// Across a warp.
template <typename T>
DEVICE T warp_max(T x) {
    for (int m = 16; m > 0; m /= 2) {
        T y = __shfl_xor_sync(0xffffffffu, x, m);
        x = y > x ? y : x;
    }
    return x;
}
template <typename T>
DEVICE T warp_sum(T x) {
    for (int m = 16; m > 0; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}
