// Tiles of half precision: in shared memory, and as operands of products.
//
// Sixty-four columns of all rows lie together: rows of 128 bytes, cut into chunks of sixteen, and
// after them the next columns. Chunk `c` of row `r` lies at place `c ^ (r % 8)`: eight rows of one
// column then lie in different banks, whether a warp reads them as a matrix or as its transpose.
// Tiles begin at multiples of 1024 bytes, so that products of a warpgroup find the same places.
#pragma once
#include "problem.cuh"
#include "warpgroup.cuh"

template <int COLUMNS, int ROWS>
struct Tile {
    static constexpr int WIDTH = COLUMNS <= 64 ? 64 : COLUMNS <= 128 ? 128 : 256;
    static constexpr int PITCH = 128;
    static constexpr int APART = ROWS * PITCH;  // from sixty-four columns to the next
    static constexpr int BYTES = WIDTH / 64 * APART;

    u32 base;

    DEVICE explicit Tile(u32 address) : base(address) {}

    DEVICE u32 at(int row, int chunk) const {
        return base + chunk / 8 * APART + row * PITCH + ((chunk % 8 ^ (row & 7)) << 4);
    }
    // The columns `[16 k, 16 k + 16)` of the rows from `row` on, as a factor of a warpgroup's.
    DEVICE u64 factor_at(int row, int k) const {
        return factor(base + k / 4 * APART + row * PITCH + k % 4 * 32, APART);
    }

    // Begin to copy the rows `[first, first + ROWS)` of an array of `end` rows, `step` apart.
    // What is beyond rows and columns becomes zero and is not read.
    template <int THREADS, typename T>
    DEVICE void fetch(const T* from, i64 step, int first, int end, int columns) const {
        constexpr int CHUNKS = WIDTH / 8, PASS = THREADS / CHUNKS;
        const int chunk = threadIdx.x % CHUNKS, row = threadIdx.x / CHUNKS;
        if (chunk * 8 >= COLUMNS) return;
        const T* source = from + (first + row) * step + chunk * 8;
#pragma unroll
        for (int r = 0; r < ROWS; r += PASS) {
            if (ROWS % PASS == 0 || r + row < ROWS) {
                const bool real = first + r + row < end && chunk * 8 < columns;
                copy_sixteen(at(r + row, chunk), real ? source + r * step : from, real);
            }
        }
    }

    // The rows `[row, row + 16)` and columns `[16 k, 16 k + 16)` as a left operand.
    DEVICE void left(u32 (&x)[4], int row, int k) const {
        const int lane = threadIdx.x % 32;
        load_matrices(x, at(row + lane % 16, 2 * k + lane / 16));
    }
    // The same, transposed, as a left operand: columns become its rows.
    DEVICE void left_transposed(u32 (&x)[4], int row, int k) const {
        const int lane = threadIdx.x % 32;
        load_transposed(x, at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    }
    // A right operand whose columns are the rows `[row, row + 16)`, for columns
    // `[16 k, 16 k + 16)` to be summed over: `y[0..1]` for eight of them, `y[2..3]` for eight.
    DEVICE void right_rows(u32 (&y)[4], int row, int k) const {
        const int lane = threadIdx.x % 32;
        load_matrices(y, at(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    }
    // A right operand whose rows `[row, row + 16)` are summed over, for the columns
    // `[16 n, 16 n + 16)`: `y[0..1]` for eight of them, `y[2..3]` for eight.
    DEVICE void right(u32 (&y)[4], int row, int n) const {
        const int lane = threadIdx.x % 32;
        load_transposed(y, at(row + lane % 16, 2 * n + lane / 16));
    }

    // Keep the numbers of a product `c` at row `row + lane / 4` (+ 8), columns `8 n` on.
    template <typename T>
    DEVICE void put(const float (&c)[4], int row, int n) const {
        const int lane = threadIdx.x % 32;
        const u32 inside = base - shared_address(shared_memory()) + lane % 4 * 4;
        const u32 origin = at(row + lane / 4, n) - base;
        *reinterpret_cast<u32*>(shared_memory() + inside + origin) = pack<T>(c[0], c[1]);
        *reinterpret_cast<u32*>(shared_memory() + inside + origin + 8 * PITCH) =
            pack<T>(c[2], c[3]);
    }

    // Have a warp write `ROWS_OF_WARP` rows from `row` on, those below `end`, to an array.
    template <int COUNT, typename T>
    DEVICE void store(T* to, i64 step, int row, int end, int columns) const {
        constexpr int CHUNKS = WIDTH / 8;
        const int lane = threadIdx.x % 32;
        const u32 inside = base - shared_address(shared_memory());
#pragma unroll
        for (int n = 0; n < COUNT * CHUNKS / 32; n++) {
            const int r = row + (n * 32 + lane) / CHUNKS, chunk = lane % CHUNKS;
            if (r < end && chunk * 8 < columns) {
                *reinterpret_cast<uint4*>(to + r * step + chunk * 8) =
                    *reinterpret_cast<const uint4*>(shared_memory() + inside + at(r, chunk) - base);
            }
        }
    }
};

// `s += x y^T` for sixteen rows of each of `M`, which `left` gives for a step of sixteen columns,
// and the rows of `y` from `from` on.
template <typename T, int COLUMNS, int M, int TILES, typename Left, typename Other>
DEVICE void add_rows(float (&s)[M][TILES][4], const Left& left, const Other& y, int from) {
#pragma unroll
    for (int step = 0; step < COLUMNS / 16; step++) {
        u32 rows[M][4], other[4];
#pragma unroll
        for (int x = 0; x < M; x++) left(rows[x], x, step);
#pragma unroll
        for (int c = 0; c < TILES / 2; c++) {
            y.right_rows(other, from + 16 * c, step);
#pragma unroll
            for (int x = 0; x < M; x++) {
                multiply<T>(s[x][2 * c], rows[x], other[0], other[1]);
                multiply<T>(s[x][2 * c + 1], rows[x], other[2], other[3]);
            }
        }
    }
}

// Sixteen columns of weights, rounded, as a left operand: they lie as they should.
template <typename T, int TILES>
DEVICE void as_left(u32 (&x)[4], const float (&w)[TILES][4], int step) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        const float(&c)[4] = w[2 * step + e / 2];
        x[e] = e % 2 ? pack<T>(c[2], c[3]) : pack<T>(c[0], c[1]);
    }
}

template <typename T, int STEPS, int TILES>
DEVICE void pack_all(u32 (&x)[STEPS][4], const float (&w)[TILES][4]) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) as_left<T>(x[step], w, step);
}

