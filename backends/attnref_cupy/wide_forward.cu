// Attention forward in float32 and float64, and of anything that tensor cores are not fed with.
//
// The same walk over tiles of keys as in `forward.cu`, with products in fused multiply-adds of
// the precision that the specification asks for. It is bound by reads of shared memory: eight
// for sixteen multiply-adds. Memory is linear here too: no score leaves a block.
#include "wide.cuh"

template <typename T, typename A, typename L, int COLUMNS>
__global__ void __launch_bounds__(256) wide_forward(const __grid_constant__ Arguments a) {
    const Seat seat = seat_of<SIDE>(a, false);
    const int b = seat.b, head = seat.head, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= q_side.extent) return;
    const Span span = keys_of<SIDE>(band, first, first + SIDE);
    const auto q = head_of<T>(a.q, b, head, q_side.start, q_side.length, a.D);
    const auto k = head_of<T>(a.k, b, head / a.group, k_side.start, k_side.length, a.D);
    const auto v = head_of<T>(a.v, b, head / a.group, k_side.start, k_side.length, a.DV);
    const auto out = head_of<T>(a.out, b, head, q_side.start, q_side.extent, a.DV);
    const int row = first + threadIdx.x / 16 * OWN, column = threadIdx.x % 16;

    A m[OWN], l[OWN], o[OWN][COLUMNS / 16];
    for (int x = 0; x < OWN; x++) {
        m[x] = -A(infinity());
        l[x] = A(0);
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++) o[x][c] = A(0);
    }
    for (int j0 = span.low; j0 < span.high; j0 += SIDE) {
        A s[OWN][OWN], slope;
        product_of_rows<A, COLUMNS>(s, q, first, k, j0);
#pragma unroll
        for (int x = 0; x < OWN; x++) {
            A top = m[x];
#pragma unroll
            for (int n = 0; n < OWN; n++) {
                const int i = row + x, j = j0 + column + 16 * n;
                s[x][n] = visible(a, band, b, head, i, j)
                              ? score_of(s[x][n], a, b, head, i, j, slope)
                              : -A(infinity());
                top = s[x][n] > top ? s[x][n] : top;
            }
            top = row_max(top);
            const A level = top == -A(infinity()) ? A(0) : top;
            const A alpha = exponential(m[x] - level);
            A sum = A(0);
#pragma unroll
            for (int n = 0; n < OWN; n++) {
                s[x][n] = exponential(s[x][n] - level);
                sum += s[x][n];
            }
            m[x] = top;
            l[x] = l[x] * alpha + row_sum(sum);
#pragma unroll
            for (int c = 0; c < COLUMNS / 16; c++) o[x][c] *= alpha;
        }
        add_product<A, COLUMNS>(o, s, v, j0);
    }

    L* lse = static_cast<L*>(a.lse.at) + b * a.lse.batch + head * a.lse.head + q_side.start;
    for (int x = 0; x < OWN; x++) {
        const int i = row + x;
        A weight = A(1);
        if (a.sinks) {
            const A sink = A(number(a.sinks, head, a.sink_kind));
            const A top = sink > m[x] ? sink : m[x];
            const A level = top == -A(infinity()) ? A(0) : top;
            weight = exponential(m[x] - level);
            l[x] = l[x] * weight + exponential(sink - level);
            m[x] = top;
        }
        // An empty sum, and not the maximum, says that a row saw nothing (C5).
        const bool nothing = l[x] == A(0) || i >= q_side.length;
        if (column == 0 && i < q_side.extent) {
            A e = (m[x] == -A(infinity()) ? A(0) : m[x]) + logarithm(l[x]);
            // A finite one stays finite, because minus infinity says that nothing was seen.
            const A most = A(sizeof(L) == 8 ? 1.7976931348623157e308 : 3.4028234663852886e38);
            if (e > most && e < A(infinity())) e = most;
            if (e < -most && e > -A(infinity())) e = -most;
            lse[i] = nothing ? -L(infinity()) : L(e);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++)
            out.write(i, column + 16 * c, nothing ? A(0) : o[x][c] * weight / l[x]);
    }
}
