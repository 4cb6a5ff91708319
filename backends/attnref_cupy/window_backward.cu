// Window attention, backward: the weights are recomputed from lse, never stored (E1).
//
// Counted. A token and head reads q, k, v, out and dout and writes dq, dk and dv: 16 D bytes in half
// precision, for five products of 2 N D operations. Bound by memory, for windows of 49 tokens by a
// factor of five.
//
// The naive form, with s of the forward and delta = rowsum(dout out) - dlse:
//
//     p      = exp(s - lse)
//     dS     = p (dout v^T - delta)
//     dq     = scale dS k             dk = scale dS^T q             dv = p^T dout
//     dbias  = sum of dS              dscale = sum of dS (q k^T)    over windows and batch
//
// The kernel walks through windows as the forward does, see `window_forward.cu`, and reads each array
// once. A warp has sixteen queries for s, dS and dq; then all warps exchange p and dS through shared
// memory, and a warp has sixteen keys for dk and dv. What dS adds up to stays in registers, and what a
// block has in the end is one part of dbias and dscale, for a sum in one order, so that the same call
// gives the same bits. Gradients leave by way of the tile of out, whose rows nobody but their warp reads.

// Measured on an H200: three blocks for a multiprocessor are worth more than a third and fourth stage
// for two (2.2 TB/s for 1.9 in Swin's first stage), and one stage is not enough (1.9). Registers allow
// no fourth block. What the last round of blocks lacks counts: 384 blocks of 32 windows take 0.8 of the
// time of 516 of 24, where 396 run at once.

#include "window.cuh"

template <typename T, int WIDTH, int KEYS, int STAGES, int BLOCKS, bool TURNED, typename Bias, bool MASKED,
          bool DBIAS, bool DSCALE>
