// Gradients of attention, in half precision, on tensor cores.
//
// Counted. Two walks, each of which computes scores and `dout v^T` anew: three products of
// `2 D` operations for a pair where queries are kept, four where keys are. That is seven, for
// five that are needed, and buys sums that are made where they are kept: nothing is added up
// in an order that varies, and heads that share keys are summed in registers (E3). Both walks
// are bound by tensor cores, and before these by what feeds them: sixteen columns of a tile
// are read from shared memory for `2 M` products, so `M = 2` where registers allow it.
//
//     p = exp(s - lse);  dS = p (dout v^T - delta);  dA = dS (1 - (c / cap)^2)
//     dq = scale dA k;   dk = scale dA^T q;          dv = p^T dout
//
// A warp owns `16 M` rows. What it multiplies them with passes through shared memory a tile
// at a time, and through its registers a strip of `STRIP` rows at a time: scores of a strip
// are few, so that a warp's own rows stay in registers beside the sums (`HELD`), and memory
// that they came by is where tiles go. With keys owned, a strip of scores is made
// transposed, as `k q^T`: then weights, packed, are an operand of the second product as they
// lie, in both walks, and warps have nothing to tell each other.
//
// On Hopper warpgroups multiply (`GROUPS`), a tile is one strip, and what is owned is multiplied
// where it lies. Scores are weighed while `dout v^T` is in flight, and that is waited for while
// the weights' product with `dout` is.
//
// A bias has a gradient, `dS`, which the walk of queries adds up where it lies, in any order.
#include "tile.cuh"

// Where a strip lies to the rows of a warp: seen by nobody, by everybody, or by some.
enum class Sight { NONE, ALL, SOME };

DEVICE Sight sight_of(const Band& band, int i0, int queries, int j0, int keys) {
    const int i1 = i0 + queries - 1, j1 = j0 + keys - 1;
    if (i0 >= band.queries || j0 >= band.keys || j1 < i0 + band.first || j0 > i1 + band.last)
        return Sight::NONE;
    const bool all = i1 < band.queries && j1 < band.keys && j0 >= i1 + band.first &&
                     j1 <= i0 + band.last;
    return all ? Sight::ALL : Sight::SOME;
}

// The rows `[row, row + 16 M)` of a tile, which a warp owns, as left operands.
template <int COLUMNS, int ROWS, int M, bool HELD>
struct Own {
    static constexpr int STEPS = COLUMNS / 16;
    Tile<COLUMNS, ROWS> tile;
    int row;
    u32 held[HELD ? M : 1][HELD ? STEPS : 1][4];

    DEVICE Own(u32 address, int first) : tile(address), row(first) {}

    DEVICE void hold() {
        if constexpr (HELD) {
#pragma unroll
            for (int x = 0; x < M; x++)
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    tile.left(held[x][step], row + 16 * x, step);
        }
    }
    // `s += own y^T` for as many rows of `y` from `from` on.
    template <typename T, int TILES, typename Other>
    DEVICE void product(float (&s)[M][TILES][4], const Other& y, int from) const {
        const auto mine = [&](u32 (&rows)[4], int x, int step) {
            if constexpr (HELD) {
#pragma unroll
                for (int e = 0; e < 4; e++) rows[e] = held[x][step][e];
            } else {
                tile.left(rows, row + 16 * x, step);
            }
        };
        add_rows<T, COLUMNS>(s, mine, y, from);
    }
};

// How a product of two rows becomes a weight. Levels are in units of binary logarithms where
// nothing stands between a product and its exponential.
template <bool CAPPED, typename Bias>
struct Weighing {
    static constexpr bool BIASED = !is_none<Bias>::value, PLAIN = !CAPPED && !BIASED;
    static constexpr float UNIT = PLAIN ? LOG2E : 1.0f;
    float scale, cap;

    // A cap is inside of a hyperbolic tangent, too.
    DEVICE explicit Weighing(const Arguments& a)
        : scale(CAPPED ? float(a.scale) / float(a.softcap) : float(a.scale) * UNIT),
          cap(float(a.softcap)) {}

