// Attention forward, in half precision, on tensor cores.
//
// Counted. A block reads `ROWS` queries once and all their keys and values, `4 D` bytes for
// each, with which it does `4 D ROWS` operations: at 128 rows, 128 operations for a byte, and
// the keys and values of a head are read by its other blocks at the same time, from L2. It is
// bound by tensor cores, and then by exponentials: one for each `4 D` operations.
//
//     s = scale q k^T;  p = exp(s - m);  l = sum p;  out = p v / l;  lse = m + log l
//
// Naively that is three passes over scores in memory. Here a tile of scores lives in the
// registers of the warps that made it, `16 M` rows of each: rounded to half precision and
// packed, it is an operand of the second product as it lies. Rows are rescaled when their
// maximum rises, which after a few tiles it seldom does, so a warp asks first.
//
// Keys and values come two tiles deep by asynchronous copies, so that one barrier for each
// tile is enough: it says both that a tile has come and that the one before it is done with.
//
// Single warps multiply (`mma.sync`) on any chip, and every factor comes to their registers from
// shared memory. `M = 2` lets what is read be used twice; beyond 128 columns the accumulator
// leaves no registers for that. Queries stay in registers where these suffice (`HELD`). Two
// blocks share a multiprocessor, and one's exponentials are hidden by the other's products.
//
// On Hopper warpgroups multiply (`GROUPS`, see `warpgroup.cuh`), queries, keys and values where
// they lie. The product with the next keys is in flight while exponentials of this tile are
// taken, and other warpgroups fill what is left of the time. `plan.py` has the numbers.
#include "tile.cuh"

template <typename T, int COLUMNS, int M, int WARPS, int KEYS, bool HELD, int BLOCKS, bool GROUPS,
          bool PLAIN, typename Bias, bool MASKED>
