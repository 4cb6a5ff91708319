// What a backward pass needs of every row, and what rows say to a sink.
//
// Counted. `delta` reads two arrays of tokens and writes a number for each row: bound by
// memory, and small beside what follows.
//
//     delta = rowsum(dout out) - dlse                  0 where lse = -inf
//     dsink = -sum over entries and rows of exp(sink - lse) delta
#include "problem.cuh"

// Whether row `i` of an entry, or of all packed sequences, is real (C4).
DEVICE bool real_row(const Arguments& a, int b, int i) {
    const int end = a.q_starts.at ? at_most(a.q_starts[a.entries], a.Sq)
                    : a.q_lens.at ? at_most(a.q_lens[b], a.Sq)
                                  : a.Sq;
    return i < end;
}

// A warp for each row; `tiles` is how many warps share a head's rows of an entry.
template <typename T, typename A, typename L>
__global__ void __launch_bounds__(128) delta(const __grid_constant__ Arguments a) {
    const int warp = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int i = warp % a.tiles, head = warp / a.tiles % a.heads, b = warp / a.tiles / a.heads;
    const i64 n = b * a.lse.batch + head * a.lse.head + i;
    if (i >= a.Sq || b >= (a.q_starts.at ? 1 : a.entries)) return;
    A* to = static_cast<A*>(a.delta.at) + b * a.delta.batch + head * a.delta.head + i;
    if (!real_row(a, b, i) || static_cast<const L*>(a.lse.at)[n] == -L(infinity())) {
        if (lane == 0) *to = A(0);
        return;
    }
    const T* out = static_cast<const T*>(a.out.at) + b * a.out.batch + head * a.out.head +
                   i * a.out.token;
    const T* dout = static_cast<const T*>(a.dout.at) + b * a.dout.batch + head * a.dout.head +
                    i * a.dout.token;
    A sum = A(0);
    for (int d = lane; d < a.DV; d += 32)
        sum += A(widen(out[d * a.out.column])) * A(widen(dout[d * a.dout.column]));
    sum = warp_sum(sum);
    if (a.dlse.at) sum -= A(static_cast<const L*>(a.dlse.at)[n]);
    if (lane == 0) *to = sum;
}

// A block for each head.
template <typename A, typename L>
__global__ void __launch_bounds__(256) sink_gradient(const __grid_constant__ Arguments a) {
    const int head = blockIdx.x, batches = a.q_starts.at ? 1 : a.entries;
    const double sink = number(a.sinks, head, a.sink_kind);
    double sum = 0;
    for (i64 n = threadIdx.x; n < i64(batches) * a.Sq; n += 256) {
        const int b = int(n / a.Sq), i = int(n % a.Sq);
        const L lse = static_cast<const L*>(a.lse.at)[b * a.lse.batch + head * a.lse.head + i];
        const A delta = static_cast<const A*>(a.delta.at)[b * a.delta.batch + head * a.delta.head + i];
        const double weight = exp(sink - double(lse));
        const bool live = real_row(a, b, i) && lse != -L(infinity()) && weight != 0;
        sum -= live ? weight * double(delta) : 0.0;
    }
    double* parts = reinterpret_cast<double*>(shared_memory());
    parts[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
    }
    if (threadIdx.x == 0) put_number(a.dsinks, head, a.sink_kind, parts[0]);
}