    // `s` becomes the weight of the pair, and `slope` what the cap leaves of a gradient.
    DEVICE void weigh(float& s, float& slope, float level, float bias) const {
        if constexpr (CAPPED) {
            const float bent = bend(s * scale);
            slope = 1.0f - bent * bent;
            s = exp2_of((fmaf(cap, bent, bias) - level) * LOG2E);
        } else if constexpr (BIASED) {
            s = exp2_of((fmaf(s, scale, bias) - level) * LOG2E);
        } else {
            s = exp2_of(fmaf(s, scale, -level));
        }
    }
    // The cap's part of a gradient; a slope of what nobody sees may be anything.
    DEVICE void bend_back(float& ds, float slope) const {
        if (CAPPED) ds = ds == 0.0f ? 0.0f : ds * slope;
    }
};

// What a lane has of a bias or mask for a strip, whose rows a warp owns (or whose columns,
// `BY_KEY`); nothing, and no code, of a type that is none.
template <typename T, int M, int STRIP, bool BY_KEY>
struct Given {
    T at[M][2][STRIP / 4];

    DEVICE Given(const Arguments& a, const Table& x, int b, int head, int i0, int j0) {
        if constexpr (!is_none<T>::value) {
            const int own = (BY_KEY ? j0 : i0) + threadIdx.x % 32 / 4;
            const int end = BY_KEY ? a.Sk : a.Sq;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int line = lesser(own + 16 * m + 8 * h, end - 1);
                    gather(at[m][h], x, b, head, line * (BY_KEY ? x.column : x.row),
                           BY_KEY ? x.row : x.column, BY_KEY ? i0 : j0, BY_KEY ? a.Sq : a.Sk);
                }
        }
    }
    DEVICE float number(int m, int c, int e) const {
        if constexpr (is_none<T>::value) {
            return 0.0f;
        } else {
            return widen(at[m][e / 2][2 * c + e % 2]);
        }
    }
    DEVICE bool truth(int m, int c, int e) const {
        if constexpr (is_none<T>::value) {
            return true;
        } else {
            return at[m][e / 2][2 * c + e % 2];
        }
    }
};
template <bool MASKED>
struct mask_of {
    using type = none;
};
template <>
struct mask_of<true> {
    using type = bool;
};

// Do something with each pair that a lane has of a strip: where it is kept, and which it is.
template <int M, int STRIP, typename Act>
DEVICE void each_pair(int i0, int j0, const Act& act) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int x = 0; x < M; x++)
#pragma unroll
        for (int c = 0; c < STRIP / 8; c++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                act(x, c, e, i0 + 16 * x + e / 2 * 8 + lane / 4, j0 + 8 * c + lane % 4 * 2 + e % 2);
}
// The same where rows are keys, with a number of the pair's query, of those that `at` has.
template <int M, int STRIP, typename Act>
DEVICE void each_pair_by_key(const float* at, int i0, int j0, const Act& act) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < STRIP / 8; c++) {
        const float2 two = *reinterpret_cast<const float2*>(at + 8 * c + lane % 4 * 2);
#pragma unroll
        for (int x = 0; x < M; x++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                act(x, c, e, e % 2 ? two.y : two.x, i0 + 8 * c + lane % 4 * 2 + e % 2,
                    j0 + 16 * x + e / 2 * 8 + lane / 4);
    }
}

// Write the rows of a warp by way of a tile of shared memory, where nobody reads any more.
template <typename T, int M, int COLUMNS, int ROWS>
DEVICE void write_rows(const float (&sum)[M][COLUMNS / 8][4], float scale, u32 address, int row,
                       const Tokens& to, int b, int head, const Side& side, int first,
                       int columns) {
    const Tile<COLUMNS, ROWS> tile(address);
#pragma unroll
    for (int x = 0; x < M; x++)
#pragma unroll
        for (int c = 0; c < COLUMNS / 8; c++) {
            float done[4];
#pragma unroll
            for (int e = 0; e < 4; e++) done[e] = sum[x][c][e] * scale;
            tile.template put<T>(done, row + 16 * x, c);
        }
    __syncwarp();
    T* at = static_cast<T*>(to.at) + b * to.batch + head * to.head + (side.start + first) * to.token;
    tile.template store<16 * M>(at, to.token, row, side.extent - first, columns);
}

