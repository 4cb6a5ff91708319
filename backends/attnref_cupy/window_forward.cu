// Window attention, forward: shift, partition, bias, attention and reverse in one pass.
//
// Counted. A token and head reads q, k, v and writes out: 8 D bytes in half precision, for 4 N D
// operations. With windows of 49 tokens that is 24 operations per byte, a tenth of what the matrix
// units could do meanwhile: bound by memory, as long as nothing but these four is touched.
//
// The naive form is the specification's: roll, cut, attend, put back.
//
// The kernel. A block has one head and walks through windows of one box, see `window.cuh`; a warp has
// sixteen queries and all keys of a window, so that softmax needs no running state, and keeps what is
// added to its pairs in registers throughout. Copies of the next windows are in flight while one is
// computed. Results leave by way of the tile of queries, whose rows nobody but their warp reads.

// Measured on an H200, in Swin's first stage, and kept: 2.2 TB/s before, 2.7 after.
// What a block prepares counts as much as its loop. The bias is asked for at once, of a type that the
// compiler knows: with a kind looked up for each number, each was waited for, 28 in turn, and took as
// long as three windows. Boxes come from the host, strides are 32 bits, and a thread keeps the places of
// its pieces. That brought the loop from 588 instructions to 400 for a window and warp, and what is
// before it from 2600 to 1100. Chunks that change places in a tile, instead of rows that are further
// apart, are worth 7 %: copies and stores touch two rows at a time, which then share no bank.
//
// Tried, and no better: a sixth block for a multiprocessor, which spills; three and four stages; four or
// sixteen windows for a block.

#include "window.cuh"

template <typename Number, int WIDTH, int KEYS, int STAGES, int BLOCKS, bool TURNED, typename Bias, bool MASKED>
__global__ void __launch_bounds__((KEYS + 15) / 16 * 32, BLOCKS) window_forward(const __grid_constant__ WindowCall call) {
    constexpr int WARPS = (KEYS + 15) / 16, ROWS = WARPS * 16, THREADS = WARPS * 32, TILES = KEYS / 8;
    using T = Tile<ROWS, WIDTH, TURNED>;
    constexpr int COUNT = 6;
    const int sources[COUNT] = {Q, K, V, OUT, LSE, MASK};
    unsigned char* memory = shared_memory();
    auto& prepared = *reinterpret_cast<Prepared<ROWS, COUNT>*>(memory + STAGES * 3 * T::BYTES);
    const u32 tiles = shared_address(memory);
    const int head = blockIdx.x % call.heads;
    const Box box = box_of(call, blockIdx.x / call.heads);
    const int windows = box.stop - box.start;
    prepare<ROWS, COUNT, THREADS>(prepared, call, box, head, sources);
    clear<STAGES * 3 * T::BYTES, THREADS>(memory);
    __syncthreads();
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    using Mine = Pieces<T, KEYS, THREADS>;
    const Mine mine[3] = {
        Mine(prepared.offset[0], 0, threadIdx.x, call.columns[0]),
        Mine(prepared.offset[1], 0, threadIdx.x, call.columns[0]),
        Mine(prepared.offset[2], 0, threadIdx.x, call.columns[1]),
    };
    // A warp writes its own sixteen rows.
    const Pieces<T, 16, 32> lines(prepared.offset[3], row - lane / 4, lane, call.columns[1]);
    const auto ask = [&](int t) {
        if (t < windows) {
#pragma unroll
            for (int a = 0; a < 3; a++)
                mine[a].fetch(tiles + (t % STAGES * 3 + a) * T::BYTES, prepared.origin[t][a]);
        }
        end_group();
    };
    constexpr int AHEAD = STAGES > 1 ? STAGES - 1 : 1;
#pragma unroll
    for (int t = 0; t < AHEAD; t++) ask(t);

    float together[TILES][4];
    pair_bias<Bias>(together, call, head, prepared.wrapped, row);
    const float scale = call.scales ? float(number(call.scales, head, call.scales_kind)) : call.scale;

    for (int t = 0; t < windows; t++) {
        wait_groups<AHEAD - 1>();
        __syncthreads();
        if constexpr (STAGES > 1) ask(t + AHEAD);
        const u32 q = tiles + t % STAGES * 3 * T::BYTES, k = q + T::BYTES, v = k + T::BYTES;
        float s[TILES][4] = {};
        multiply_across<Number, T>(s, q, row - lane / 4, k);
        float top[2] = {-infinity(), -infinity()};
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = fmaf(s[n][e], scale, together[n][e]);
        if constexpr (MASKED)
            unmasked(s, -infinity(), prepared.origin[t][5], prepared.offset[5]);
#pragma unroll
        for (int n = 0; n < TILES; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) top[e / 2] = fmaxf(top[e / 2], s[n][e]);
        float sum[2], level[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = quad_max(top[r]);
            level[r] = top[r] == -infinity() ? 0.0f : top[r];
            const float unit = binary(level[r]), base = level[r] * unit;
            float total[2] = {0.0f, 0.0f};
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    s[n][2 * r + e] = exp2_of(fmaf(s[n][2 * r + e], unit, -base));
                    total[e] += s[n][2 * r + e];
                }
            sum[r] = quad_sum(total[0] + total[1]);
        }
        float o[WIDTH / 8][4] = {};
#pragma unroll
        for (int step = 0; step < WARPS; step++) {
            u32 p[4];
            as_factor<Number>(p, s, step);
            multiply_down<Number, T>(o, p, v, step * 16);
        }
        // Where nothing was seen, the sum of values is zero already (C5).
        const float part[2] = {__fdividef(1.0f, sum[0] == 0.0f ? 1.0f : sum[0]),
                               __fdividef(1.0f, sum[1] == 0.0f ? 1.0f : sum[1])};
        put<Number, T>(
            o, part[0], part[1], memory + t % STAGES * 3 * T::BYTES, row - lane / 4, prepared.origin[t][OUT],
            lines
        );
        if (call.data[LSE] && lane % 4 == 0) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int far = prepared.offset[4][row + 8 * r];
                if (far != ABSENT)
                    *reinterpret_cast<float*>(prepared.origin[t][4] + far * 4LL) =
                        sum[r] == 0.0f ? -infinity() : level[r] + log2_of(sum[r]) * LN2;
            }
        }
        if constexpr (STAGES == 1) {
            __syncthreads();
            ask(t + 1);
        }
    }
    wait_groups<0>();
}
