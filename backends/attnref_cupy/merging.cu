// Merging two finished parts of the same rows, and its gradient (D3).
//
// Counted. Two rows are read and one is written, `6 D` bytes in half precision for some four
// operations each: bound by memory, and one pass over it. A warp has a row.
//
//     m = max(lse_a, lse_b);  w = exp(lse - m), 0 where a part saw nothing
//     out = (w_a out_a + w_b out_b) / (w_a + w_b);  lse = m + log(w_a + w_b)
//
// Backward, with `w_a = exp(lse_a - lse)`: `dout_a = w_a dout` and
// `dlse_a = w_a (dlse + dout . (out_a - out))`.
#include "problem.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float logarithm(float x) { return logf(x); }
DEVICE double logarithm(double x) { return log(x); }

template <typename T, typename A>
__global__ void __launch_bounds__(128)
    merge(const T* a, const T* b, const A* lse_a, const A* lse_b, T* out, A* lse, i64 rows,
          i64 columns) {
    const i64 r = i64(blockIdx.x) * 4 + threadIdx.x / 32;
    if (r >= rows) return;
    const A e_a = lse_a[r], e_b = lse_b[r];
    const A m = e_a > e_b || e_a != e_a ? e_a : e_b;
    const A level = m == -A(infinity()) ? A(0) : m;
    const A w_a = exponential(e_a - level), w_b = exponential(e_b - level);
    const bool nothing = w_a + w_b == A(0);
    const A l = nothing ? A(1) : w_a + w_b;
    if (threadIdx.x % 32 == 0) lse[r] = nothing ? -A(infinity()) : level + logarithm(l);
    for (i64 n = r * columns + threadIdx.x % 32; n < (r + 1) * columns; n += 32)
        out[n] = narrow<T>((w_a * A(widen(a[n])) + w_b * A(widen(b[n]))) / l);
}

// The weight of a part in the whole.
template <typename A>
DEVICE A share(A lse, A whole) {
    return lse == -A(infinity()) ? A(0) : exponential(lse - whole);
}

template <typename T, typename A>
__global__ void __launch_bounds__(128)
    merge_gradient(const T* a, const T* b, const T* out, const T* dout, const A* lse_a,
                   const A* lse_b, const A* lse, const A* dlse, T* da, T* db, A* dlse_a,
                   A* dlse_b, i64 rows, i64 columns) {
    const i64 r = i64(blockIdx.x) * 4 + threadIdx.x / 32;
    if (r >= rows) return;
    const A w_a = share(lse_a[r], lse[r]), w_b = share(lse_b[r], lse[r]);
    A along_a = A(0), along_b = A(0);
    for (i64 n = r * columns + threadIdx.x % 32; n < (r + 1) * columns; n += 32) {
        const A g = A(widen(dout[n])), o = A(widen(out[n]));
        along_a += g * (A(widen(a[n])) - o);
        along_b += g * (A(widen(b[n])) - o);
        da[n] = narrow<T>(w_a * g);
        db[n] = narrow<T>(w_b * g);
    }
    along_a = warp_sum(along_a);
    along_b = warp_sum(along_b);
    const A given = dlse ? dlse[r] : A(0);
    if (threadIdx.x % 32 == 0) {
        dlse_a[r] = w_a * (along_a + given);
        dlse_b[r] = w_b * (along_b + given);
    }
}