__global__ void __launch_bounds__((KEYS + 15) / 16 * 32, BLOCKS) window_backward(const __grid_constant__ WindowCall call) {
    constexpr int WARPS = (KEYS + 15) / 16, ROWS = WARPS * 16, THREADS = WARPS * 32, TILES = KEYS / 8;
    constexpr int READ = 5, COUNT = ARRAYS;
    using Lies = Tile<ROWS, WIDTH, TURNED>;
    using Pairs = Tile<ROWS, ROWS>;
    constexpr int STAGE = READ * Lies::BYTES;
    const int sources[COUNT] = {Q, K, V, OUT, DOUT, DQ, DK, DV, LSE, DLSE, MASK};
    unsigned char* memory = shared_memory();
    unsigned char* weights = memory + STAGES * STAGE;  // p, then dS: queries by keys
    auto& prepared = *reinterpret_cast<Prepared<ROWS, COUNT>*>(weights + 2 * Pairs::BYTES);
    const u32 tiles = shared_address(memory), p_tile = shared_address(weights), ds_tile = p_tile + Pairs::BYTES;
    const int head = blockIdx.x % call.heads, part = blockIdx.x / call.heads;
    const Box box = box_of(call, part);
    const int windows = box.stop - box.start;
    prepare<ROWS, COUNT, THREADS>(prepared, call, box, head, sources);
    clear<STAGES * STAGE + 2 * Pairs::BYTES, THREADS>(memory);
    __syncthreads();
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16, row = first + lane / 4;
    using Mine = Pieces<Lies, KEYS, THREADS>;
    const auto read = [&](int a) { return Mine(prepared.offset[a], 0, threadIdx.x, call.columns[a >= V]); };
    const Mine mine[READ] = {read(Q), read(K), read(V), read(OUT), read(DOUT)};
    // A warp writes its own sixteen rows.
    using Lines = Pieces<Lies, 16, 32>;
    const auto written = [&](int a) { return Lines(prepared.offset[a], first, lane, call.columns[a == DV]); };
    const Lines dq_lines = written(DQ), dk_lines = written(DK), dv_lines = written(DV);
    const auto ask = [&](int t) {
        if (t < windows) {
#pragma unroll
            for (int a = 0; a < READ; a++)
                mine[a].fetch(tiles + t % STAGES * STAGE + a * Lies::BYTES, prepared.origin[t][a]);
        }
        end_group();
    };
    constexpr int AHEAD = STAGES > 1 ? STAGES - 1 : 1;
#pragma unroll
    for (int t = 0; t < AHEAD; t++) ask(t);

    float together[TILES][4], total[DBIAS ? TILES : 1][4] = {}, drawn = 0.0f;
    pair_bias<Bias>(together, call, head, prepared.wrapped, row);
    const float scale = call.scales ? float(number(call.scales, head, call.scales_kind)) : call.scale;

    // The rows of the next window are asked for before this one is computed.
    float next_lse[2], next_dlse[2];
    const auto ask_rows = [&](int t) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int far = prepared.offset[LSE][row + 8 * r];
            next_lse[r] = -infinity();
            next_dlse[r] = 0.0f;
            if (t < windows && far != ABSENT) {
                next_lse[r] = *reinterpret_cast<const float*>(prepared.origin[t][LSE] + far * 4LL);
                if (call.data[DLSE])
                    next_dlse[r] = *reinterpret_cast<const float*>(prepared.origin[t][DLSE] +
                                                                   prepared.offset[DLSE][row + 8 * r] * 4LL);
            }
        }
    };
    ask_rows(0);

    for (int t = 0; t < windows; t++) {
        float level[2] = {next_lse[0], next_lse[1]}, delta[2] = {-next_dlse[0], -next_dlse[1]};
        wait_groups<AHEAD - 1>();
        __syncthreads();
        if constexpr (STAGES > 1) ask(t + AHEAD);
        ask_rows(t + 1);
        const u32 q = tiles + t % STAGES * STAGE, k = q + Lies::BYTES, v = k + Lies::BYTES;
        const u32 out = v + Lies::BYTES, dout = out + Lies::BYTES;
        unsigned char* staged = memory + t % STAGES * STAGE + OUT * Lies::BYTES;

        float told[2] = {0.0f, 0.0f};
#pragma unroll
        for (int d = 0; d < WIDTH; d += 16) {
            u32 x[4], y[4];
            load_matrices(x, Lies::after(out + Lies::of_lane(first), d / 8));
            load_matrices(y, Lies::after(dout + Lies::of_lane(first), d / 8));
#pragma unroll
            for (int e = 0; e < 4; e++)
                told[e % 2] += widen(T{u16(x[e])}) * widen(T{u16(y[e])}) +
                               widen(T{u16(x[e] >> 16)}) * widen(T{u16(y[e] >> 16)});
        }
        float unit[2], base[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // A row that saw nothing has no weights, and so passes nothing finite on (C5).
            const bool seeing = level[r] != -infinity();
            const float whole = delta[r] + quad_sum(told[r]);
            delta[r] = seeing ? whole : 0.0f;
            level[r] = seeing ? level[r] : infinity();
            unit[r] = binary(level[r]);
            base[r] = level[r] * unit[r];
        }
        float p[TILES][4] = {}, ds[TILES][4] = {};
        multiply_across<T, Lies>(p, q, first, k);
        multiply_across<T, Lies>(ds, dout, first, v);
        float dot[DSCALE ? TILES : 1][4];
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if constexpr (DSCALE) dot[n][e] = p[n][e];
                p[n][e] = exp2_of(fmaf(fmaf(p[n][e], scale, together[n][e]), unit[e / 2], -base[e / 2]));
            }
        if constexpr (MASKED) unmasked(p, 0.0f, prepared.origin[t][MASK], prepared.offset[MASK]);
