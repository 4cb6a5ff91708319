// Tiles of half precision: in shared memory, and as operands of products.
//
// A row of a tile is a power of two of 128 bytes or more, cut into chunks of sixteen. Chunk
// `c` of row `r` lies at place `c ^ (r % 8)`: eight rows of one column then lie in different
// banks, whether a warp reads them as a matrix or as its transpose.
#pragma once
#include "problem.cuh"

template <int COLUMNS, int ROWS>
struct Tile {
    static constexpr int WIDTH = COLUMNS <= 64 ? 64 : COLUMNS <= 128 ? 128 : 256;
    static constexpr int PITCH = 2 * WIDTH;
    static constexpr int BYTES = ROWS * PITCH;

    u32 base;

    DEVICE explicit Tile(u32 address) : base(address) {}

    DEVICE u32 at(int row, int chunk) const {
        return base + row * PITCH + ((chunk ^ (row & 7)) << 4);
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

// A number of a bias or mask, which broadcasts to the scores.
template <typename T>
DEVICE T entry(const Table& x, int b, int head, int i, int j) {
    return static_cast<const T*>(x.at)[b * x.batch + head * x.head + i * x.row + j * x.column];
}
