// What every attention kernel is told, and who sees whom.
//
// `call.py` fills an `Arguments` in; `structures.py` has its layout in Python. An array is a
// pointer and its strides in elements, so that any layout and any broadcast (a stride of
// zero) is just numbers. An absent array is a null pointer.
//
// Visibility costs nothing where it is decided by loop bounds. Row `i` sees the keys
// `i + first <= j <= i + last` of its band below its sequence's length. `Span` turns that
// into the tiles that nobody sees, which are never visited; those that everybody sees, which
// need no comparison; and the ragged ones in between, which cost one for each score.
#pragma once
#include "mma.cuh"

constexpr int FAR = 1 << 30;       // more tokens than there can be
constexpr i64 OPEN = i64(1) << 62;  // a bound of the band that is none

// An array of tokens: `(B, H, S, D)`, or packed with a batch stride of zero.
struct Tokens {
    void* at;
    i64 batch, head, token, column;
};
// One number per row, `(B, H, S)`, float32 or float64; its tokens are adjacent.
struct Rows {
    void* at;
    i64 batch, head;
};
// An array that broadcasts to the scores.
struct Table {
    void* at;
    i64 batch, head, row, column;
};
// Integers that only the device knows; `wide` if they are of 64 bits.
struct Integers {
    const void* at;
    i64 wide;

    DEVICE i64 operator[](int n) const {
        return wide ? static_cast<const i64*>(at)[n] : i64(static_cast<const int*>(at)[n]);
    }
};

struct Arguments {
    Tokens q, k, v, out, dout, dq, dk, dv;
    Rows lse, delta, dlse;
    Table mask, bias, dbias;
    void* sinks;
    void* dsinks;
    Integers q_lens, k_lens;      // real lengths of a padded batch
    Integers q_starts, k_starts;  // prefix sums of packed sequences
    Integers offset;              // the position of each entry's first query
    i64 left, right;              // the band, in which a number for an offset is included
    double scale, softcap;        // no cap is zero
    int from_end;                 // 1: the last query stands at the last key
    int entries;                  // of the batch, or sequences
    int heads, group;             // of queries, and how many share a key/value head
    int Sq, Sk, D, DV;
    int tiles;  // that blocks of one head are numbered by
    int sink_kind, bias_kind;
};

// Which numbers a void pointer is to: what `structures.KINDS` says.
DEVICE double number(const void* at, i64 n, int kind) {
    switch (kind) {
        case 0: return widen(static_cast<const f16*>(at)[n]);
        case 1: return widen(static_cast<const bf16*>(at)[n]);
        case 2: return static_cast<const float*>(at)[n];
        default: return static_cast<const double*>(at)[n];
    }
}
DEVICE void put_number(void* at, i64 n, int kind, double x) {
    switch (kind) {
        case 0: static_cast<f16*>(at)[n] = narrow<f16>(x); break;
        case 1: static_cast<bf16*>(at)[n] = narrow<bf16>(x); break;
        case 2: static_cast<float*>(at)[n] = float(x); break;
        default: static_cast<double*>(at)[n] = x;
    }
}

DEVICE int at_most(i64 x, int most) { return x < 0 ? 0 : x > most ? most : int(x); }
DEVICE int lesser(int x, int y) { return x < y ? x : y; }
DEVICE int larger(int x, int y) { return x > y ? x : y; }
DEVICE int round_down(int x, int step) { return x / step * step; }
DEVICE int round_up(int x, int step) { return (x + step - 1) / step * step; }

// A side of an entry: where its tokens begin, how many rows the array has for it, and how
// many of these are real. What only the device knows is kept within the arrays (A7).
struct Side {
    int start, extent, length;
};

DEVICE Side side_of(int b, const Integers& starts, const Integers& lens, int entries, int extent) {
    Side side{0, extent, extent};
    if (starts.at) {
        side.start = at_most(starts[b], extent);
        int end = b < entries ? at_most(starts[b + 1], extent) : side.start;
        side.length = larger(end - side.start, 0);
        // What lies past the last offset belongs to nobody, and yet has an output.
        side.extent = b < entries ? side.length : extent - side.start;
    }
    if (lens.at) side.length = at_most(lens[b], extent);
    return side;
}

// The tile of a block: an entry, a head, and the first of `ROWS` tokens of that entry.
//
// In a packed batch, sequence `b` owns the tiles from `starts[b] / ROWS + b` on: never fewer
// than it needs, and found by bisection without anybody having counted. Sequence `entries`
// is what lies past the last offset.
struct Place {
    int b, head, first;
};