__global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    forward(const __grid_constant__ Arguments a) {
    constexpr int ROWS = 16 * M * WARPS, THREADS = 32 * WARPS;
    constexpr int STEPS = COLUMNS / 16;
    using Queries = Tile<COLUMNS, ROWS>;
    using Keys = Tile<COLUMNS, KEYS>;

    const Seat seat = seat_of<ROWS>(a, false);
    const int b = seat.b, head = seat.head, first = seat.first;
    const Side q_side = seat.q, k_side = seat.k;
    const Band band = seat.band;
    if (first >= q_side.extent) return;
    const Span span = keys_of<KEYS>(band, first, first + ROWS);

    const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16 * M;
    const u32 memory = shared_address(shared_memory());
    const Queries queries(memory);
    const u32 stages = memory + Queries::BYTES;
    const int count = (span.high - span.low + KEYS - 1) / KEYS;
    // What is asked for once a tile is worked out anew, and leaves its registers to scores.
    const auto fetch = [&](const Tokens& x, int part, int n, int columns) {
        if (n >= count) return;
        const T* from = static_cast<const T*>(x.at) + b * x.batch + head / a.group * x.head +
                        k_side.start * x.token;
        Keys(stages + (n % 2 * 2 + part) * Keys::BYTES)
            .template fetch<THREADS>(from, x.token, span.low + n * KEYS, k_side.length, columns);
    };
    const auto keys_at = [&](int n) { return Keys(stages + n % 2 * 2 * Keys::BYTES); };
    const auto values_at = [&](int n) { return Keys(stages + (n % 2 * 2 + 1) * Keys::BYTES); };

    // A score in natural units is `unit` times what is kept.
    const float scale = float(a.scale), unit = PLAIN ? scale : 1.0f, exponent = unit * LOG2E;
    float m[M][2], l[M][2], o[M][COLUMNS / 8][4];
#pragma unroll
    for (int x = 0; x < M; x++) {
        m[x][0] = m[x][1] = -infinity();
        l[x][0] = l[x][1] = 0.0f;
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
            o[x][n][0] = o[x][n][1] = o[x][n][2] = o[x][n][3] = 0.0f;
    }

    const T* q = static_cast<const T*>(a.q.at) + b * a.q.batch + head * a.q.head +
                 q_side.start * a.q.token;
    queries.template fetch<THREADS>(q, a.q.token, first, q_side.length, a.D);
    fetch(a.k, 0, 0, a.D);
    // From products to weights; `alpha` is what the maximum's rise leaves of sums so far.
    const auto soften = [&](float (&s)[M][KEYS / 8][4], float (&alpha)[M][2], int j0) {
        const bool whole = span.whole(j0, KEYS);
#pragma unroll
        for (int x = 0; x < M; x++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int i = first + warp_row + 16 * x + 8 * h + lane / 4;
                const int lowest = i + band.first;
                const int highest = lesser(i + band.last, band.keys - 1);
                const int row = lesser(i, q_side.extent - 1);
                if constexpr (!PLAIN) {
                    if (a.softcap > 0.0) {
                        const float cap = float(a.softcap), inside = scale / cap;
#pragma unroll
                        for (int c = 0; c < KEYS / 4; c++) {
                            float& score = s[x][c / 2][2 * h + c % 2];
                            score = cap * bend(score * inside);
                        }
                    } else {
#pragma unroll
                        for (int c = 0; c < KEYS / 4; c++) s[x][c / 2][2 * h + c % 2] *= scale;
                    }
                }
                if constexpr (!is_none<Bias>::value) {
                    Bias given[KEYS / 4];
                    gather(given, a.bias, b, head, row * a.bias.row, a.bias.column, j0, a.Sk);
#pragma unroll
                    for (int c = 0; c < KEYS / 4; c++)
                        s[x][c / 2][2 * h + c % 2] += widen(given[c]);
                }
                if constexpr (MASKED) {
                    bool seen[KEYS / 4];
                    gather(seen, a.mask, b, head, row * a.mask.row, a.mask.column, j0, a.Sk);
#pragma unroll
                    for (int c = 0; c < KEYS / 4; c++) {
                        float& score = s[x][c / 2][2 * h + c % 2];
                        score = seen[c] ? score : -infinity();
                    }
                }
                if (!whole) {
#pragma unroll
                    for (int c = 0; c < KEYS / 4; c++) {
                        const int j = j0 + c / 2 * 8 + lane % 4 * 2 + c % 2;
                        float& score = s[x][c / 2][2 * h + c % 2];
                        score = j >= lowest && j <= highest ? score : -infinity();
                    }
                }
            }
        }

        bool rises = false;
#pragma unroll
        for (int x = 0; x < M; x++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float top = m[x][h];
#pragma unroll
                for (int c = 0; c < KEYS / 8; c++)
                    top = fmaxf(top, fmaxf(s[x][c][2 * h], s[x][c][2 * h + 1]));
                top = quad_max(top);
                rises = rises || top > m[x][h];
                const float level = top == -infinity() ? 0.0f : top;
                alpha[x][h] = exp2_of((m[x][h] - level) * exponent);
                m[x][h] = top;
                float sum = 0.0f;
#pragma unroll
                for (int c = 0; c < KEYS / 4; c++) {
                    float& score = s[x][c / 2][2 * h + c % 2];
                    // A bias may reach the ends of float32, where a rounded product of it
                    // would say nothing, or overflow; a difference does not.
                    score = is_none<Bias>::value
                                ? exp2_of(fmaf(score, exponent, -level * exponent))
                                : exp2_of((score - level) * LOG2E);
                    sum += score;
                }
                l[x][h] = l[x][h] * alpha[x][h] + sum;
            }
        }
        return rises;
    };
    const auto rescale = [&](const float (&alpha)[M][2], bool rises) {
        if (!__any_sync(0xffffffffu, rises)) return;
#pragma unroll
        for (int x = 0; x < M; x++)
#pragma unroll
            for (int c = 0; c < COLUMNS / 8; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) o[x][c][e] *= alpha[x][e / 2];
    };

    if constexpr (GROUPS) {
        // A warpgroup multiplies the next keys while it weighs values, and has weights of the
        // next when it comes to them.
        static_assert(M == 1 && !HELD, "a warp owns sixteen rows, and 64 are multiplied at once");
        const int group_row = threadIdx.x / 128 * 64;
        float s[1][KEYS / 8][4], alpha[1][2];
        u32 p[KEYS / 16][4];
        end_group();
        fetch(a.k, 0, 1, a.D);
        fetch(a.v, 1, 0, a.DV);
        end_group();
        wait_groups<1>();
        show_to_products();
        __syncthreads();
        const auto begin = [&](int n) {
            open_products();
            begin_rows<T, COLUMNS>(s[0], queries, group_row, keys_at(n));
            end_products();
        };
        if (count > 0) {
            begin(0);
            wait_products<0>();
            settled(s[0]);
            soften(s, alpha, span.low);
            pack_all<T>(p, s[0]);
        }
        const auto arrive = [&]() {
            wait_groups<0>();
            show_to_products();
            __syncthreads();
        };
        for (int n = 0; n < count - 1; n++) {
            arrive();
            fetch(a.k, 0, n + 2, a.D);
            fetch(a.v, 1, n + 1, a.DV);
            end_group();
            begin(n + 1);
            begin_product<T>(o[0], p, values_at(n));
            end_products();
            wait_products<1>();
            settled(s[0]);
            const bool rises = soften(s, alpha, span.low + (n + 1) * KEYS);
            wait_products<0>();
            settled(o[0]);
            rescale(alpha, rises);
            pack_all<T>(p, s[0]);
        }
        if (count > 0) {
            arrive();
            open_products();
            begin_product<T>(o[0], p, values_at(count - 1));
            end_products();
            wait_products<0>();
            settled(o[0]);
        }
    } else {
        fetch(a.v, 1, 0, a.DV);
        end_group();
        u32 held[HELD ? M : 1][HELD ? STEPS : 1][4];
        for (int n = 0; n < count; n++) {
            wait_groups<0>();
            __syncthreads();
            fetch(a.k, 0, n + 1, a.D);
            fetch(a.v, 1, n + 1, a.DV);
            end_group();
            if (HELD && n == 0) {
#pragma unroll
                for (int x = 0; x < M; x++)
#pragma unroll
                    for (int step = 0; step < STEPS; step++)
                        queries.left(held[HELD ? x : 0][HELD ? step : 0], warp_row + 16 * x, step);
            }
            float s[M][KEYS / 8][4] = {}, alpha[M][2];
            const auto own = [&](u32 (&rows)[4], int x, int step) {
                if constexpr (HELD) {
#pragma unroll
                    for (int e = 0; e < 4; e++) rows[e] = held[x][step][e];
                } else {
                    queries.left(rows, warp_row + 16 * x, step);
                }
            };
            add_rows<T, COLUMNS>(s, own, keys_at(n), 0);
            const bool rises = soften(s, alpha, span.low + n * KEYS);
            rescale(alpha, rises);
            add_product<T>(o, s, values_at(n), 0);
        }
    }

    // Nobody reads queries of another warp, so each may write its rows in their place: but
    // only once they have come, which without keys nobody has waited for.
    wait_groups<0>();
    if (count == 0) __syncthreads();
    float* lse = static_cast<float*>(a.lse.at) + b * a.lse.batch + head * a.lse.head + q_side.start;