template <typename T>
DEVICE const T* rows_of(const Tokens& x, int b, int head, int start) {
    return static_cast<const T*>(x.at) + b * x.batch + head * x.head + start * x.token;
}
DEVICE const float* numbers_of(const Rows& x, int b, int head, int start) {
    return static_cast<const float*>(x.at) + b * x.batch + head * x.head + start;
}

// What a row that saw nothing is weighed by: no score reaches it (C5).
DEVICE float level_of(float lse) { return lse == -infinity() ? infinity() : lse; }

// Add a strip's gradients to that of the bias, which is summed where it lies, in any order. What it
// is broadcast over is summed first as far as a warp has it.
template <int M, int TILES>
DEVICE void add_to_bias(const Arguments& a, const float (&ds)[M][TILES][4], int b, int head, int i0,
                        int j0) {
    const int lane = threadIdx.x % 32;
    float* to = static_cast<float*>(a.dbias.at) + b * a.dbias.batch + head * a.dbias.head;
#pragma unroll
    for (int c = 0; c < TILES; c++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const i64 j = (j0 + 8 * c + lane % 4 * 2 + e) * a.dbias.column;
            if (a.dbias.row == 0) {
                float sum = 0.0f;
#pragma unroll
                for (int x = 0; x < M; x++) sum += ds[x][c][e] + ds[x][c][e + 2];
#pragma unroll
                for (int m = 4; m < 32; m *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
                if (lane < 4 && sum != 0.0f) atomicAdd(to + j, sum);
            } else {
#pragma unroll
                for (int x = 0; x < M; x++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const i64 i = i0 + 16 * x + 8 * h + lane / 4;
                        const float one = ds[x][c][e + 2 * h];
                        if (one != 0.0f) atomicAdd(to + i * a.dbias.row + j, one);
                    }
            }
        }
}

template <typename T, int COLUMNS, int M, int WARPS, int TILE, int STRIP, bool HELD, int BLOCKS,
          bool GROUPS, bool CAPPED, bool MASKED, typename Bias>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    backward_queries(const __grid_constant__ Arguments a) {
    constexpr int ROWS = 16 * M * WARPS, THREADS = 32 * WARPS;
    using Keys = Tile<COLUMNS, TILE>;
    using Queries = Own<COLUMNS, ROWS, M, HELD>;
    constexpr int OWNED = 2 * Tile<COLUMNS, ROWS>::BYTES;

    const Seat seat = seat_of<ROWS>(a, false);
    const int b = seat.b, head = seat.head, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= q_side.extent) return;
    const Span span = keys_of<TILE>(band, first, first + ROWS);

    // Rows that are multiplied together: those of a warp, or 64 of a warpgroup.
    constexpr int TOGETHER = GROUPS ? 64 : 16 * M;
    static_assert(!GROUPS || (M == 1 && !HELD && STRIP == TILE), "a warpgroup takes whole tiles");
    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M;
    const int together = warp_row / TOGETHER * TOGETHER;
    const u32 memory = shared_address(shared_memory());
    const u32 stages = HELD ? memory : memory + OWNED;
    const T* k = rows_of<T>(a.k, b, head / a.group, k_side.start);
    const T* v = rows_of<T>(a.v, b, head / a.group, k_side.start);
    const int count = (span.high - span.low + TILE - 1) / TILE;
    const auto fetch = [&](int n) {
        if (n < count) {
            const u32 stage = stages + n % 2 * 2 * Keys::BYTES;
            const int j0 = span.low + n * TILE;
            Keys(stage).template fetch<THREADS>(k, a.k.token, j0, k_side.length, a.D);
            Keys(stage + Keys::BYTES).template fetch<THREADS>(v, a.v.token, j0, k_side.length, a.DV);
        }
        end_group();
    };

    Queries q(memory, warp_row), dout(memory + OWNED / 2, warp_row);
    q.tile.template fetch<THREADS>(rows_of<T>(a.q, b, head, q_side.start), a.q.token, first,
                                   q_side.length, a.D);
    dout.tile.template fetch<THREADS>(rows_of<T>(a.dout, b, head, q_side.start), a.dout.token,
                                      first, q_side.length, a.DV);
    using Weigh = Weighing<CAPPED, Bias>;
    const Weigh weighing(a);
    float level[M][2], delta[M][2], sum[M][COLUMNS / 8][4] = {};
    const float* lse_at = numbers_of(a.lse, b, head, q_side.start);
    const float* delta_at = numbers_of(a.delta, b, head, q_side.start);
#pragma unroll
    for (int x = 0; x < M; x++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int i = first + warp_row + 16 * x + 8 * h + lane / 4;
            const bool real = i < q_side.length;
            level[x][h] = real ? level_of(lse_at[i]) * Weigh::UNIT : infinity();
            delta[x][h] = real ? delta_at[i] : 0.0f;
        }
    if (HELD) {
        end_group();
        wait_groups<0>();
        __syncthreads();
        q.hold();
        dout.hold();
        __syncthreads();
    }
    fetch(0);

    for (int n = 0; n < count; n++) {
        wait_groups<0>();
        if (GROUPS) show_to_products();
        __syncthreads();
        fetch(n + 1);
        const Keys keys(stages + n % 2 * 2 * Keys::BYTES), values(keys.base + Keys::BYTES);
#pragma unroll 1
        for (int strip = 0; strip < TILE; strip += STRIP) {
            const int i0 = first + warp_row, j0 = span.low + n * TILE + strip;
            const Sight sight = sight_of(band, first + together, TOGETHER, j0, STRIP);
            if (sight == Sight::NONE) continue;
            float s[M][STRIP / 8][4] = {}, ds[M][STRIP / 8][4] = {};
            float slope[M][CAPPED ? STRIP / 8 : 1][4];
            if constexpr (GROUPS) {
                open_products();
                begin_rows<T, COLUMNS>(s[0], q.tile, together, keys);
                end_products();
                begin_rows<T, COLUMNS>(ds[0], dout.tile, together, values);
                end_products();
                wait_products<1>();
                settled(s[0]);
            } else {
                q.template product<T>(s, keys, strip);
                dout.template product<T>(ds, values, strip);
            }
            const Given<Bias, M, STRIP, false> bias(a, a.bias, b, head, i0, j0);
            each_pair<M, STRIP>(i0, j0, [&](int x, int c, int e, int, int) {
                weighing.weigh(s[x][c][e], slope[x][CAPPED ? c : 0][e], level[x][e / 2],
                               bias.number(x, c, e));
            });
            if constexpr (GROUPS) {
                wait_products<0>();
                settled(ds[0]);
            }
            each_pair<M, STRIP>(i0, j0, [&](int x, int c, int e, int, int) {
                ds[x][c][e] = s[x][c][e] * (ds[x][c][e] - delta[x][e / 2]);
            });
            if (MASKED || sight == Sight::SOME) {
                using Mask = Given<typename mask_of<MASKED>::type, M, STRIP, false>;
                const Mask mask(a, a.mask, b, head, i0, j0);
                each_pair<M, STRIP>(i0, j0, [&](int x, int c, int e, int i, int j) {
                    if (!sees(band, i, j) || !mask.truth(x, c, e)) ds[x][c][e] = 0.0f;
                });
            }
            if constexpr (Weigh::BIASED) add_to_bias(a, ds, b, head, i0, j0);
            if constexpr (CAPPED) {
                each_pair<M, STRIP>(i0, j0, [&](int x, int c, int e, int, int) {
                    weighing.bend_back(ds[x][c][e], slope[x][c][e]);
                });
            }
            if constexpr (GROUPS) {
                u32 w[STRIP / 16][4];
                pack_all<T>(w, ds[0]);
                open_products();
                begin_product<T>(sum[0], w, keys);
                end_products();
                wait_products<0>();
                settled(sum[0]);
            } else {
                add_product<T>(sum, ds, keys, strip);
            }
        }
    }
    wait_groups<0>();
    __syncthreads();
    write_rows<T, M, COLUMNS, ROWS>(sum, float(a.scale), memory, warp_row, a.dq, b, head, q_side,
                                    first, a.D);
}

