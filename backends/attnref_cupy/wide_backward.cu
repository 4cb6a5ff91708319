// Gradients of attention in float32 and float64, and of whatever is computed there.
//
//     P = exp(s - lse);  dS = P (dout v^T - delta);  dA = dS (1 - (c / cap)^2)
//     dq = scale dA k;  dk = scale dA^T q;  dv = P^T dout;  dbias = dS
//
// Two walks over the same tiles. `wide_queries` keeps a tile of queries and walks over keys;
// `wide_keys` keeps a tile of keys and walks over the queries of all heads that share it, so
// that their gradients are summed where they are computed (E3) and nothing is added up in an
// order that varies. The price is that scores and `dout v^T` are computed twice.
#include "wide.cuh"

// Weights of a tile, and gradients of its scores and of its scaled products.
template <typename A, int COLUMNS, typename T, typename L>
DEVICE void weigh(A (&P)[OWN][OWN], A (&dA)[OWN][OWN], A (&dS)[OWN][OWN], const Arguments& a,
                  const Band& band, int b, int head, int i0, int j0, const Head<T>& q,
                  const Head<T>& k, const Head<T>& v, const Head<T>& dout, const L* lse,
                  const A* delta) {
    product_of_rows<A, COLUMNS>(P, q, i0, k, j0);
    product_of_rows<A, COLUMNS>(dS, dout, i0, v, j0);
#pragma unroll
    for (int x = 0; x < OWN; x++) {
        const int i = i0 + threadIdx.x / 16 * OWN + x;
        const bool live = i < band.queries && lse[i] != -L(infinity());
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int j = j0 + threadIdx.x % 16 + 16 * n;
            A weight = A(0), slope = A(0);
            if (live && visible(a, band, b, head, i, j))
                weight = exponential(score_of(P[x][n], a, b, head, i, j, slope) - A(lse[i]));
            P[x][n] = weight;
            dS[x][n] = weight == A(0) ? A(0) : weight * (dS[x][n] - delta[i]);
            dA[x][n] = weight == A(0) ? A(0) : dS[x][n] * slope;
        }
    }
}

template <typename T, typename A, typename L, int COLUMNS>
__global__ void __launch_bounds__(256) wide_queries(const __grid_constant__ Arguments a) {
    const Seat seat = seat_of<SIDE>(a, false);
    const int b = seat.b, head = seat.head, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= q_side.extent) return;
    const Span span = keys_of<SIDE>(band, first, first + SIDE);
    const auto q = head_of<T>(a.q, b, head, q_side.start, q_side.length, a.D);
    const auto dout = head_of<T>(a.dout, b, head, q_side.start, q_side.length, a.DV);
    const auto k = head_of<T>(a.k, b, head / a.group, k_side.start, k_side.length, a.D);
    const auto v = head_of<T>(a.v, b, head / a.group, k_side.start, k_side.length, a.DV);
    const auto dq = head_of<T>(a.dq, b, head, q_side.start, q_side.extent, a.D);
    const L* lse = static_cast<const L*>(a.lse.at) + b * a.lse.batch + head * a.lse.head +
                   q_side.start;
    const A* delta = static_cast<const A*>(a.delta.at) + b * a.delta.batch +
                     head * a.delta.head + q_side.start;
    const int row = first + threadIdx.x / 16 * OWN, column = threadIdx.x % 16;

    A sum[OWN][COLUMNS / 16];
    for (int x = 0; x < OWN; x++)
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++) sum[x][c] = A(0);
    for (int j0 = span.low; j0 < span.high; j0 += SIDE) {
        A P[OWN][OWN], dA[OWN][OWN], dS[OWN][OWN];
        weigh<A, COLUMNS>(P, dA, dS, a, band, b, head, first, j0, q, k, v, dout, lse, delta);
        if (a.dbias.at) {
            // What a bias is broadcast over is summed where it lies, in any order.
            A* dbias = static_cast<A*>(a.dbias.at) + b * a.dbias.batch + head * a.dbias.head;
            for (int x = 0; x < OWN; x++)
                for (int n = 0; n < OWN; n++) {
                    const i64 at = (row + x) * a.dbias.row + (j0 + column + 16 * n) * a.dbias.column;
                    if (dS[x][n] != A(0)) atomicAdd(dbias + at, dS[x][n]);
                }
        }
        add_product<A, COLUMNS>(sum, dA, k, j0);
    }
    for (int x = 0; x < OWN; x++)
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++)
            dq.write(row + x, column + 16 * c, sum[x][c] * A(a.scale));
}

template <typename T, typename A, typename L, int COLUMNS>
__global__ void __launch_bounds__(256) wide_keys(const __grid_constant__ Arguments a) {
    const Seat seat = seat_of<SIDE>(a, true);
    const int b = seat.b, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= k_side.extent) return;
    const Span span = queries_of<SIDE>(band, first, first + SIDE);
    const auto k = head_of<T>(a.k, b, seat.head, k_side.start, k_side.length, a.D);
    const auto v = head_of<T>(a.v, b, seat.head, k_side.start, k_side.length, a.DV);
    const auto dk = head_of<T>(a.dk, b, seat.head, k_side.start, k_side.extent, a.D);
    const auto dv = head_of<T>(a.dv, b, seat.head, k_side.start, k_side.extent, a.DV);
    const int row = first + threadIdx.x / 16 * OWN, column = threadIdx.x % 16;

    A sum_k[OWN][COLUMNS / 16], sum_v[OWN][COLUMNS / 16];
    for (int x = 0; x < OWN; x++)
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++) sum_k[x][c] = sum_v[x][c] = A(0);
    for (int g = 0; g < a.group; g++) {
        const int head = seat.head * a.group + g;
        const auto q = head_of<T>(a.q, b, head, q_side.start, q_side.length, a.D);
        const auto dout = head_of<T>(a.dout, b, head, q_side.start, q_side.length, a.DV);
        const L* lse = static_cast<const L*>(a.lse.at) + b * a.lse.batch + head * a.lse.head +
                       q_side.start;
        const A* delta = static_cast<const A*>(a.delta.at) + b * a.delta.batch +
                         head * a.delta.head + q_side.start;
        for (int i0 = span.low; i0 < span.high; i0 += SIDE) {
            A P[OWN][OWN], dA[OWN][OWN], dS[OWN][OWN];
            weigh<A, COLUMNS>(P, dA, dS, a, band, b, head, i0, first, q, k, v, dout, lse, delta);
            add_product<A, COLUMNS, true>(sum_v, P, dout, i0);
            add_product<A, COLUMNS, true>(sum_k, dA, q, i0);
        }
    }
    for (int x = 0; x < OWN; x++)
#pragma unroll
        for (int c = 0; c < COLUMNS / 16; c++) {
            dk.write(row + x, column + 16 * c, sum_k[x][c] * A(a.scale));
            dv.write(row + x, column + 16 * c, sum_v[x][c]);
        }
}