#pragma unroll
    for (int x = 0; x < M; x++) {
        float share[2];
        bool blank[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int i = first + warp_row + 16 * x + 8 * h + lane / 4;
            float total = quad_sum(l[x][h]), level = m[x][h] * unit, weight = 1.0f;
            if (m[x][h] == -infinity()) level = -infinity();
            if (a.sinks) {
                const float sink = float(number(a.sinks, head, a.sink_kind));
                const float top = fmaxf(level, sink);
                const float base = top == -infinity() ? 0.0f : top;
                weight = exp2_of((level - base) * LOG2E);
                total = total * weight + exp2_of((sink - base) * LOG2E);
                level = top;
            }
            // An empty sum, and not the maximum, says that a row saw nothing (C5).
            const bool nothing = total == 0.0f || i >= q_side.length;
            share[h] = weight / total;
            blank[h] = nothing;
            if (lane % 4 == 0 && i < q_side.extent) {
                const float base = level == -infinity() ? 0.0f : level;
                lse[i] = nothing ? -infinity() : base + log2f(total) * LN2;
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS / 8; c++) {
            float done[4];
            for (int e = 0; e < 4; e++) done[e] = blank[e / 2] ? 0.0f : o[x][c][e] * share[e / 2];
            queries.template put<T>(done, warp_row + 16 * x, c);
        }
    }
    __syncwarp();
    T* out = static_cast<T*>(a.out.at) + b * a.out.batch + head * a.out.head +
             (q_side.start + first) * a.out.token;
    queries.template store<16 * M>(out, a.out.token, warp_row, q_side.extent - first, a.DV);
}