template <int ROWS>
DEVICE Place locate(int block, const Arguments& a, const Integers& starts, int heads, int extent,
                    bool backwards) {
    int tile = block % a.tiles;
    Place place{block / a.tiles / heads, block / a.tiles % heads, 0};
    // The last tiles of a causal call are the longest, and begin first.
    if (backwards) tile = a.tiles - 1 - tile;
    if (starts.at) {
        int low = 0, high = a.entries;
        while (low < high) {
            int middle = (low + high + 1) / 2;
            if (at_most(starts[middle], extent) / ROWS + middle <= tile) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        place.b = low;
        tile = larger(tile - at_most(starts[low], extent) / ROWS - low, 0);
    }
    place.first = tile * ROWS;
    return place;
}

// Row `i` sees keys from `i + first` to `i + last`, of those below `keys`; only rows below
// `queries` see any. Positions are 64-bit (C3) until they are cut to where they cannot matter.
struct Band {
    int first, last, queries, keys;
};

DEVICE Band band_of(int b, const Arguments& a, int queries, int keys) {
    i64 position = 0;
    if (a.from_end) position = keys - queries;
    if (a.offset.at && b < a.entries) position = a.offset[b];
    i64 low = position - a.left, high = position + a.right;
    if (a.left == OPEN) low = -FAR;
    if (a.right == OPEN) high = FAR;
    low = low < -FAR ? -FAR : low > FAR ? FAR : low;
    high = high < -FAR ? -FAR : high > FAR ? FAR : high;
    return {int(low), int(high), queries, keys};
}

// Tokens `[low, high)` of the other side that somebody of a tile sees, from a multiple of
// `STEP`; everybody sees those in `[all_low, all_high)`.
struct Span {
    int low, high, all_low, all_high;

    DEVICE bool whole(int at, int step) const { return at >= all_low && at + step <= all_high; }
};

template <int STEP>
DEVICE Span cut(i64 low, i64 high, i64 all_low, i64 all_high, int length) {
    Span span;
    span.low = round_down(at_most(low, length), STEP);
    span.high = larger(at_most(high, length), span.low);
    span.all_low = at_most(all_low, length);
    span.all_high = at_most(all_high, length);
    return span;
}

// The keys that the queries `i0 <= i < i1` see.
template <int STEP>
DEVICE Span keys_of(const Band& band, int i0, int i1) {
    if (i1 > band.queries) i1 = band.queries;
    if (i1 <= i0) return {0, 0, 0, 0};
    return cut<STEP>(i64(i0) + band.first, i64(i1) + band.last, i64(i1) - 1 + band.first,
                     i64(i0) + band.last + 1, band.keys);
}
// The queries that see some of the keys `j0 <= j < j1`.
template <int STEP>
DEVICE Span queries_of(const Band& band, int j0, int j1) {
    if (j1 > band.keys) j1 = band.keys;
    if (j1 <= j0) return {0, 0, 0, 0};
    return cut<STEP>(i64(j0) - band.last, i64(j1) - band.first, i64(j1) - 1 - band.last,
                     i64(j0) - band.first + 1, band.queries);
}

DEVICE bool sees(const Band& band, int i, int j) {
    return i < band.queries && j < band.keys && j >= i + band.first && j <= i + band.last;
}

// Where a block is: its tile of queries, or of keys, and who is there to see and to be seen.
struct Seat {
    int b, head, first;
    Side q, k;
    Band band;
};

template <int ROWS>
DEVICE Seat seat_of(const Arguments& a, bool keys) {
    const Place place =
        keys ? locate<ROWS>(blockIdx.x, a, a.k_starts, a.heads / a.group, a.Sk, false)
             : locate<ROWS>(blockIdx.x, a, a.q_starts, a.heads, a.Sq, a.right != OPEN);
    const Side q = side_of(place.b, a.q_starts, a.q_lens, a.entries, a.Sq);
    const Side k = side_of(place.b, a.k_starts, a.k_lens, a.entries, a.Sk);
    return {place.b, place.head, place.first, q, k, band_of(place.b, a, q.length, k.length)};
}

// A bias of no numbers: for it no code is generated.
struct none {};
template <typename T>
struct is_none {
    static constexpr bool value = false;
};
template <>
struct is_none<none> {
    static constexpr bool value = true;
};
