// The bias of a window's pairs from a table of displacements, and its gradient (G6).
//
// Counted. N^2 numbers of a head are written, or read, once; the table is a few kilobytes and stays in
// the cache.
//
// A pair's row in the table is the row-major index of its displacement, query - key, counted from the
// most negative one. The gradient goes the other way: a thread owns a row of the table, and for every
// query there is at most one key at that displacement. So nobody adds to anybody else's sum, and it
// comes out the same every time (E3).

#include "problem.cuh"

// Arrays with their strides in elements; the bias is (H, N, N), the table (rows, H).
struct Position {
    void *bias, *table;
    i64 bias_strides[3], table_strides[2];
    int bias_kind, table_kind, heads, window[3];
};

__global__ void position_bias(const __grid_constant__ Position call) {
    const int A1 = call.window[1], A2 = call.window[2], N = call.window[0] * A1 * A2;
    const i64 pair = (i64(blockIdx.x) / call.heads) * blockDim.x + threadIdx.x;
    const int head = blockIdx.x % call.heads;
    if (pair >= i64(N) * N) return;
    const int i = pair / N, j = pair % N;
    const int d0 = i / (A1 * A2) - j / (A1 * A2) + call.window[0] - 1;
    const int d1 = i / A2 % A1 - j / A2 % A1 + A1 - 1, d2 = i % A2 - j % A2 + A2 - 1;
    const i64 row = (i64(d0) * (2 * A1 - 1) + d1) * (2 * A2 - 1) + d2;
    const double x = number(call.table, row * call.table_strides[0] + head * call.table_strides[1], call.table_kind);
    const i64 to = head * call.bias_strides[0] + i * call.bias_strides[1] + j * call.bias_strides[2];
    put_number(call.bias, to, call.bias_kind, x);
}

__global__ void position_gradient(const __grid_constant__ Position call) {
    const int A1 = call.window[1], A2 = call.window[2], N = call.window[0] * A1 * A2;
    const i64 row = (i64(blockIdx.x) / call.heads) * blockDim.x + threadIdx.x;
    const int head = blockIdx.x % call.heads;
    if (row >= i64(2 * call.window[0] - 1) * (2 * A1 - 1) * (2 * A2 - 1)) return;
    const int d0 = row / ((2 * A1 - 1) * (2 * A2 - 1)) - (call.window[0] - 1);
    const int d1 = row / (2 * A2 - 1) % (2 * A1 - 1) - (A1 - 1), d2 = row % (2 * A2 - 1) - (A2 - 1);
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        const int j0 = i / (A1 * A2) - d0, j1 = i / A2 % A1 - d1, j2 = i % A2 - d2;
        if (j0 < 0 || j0 >= call.window[0] || j1 < 0 || j1 >= A1 || j2 < 0 || j2 >= A2) continue;
        const i64 j = (i64(j0) * A1 + j1) * A2 + j2;
        sum += number(call.bias, head * call.bias_strides[0] + i * call.bias_strides[1] + j * call.bias_strides[2],
                      call.bias_kind);
    }
    put_number(call.table, row * call.table_strides[0] + head * call.table_strides[1], call.table_kind, sum);
}
