// Softmax of rows, and its gradient.
//
// Counted. A row is read twice, the second time from a cache where it fits, and written once:
// bound by memory. A block has one row; its threads walk over it side by side, each with the
// tiled state `(m, l)` of what it met, and merge their states at the end (D1).
//
//     y = exp(x - m) / l;  dx = y (dy - sum(y dy))
#include "problem.cuh"

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }

// Across a block: every thread gets the same.
template <int THREADS, typename A>
DEVICE A block_sum(A x) {
    A* parts = reinterpret_cast<A*>(shared_memory());
    x = warp_sum(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    A sum = A(0);
    for (int n = 0; n < THREADS / 32; n++) sum += parts[n];
    return sum;
}
template <int THREADS, typename A>
DEVICE A block_max(A x) {
    A* parts = reinterpret_cast<A*>(shared_memory());
    x = warp_max(x);
    if (THREADS == 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    A top = parts[0];
    for (int n = 1; n < THREADS / 32; n++) top = parts[n] > top ? parts[n] : top;
    return top;
}

template <typename T, typename A, int THREADS>
__global__ void __launch_bounds__(THREADS) softmax(const T* x, T* y, i64 columns) {
    x += blockIdx.x * columns;
    y += blockIdx.x * columns;
    A m = -A(infinity()), l = A(0);
    for (i64 n = threadIdx.x; n < columns; n += THREADS) {
        const A s = A(widen(x[n]));
        const A top = s > m ? s : m;
        const A level = top == -A(infinity()) ? A(0) : top;
        l = l * exponential(m - level) + exponential(s - level);
        m = top;
    }
    const A top = block_max<THREADS>(m);
    const A level = top == -A(infinity()) ? A(0) : top;
    const A total = block_sum<THREADS>(l * exponential(m - level));
    for (i64 n = threadIdx.x; n < columns; n += THREADS) {
        const A p = exponential(A(widen(x[n])) - level);
        y[n] = narrow<T>(total == A(0) ? A(0) : p / total);
    }
}

template <typename T, typename A, int THREADS>
__global__ void __launch_bounds__(THREADS)
    softmax_gradient(const T* y, const T* dy, T* dx, i64 columns) {
    y += blockIdx.x * columns;
    dy += blockIdx.x * columns;
    dx += blockIdx.x * columns;
    A sum = A(0);
    for (i64 n = threadIdx.x; n < columns; n += THREADS) sum += A(widen(y[n])) * A(widen(dy[n]));
    sum = block_sum<THREADS>(sum);
    for (i64 n = threadIdx.x; n < columns; n += THREADS)
        dx[n] = narrow<T>(A(widen(y[n])) * (A(widen(dy[n])) - sum));
}