#pragma unroll
        for (int n = 0; n < TILES; n++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                ds[n][e] = p[n][e] * (ds[n][e] - delta[e / 2]);
                if constexpr (DBIAS) total[n][e] += ds[n][e];
                if constexpr (DSCALE) drawn += p[n][e] != 0.0f ? ds[n][e] * dot[n][e] : 0.0f;
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                unsigned char* to = weights + Pairs::at(row, n) + lane % 4 * 4 + r * 8 * Pairs::PITCH;
                *reinterpret_cast<u32*>(to) = pack<T>(p[n][2 * r], p[n][2 * r + 1]);
                *reinterpret_cast<u32*>(to + Pairs::BYTES) = pack<T>(ds[n][2 * r], ds[n][2 * r + 1]);
            }
        }
        {
            float o[WIDTH / 8][4] = {};
#pragma unroll
            for (int step = 0; step < WARPS; step++) {
                u32 x[4];
                as_factor<T>(x, ds, step);
                multiply_down<T, Lies>(o, x, k, step * 16);
            }
            put<T, Lies>(o, scale, scale, staged, first, prepared.origin[t][DQ],
                                dq_lines);
        }
        __syncthreads();
        // Sixteen queries by sixteen keys of a tile, turned: lane by lane.
        const u32 turned = Pairs::at(lane % 8 + lane / 16 * 8, first / 8 + lane / 8 % 2);
        {
            float o[WIDTH / 8][4] = {};
#pragma unroll
            for (int step = 0; step < WARPS; step++) {
                u32 x[4];
                load_transposed(x, p_tile + turned + step * 16 * Pairs::PITCH);
                multiply_down<T, Lies>(o, x, dout, step * 16);
            }
            put<T, Lies>(o, 1.0f, 1.0f, staged, first, prepared.origin[t][DV],
                                dv_lines);
        }
        {
            float o[WIDTH / 8][4] = {};
#pragma unroll
            for (int step = 0; step < WARPS; step++) {
                u32 x[4];
                load_transposed(x, ds_tile + turned + step * 16 * Pairs::PITCH);
                multiply_down<T, Lies>(o, x, q, step * 16);
            }
            put<T, Lies>(o, scale, scale, staged, first, prepared.origin[t][DK],
                                dk_lines);
        }
        if constexpr (STAGES == 1) {
            __syncthreads();
            ask(t + 1);
        }
    }
    wait_groups<0>();

    // Parts lie one after another, and in each heads, then pairs.
    const int lane_of = part * call.heads + head;
    if constexpr (DBIAS) {
        const int tokens = call.window[0] * call.window[1] * call.window[2];
        float* to = call.dbias + i64(lane_of) * tokens * tokens;
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int i = row + e / 2 * 8, j = n * 8 + lane % 4 * 2 + e % 2;
                if (i < tokens && j < tokens) to[i * tokens + j] = total[n][e];
            }
    }
    if constexpr (DSCALE) {
        __syncthreads();
        drawn = warp_sum(drawn);
        float* sums = reinterpret_cast<float*>(memory);
        if (lane == 0) sums[threadIdx.x / 32] = drawn;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int w = 1; w < WARPS; w++) drawn += sums[w];
            call.dscale[lane_of] = drawn;
        }
    }
}

// Add up the parts of a sum, one number of each for every lane of the first axis of threads. The
// parts are dealt to SLICES of a block, whose sums are added in one order.
constexpr int SLICES = 8;

__global__ void __launch_bounds__(32 * SLICES) add_parts(const float* parts, void* to, int count, int numbers, int kind) {
    float* sums = reinterpret_cast<float*>(shared_memory());
    const int slice = threadIdx.x / 32, n = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = 0.0f;
    if (n < numbers) {
#pragma unroll 8
        for (int c = slice; c < count; c += SLICES) sum += parts[i64(c) * numbers + n];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (slice == 0 && n < numbers) {
        for (int s = 1; s < SLICES; s++) sum += sums[s * 32 + threadIdx.x];
        put_number(to, n, kind, sum);
    }
}