// `sum += w y` for the weights `w` and the rows of `y` from `from` on.
template <typename T, int M, int TILES, int WIDE, typename Other>
DEVICE void add_product(float (&sum)[M][WIDE][4], const float (&w)[M][TILES][4], const Other& y,
                        int from) {
#pragma unroll
    for (int step = 0; step < TILES / 2; step++) {
        u32 rows[M][4], other[4];
#pragma unroll
        for (int x = 0; x < M; x++) as_left<T>(rows[x], w[x], step);
#pragma unroll
        for (int c = 0; c < WIDE / 2; c++) {
            y.right(other, from + 16 * step, c);
#pragma unroll
            for (int x = 0; x < M; x++) {
                multiply<T>(sum[x][2 * c], rows[x], other[0], other[1]);
                multiply<T>(sum[x][2 * c + 1], rows[x], other[2], other[3]);
            }
        }
    }
}

// The same two, of a warpgroup and on their own: `s = x y^T` of the 64 rows of `x` from `row` on
// and all rows of `y`, and `sum += w y`.
template <typename T, int COLUMNS, int TILES, typename Left, typename Right>
DEVICE void begin_rows(float (&s)[TILES][4], const Left& x, int row, const Right& y) {
#pragma unroll
    for (int step = 0; step < COLUMNS / 16; step++)
        multiply_rows<T, TILES>(s, x.factor_at(row, step), y.factor_at(0, step), step > 0);
}
template <typename T, int STEPS, int WIDE, typename Other>
DEVICE void begin_product(float (&sum)[WIDE][4], const u32 (&w)[STEPS][4], const Other& y) {
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        multiply_columns<T, WIDE>(sum, w[step], y.factor_at(16 * step, 0));
}

// A hyperbolic tangent: `1 - 2 / (e^{2x} + 1)`, near zero a short odd polynomial.
//
// The former cancels near zero, by as much as half a unit of float32 at one. The hardware's
// own approximation has eleven bits, and even bfloat16 would notice them once they are
// multiplied by a cap.
DEVICE float bend(float x) {
    const float far = 1.0f - __fdividef(2.0f, exp2_of(x * (2.0f * LOG2E)) + 1.0f);
    const float y = x * x;
    const float near =
        x + x * y * (-0.333333333f + y * (0.133333333f + y * (-0.0539682540f + y * 0.0218694885f)));
    return fabsf(x) < 0.25f ? near : far;
}

// What a lane has of a row of scores, or of a column, from a bias or mask that broadcasts to them:
// pairs of adjacent numbers, eight apart. All are asked for before one is waited for, and what lies
// beyond the array is its last number again.
template <typename T, int COUNT>
DEVICE void gather(T (&to)[COUNT], const Table& x, int b, int head, i64 line, i64 step, int first,
                   int end) {
    const T* from = static_cast<const T*>(x.at) + b * x.batch + head * x.head + line;
#pragma unroll
    for (int c = 0; c < COUNT; c++)
        to[c] = from[lesser(first + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2, end - 1) * step];
}