template <typename T, int COLUMNS, int M, int WARPS, int TILE, int STRIP, bool HELD, int BLOCKS,
          bool GROUPS, bool CAPPED, bool MASKED, typename Bias>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    backward_keys(const __grid_constant__ Arguments a) {
    constexpr int ROWS = 16 * M * WARPS, THREADS = 32 * WARPS;
    using Queries = Tile<COLUMNS, TILE>;
    using Keys = Own<COLUMNS, ROWS, M, HELD>;
    constexpr int OWNED = 2 * Tile<COLUMNS, ROWS>::BYTES, STAGE = 2 * Queries::BYTES;
    constexpr int ROOM = HELD ? (OWNED > 2 * STAGE ? OWNED : 2 * STAGE) : OWNED + 2 * STAGE;
    static_assert(2 * TILE <= THREADS, "a thread reads one number of a tile's rows");

    const Seat seat = seat_of<ROWS>(a, true);
    const int b = seat.b, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= k_side.extent) return;
    const Span span = queries_of<TILE>(band, first, first + ROWS);

    // Rows that are multiplied together: those of a warp, or 64 of a warpgroup.
    constexpr int TOGETHER = GROUPS ? 64 : 16 * M;
    static_assert(!GROUPS || (M == 1 && !HELD && STRIP == TILE), "a warpgroup takes whole tiles");
    const int warp_row = threadIdx.x / 32 * 16 * M;
    const int together = warp_row / TOGETHER * TOGETHER;
    const u32 memory = shared_address(shared_memory());
    const u32 stages = HELD ? memory : memory + OWNED;
    float* numbers = reinterpret_cast<float*>(shared_memory() + ROOM);  // lse, delta; two stages
    const int tiles = (span.high - span.low + TILE - 1) / TILE, count = tiles * a.group;
    using Weigh = Weighing<CAPPED, Bias>;
    const Weigh weighing(a);
    float number_ahead = 0.0f;
    // Tile `n` is one of the queries of one of the heads that share these keys.
    const auto fetch = [&](int n) {
        if (n < count) {
            const int head = seat.head * a.group + n / tiles, i0 = span.low + n % tiles * TILE;
            const T* q = rows_of<T>(a.q, b, head, q_side.start);
            const T* dout = rows_of<T>(a.dout, b, head, q_side.start);
            const u32 stage = stages + n % 2 * STAGE;
            Queries(stage).template fetch<THREADS>(q, a.q.token, i0, q_side.length, a.D);
            Queries(stage + Queries::BYTES)
                .template fetch<THREADS>(dout, a.dout.token, i0, q_side.length, a.DV);
            if (threadIdx.x < 2 * TILE) {
                const bool is_lse = threadIdx.x < TILE;
                const int i = i0 + threadIdx.x % TILE;
                const float* from = numbers_of(is_lse ? a.lse : a.delta, b, head, q_side.start);
                const bool real = i < q_side.length;
                const float x = real ? from[i] : is_lse ? infinity() : 0.0f;
                number_ahead = is_lse ? level_of(x) * Weigh::UNIT : x;
            }
        }
        end_group();
    };
    const auto publish = [&](int n) {
        if (threadIdx.x < 2 * TILE) numbers[n % 2 * 2 * TILE + threadIdx.x] = number_ahead;
    };

    Keys k(memory, warp_row), v(memory + OWNED / 2, warp_row);
    k.tile.template fetch<THREADS>(rows_of<T>(a.k, b, seat.head, k_side.start), a.k.token, first,
                                   k_side.length, a.D);
    v.tile.template fetch<THREADS>(rows_of<T>(a.v, b, seat.head, k_side.start), a.v.token, first,
                                   k_side.length, a.DV);
    float sum_k[M][COLUMNS / 8][4] = {}, sum_v[M][COLUMNS / 8][4] = {};
    if (HELD) {
        end_group();
        wait_groups<0>();
        __syncthreads();
        k.hold();
        v.hold();
        __syncthreads();
    }
    fetch(0);

    for (int n = 0; n < count; n++) {
        publish(n);
        wait_groups<0>();
        if (GROUPS) show_to_products();
        __syncthreads();
        fetch(n + 1);
        const Queries q(stages + n % 2 * STAGE), dout(q.base + Queries::BYTES);
        const int tile = n % tiles * TILE + span.low;
#pragma unroll 1
        for (int strip = 0; strip < TILE; strip += STRIP) {
            const int i0 = tile + strip, j0 = first + warp_row;
            const Sight sight = sight_of(band, i0, STRIP, first + together, TOGETHER);
            if (sight == Sight::NONE) continue;
            float s[M][STRIP / 8][4] = {}, ds[M][STRIP / 8][4] = {};
            float slope[M][CAPPED ? STRIP / 8 : 1][4];
            if constexpr (GROUPS) {
                open_products();
                begin_rows<T, COLUMNS>(s[0], k.tile, together, q);
                end_products();
                begin_rows<T, COLUMNS>(ds[0], v.tile, together, dout);
                end_products();
                wait_products<1>();
                settled(s[0]);
            } else {
                k.template product<T>(s, q, strip);
                v.template product<T>(ds, dout, strip);
            }
            const int head = seat.head * a.group + n / tiles;
            const float* level = numbers + n % 2 * 2 * TILE + strip;
            const Given<Bias, M, STRIP, true> bias(a, a.bias, b, head, i0, j0);
            each_pair_by_key<M, STRIP>(level, i0, j0,
                                       [&](int x, int c, int e, float of_row, int, int) {
                weighing.weigh(s[x][c][e], slope[x][CAPPED ? c : 0][e], of_row,
                               bias.number(x, c, e));
            });
            // By selection: a weight or gradient of what nobody sees may be anything.
            const auto hide = [&](float (&w)[M][STRIP / 8][4]) {
                if (!MASKED && sight == Sight::ALL) return;
                using Mask = Given<typename mask_of<MASKED>::type, M, STRIP, true>;
                const Mask mask(a, a.mask, b, head, i0, j0);
                each_pair_by_key<M, STRIP>(level, i0, j0,
                                           [&](int x, int c, int e, float, int i, int j) {
                    if (!sees(band, i, j) || !mask.truth(x, c, e)) w[x][c][e] = 0.0f;
                });
            };
            hide(s);
            if constexpr (GROUPS) {
                u32 w[STRIP / 16][4];
                pack_all<T>(w, s[0]);
                open_products();
                begin_product<T>(sum_v[0], w, dout);
                end_products();
                wait_products<1>();
                settled(ds[0]);
            } else {
                add_product<T>(sum_v, s, dout, strip);
            }
            each_pair_by_key<M, STRIP>(level + TILE, i0, j0,
                                       [&](int x, int c, int e, float of_row, int, int) {
                ds[x][c][e] = s[x][c][e] * (ds[x][c][e] - of_row);
                if (CAPPED) weighing.bend_back(ds[x][c][e], slope[x][CAPPED ? c : 0][e]);
            });
            hide(ds);
            if constexpr (GROUPS) {
                u32 w[STRIP / 16][4];
                pack_all<T>(w, ds[0]);
                open_products();
                begin_product<T>(sum_k[0], w, q);
                end_products();
                wait_products<0>();
                settled(sum_v[0]);
                settled(sum_k[0]);
            } else {
                add_product<T>(sum_k, ds, q, strip);
            }
        }
    }
    wait_groups<0>();
    __syncthreads();
    write_rows<T, M, COLUMNS, ROWS>(sum_k, float(a.scale), memory, warp_row, a.dk, b, seat.head,
                                    k_side, first, a.D);
    write_rows<T, M, COLUMNS, ROWS>(sum_v, 1.0f, memory + OWNED / 2, warp_row, a.dv, b, seat.head,
                                    k_side, first, a.DV);
}
