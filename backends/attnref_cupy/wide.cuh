// What the kernels in float32 and float64 share: scores, and products a thread at a time.
//
// A block has 256 threads, sixteen by sixteen: thread `(y, x)` computes the rows `4 y ..` and
// the columns `x, x + 16, ..` of a tile of 64 by 64. Numbers are read one by one, by their
// strides, so that any layout, dtype and size of a head is taken as it is.
#pragma once
#include "problem.cuh"

constexpr int SIDE = 64;    // rows and columns of a tile of scores
constexpr int DEPTH = 32;   // columns of a head that are multiplied at a time
constexpr int SLICE = 16;   // rows of the other operand of a second product, at a time
constexpr int OWN = 4;      // rows, and columns, of a tile that belong to a thread

DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float logarithm(float x) { return logf(x); }
DEVICE double logarithm(double x) { return log(x); }
DEVICE float hyperbolic(float x) { return tanhf(x); }
DEVICE double hyperbolic(double x) { return tanh(x); }

// Rows of a head: pointer, strides of rows and columns, and how many of each may be read.
template <typename T>
struct Head {
    T* at;
    i64 row, column;
    int rows, columns;

    template <typename A>
    DEVICE A read(int i, int d) const {
        return i < rows && d < columns ? A(widen(at[i * row + d * column])) : A(0);
    }
    template <typename A>
    DEVICE void write(int i, int d, A x) const {
        if (i < rows && d < columns) at[i * row + d * column] = narrow<T>(x);
    }
};

template <typename T>
DEVICE Head<T> head_of(const Tokens& x, int b, int head, int start, int rows, int columns) {
    T* at = static_cast<T*>(x.at) + b * x.batch + head * x.head + start * x.token;
    return {at, x.token, x.column, rows, columns};
}

// Shared memory of a block, for computing in `A`.
template <typename A, int COLUMNS>
struct Room {
    A left[SIDE][DEPTH + 1], right[SIDE][DEPTH + 1];
    A weights[SIDE][SIDE + 1];
    A slice[SLICE][COLUMNS];
};
template <typename A, int COLUMNS>
DEVICE Room<A, COLUMNS>& room() {
    return *reinterpret_cast<Room<A, COLUMNS>*>(shared_memory());
}

// `s = x y^T` for the rows of both heads from `i0` and `j0` on.
template <typename A, int COLUMNS, typename T>
DEVICE void product_of_rows(A (&s)[OWN][OWN], const Head<T>& x, int i0, const Head<T>& y, int j0) {
    Room<A, COLUMNS>& r = room<A, COLUMNS>();
    const int row = threadIdx.x / 16 * OWN, column = threadIdx.x % 16;
    for (int m = 0; m < OWN; m++)
        for (int n = 0; n < OWN; n++) s[m][n] = A(0);
    for (int d0 = 0; d0 < x.columns; d0 += DEPTH) {
        __syncthreads();
        for (int n = threadIdx.x; n < SIDE * DEPTH; n += 256) {
            const int i = n / DEPTH, d = n % DEPTH;
            r.left[i][d] = x.template read<A>(i0 + i, d0 + d);
            r.right[i][d] = y.template read<A>(j0 + i, d0 + d);
        }
        __syncthreads();
#pragma unroll 8
        for (int d = 0; d < DEPTH; d++) {
            A a[OWN], b[OWN];
#pragma unroll
            for (int m = 0; m < OWN; m++) a[m] = r.left[row + m][d];
#pragma unroll
            for (int n = 0; n < OWN; n++) b[n] = r.right[column + 16 * n][d];
#pragma unroll
            for (int m = 0; m < OWN; m++)
#pragma unroll
                for (int n = 0; n < OWN; n++) s[m][n] += a[m] * b[n];
        }
    }
}

// `sum += weights y` for the weights that all threads have put into shared memory, and the rows
// of `y` from `j0` on.
template <typename A, int COLUMNS, typename T>
DEVICE void add_weighted(A (&sum)[OWN][COLUMNS / 16], const Head<T>& y, int j0) {
    Room<A, COLUMNS>& r = room<A, COLUMNS>();
    const int row = threadIdx.x / 16 * OWN, column = threadIdx.x % 16;
    for (int j = 0; j < SIDE; j += SLICE) {
        __syncthreads();
        for (int n = threadIdx.x; n < SLICE * COLUMNS; n += 256) {
            const int k = n / COLUMNS, d = n % COLUMNS;
            r.slice[k][d] = y.template read<A>(j0 + j + k, d);
        }
        __syncthreads();
        for (int k = 0; k < SLICE; k++) {
            A a[OWN];
#pragma unroll
            for (int m = 0; m < OWN; m++) a[m] = r.weights[row + m][j + k];
#pragma unroll
            for (int c = 0; c < COLUMNS / 16; c++) {
                const A b = r.slice[k][column + 16 * c];
#pragma unroll
                for (int m = 0; m < OWN; m++) sum[m][c] += a[m] * b;
            }
        }
    }
}

// `sum += w y` for the weights `w` of a tile, or for their transpose: rows of `sum` are then columns
// of the tile.
template <typename A, int COLUMNS, bool TURNED = false, typename T>
DEVICE void add_product(A (&sum)[OWN][COLUMNS / 16], const A (&w)[OWN][OWN], const Head<T>& y,
                        int from) {
    Room<A, COLUMNS>& r = room<A, COLUMNS>();
    const int row = threadIdx.x / 16 * OWN, column = threadIdx.x % 16;
    __syncthreads();
#pragma unroll
    for (int m = 0; m < OWN; m++)
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            const int i = row + m, j = column + 16 * n;
            r.weights[TURNED ? j : i][TURNED ? i : j] = w[m][n];
        }
    add_weighted<A, COLUMNS>(sum, y, from);
}

// Whether row `i` sees key `j`, mask included.
DEVICE bool visible(const Arguments& a, const Band& band, int b, int head, int i, int j) {
    if (!sees(band, i, j)) return false;
    if (!a.mask.at) return true;
    return static_cast<const bool*>(a.mask.at)[b * a.mask.batch + head * a.mask.head +
                                               i * a.mask.row + j * a.mask.column];
}

// A score, of a pair that is visible: scale, cap, bias, in order (B1 to B3). `bent` is what the
// cap leaves of its slope.
template <typename A>
DEVICE A score_of(A dot, const Arguments& a, int b, int head, int i, int j, A& slope) {
    A s = dot * A(a.scale);
    slope = A(1);
    if (a.softcap > 0) {
        const A bent = hyperbolic(s / A(a.softcap));
        s = A(a.softcap) * bent;
        slope -= bent * bent;
    }
    if (a.bias.at) {
        s += A(number(a.bias.at,
                      b * a.bias.batch + head * a.bias.head + i * a.bias.row + j * a.bias.column,
                      a.bias_kind));
    }
    return s;
}

// Across the sixteen threads of a row of threads.
template <typename A>
DEVICE A row_sum(A x) {
    for (int m = 8; m > 0; m /= 2) x += __shfl_xor_sync(0xffffffffu, x, m);
    return x;
}
template <typename A>
DEVICE A row_max(A x) {
    for (int m = 8; m > 0; m /= 2) {
        const A y = __shfl_xor_sync(0xffffffffu, x, m);
        x = y > x ? y : x;
    }
    return x;
}
