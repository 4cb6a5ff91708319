r"""
# Attention, exactly

Softmax turns a row of scores into weights. Attention lets every *query* weigh
every *key* it may see and returns the weighted mean of the *values*:

$$
\mathrm{out}_i = \sum_j P_{ij}\, v_j, \qquad
P_{ij} = \exp(s_{ij} - \mathrm{lse}_i), \qquad
\mathrm{lse}_i = \log \sum_{j \text{ visible}} \exp s_{ij}
$$

That much everybody agrees on. This book fixes the rest: what a score is, who may
see whom, what a row that sees nothing returns, how a row may be cut into tiles,
what the gradients are, and how windows lie on a map. It is written to be read in
order, and it runs: each function is one equation, in float64, and nothing in here
is fast.

## Reading order

1. `scores` compares queries with keys: scale, soft cap, bias, grouped heads.
2. `visibility` says who may see whom: mask, window, alignment, lengths.
3. `softmax` carries a row through tiles: the running maximum and sum, merging,
   the log-sum-exp, sinks, rows that see nothing.
4. `attention` puts the three together, once whole and once by tiles.
5. `gradients` goes back, from the log-sum-exp and without stored weights.
6. `windows` lays shifted windows over a text, an image or a video.
7. `packed` runs many sequences that lie end to end.

## The order of steps

For one query and one key, and in this order only:

$$
a = \tau\, (q \cdot k) \;\to\; c = \kappa \tanh(a / \kappa) \;\to\;
s = c + \mathrm{bias} \;\to\; \text{visible?} \;\to\; \text{sink} \;\to\;
\text{softmax}
$$

## Arrays

Some rules are about arrays, and so about every chapter.

- A layout is a view: axes have the order of the signatures, and strides do not matter.
  Results are laid out in memory as `q` is (A1). How query heads share a key/value head
  is told in `scores` (A2).
- `q`, `k` and `v` share a floating dtype, and so does the result. The log-sum-exp is
  float64 for float64 and float32 otherwise; a finite one stays finite when it is
  rounded, because minus infinity says that a row saw nothing (A3).
- Zero sizes are legal: no keys are a row that sees nothing, and no queries are no rows.
  A head size of zero needs a scale (A4).
- Inputs are never modified, and no result shares memory with them (A5).
- Everything is computed in float64, whatever came in, and rounded once, at the end (A6).
- What the host holds is checked: shapes, dtypes, and values in its memory. Values on a
  device are preconditions, so that no call waits for it (A7).

## Notation

| letter | meaning |
|---|---|
| `B` | batch |
| `Hq`, `Hkv` | query heads, key/value heads |
| `Sq`, `Sk` | queries, keys |
| `D`, `Dv` | size of a query or key, size of a value |
| `i`, `j` | a query, a key |
| `a`, `c`, `s` | scaled, capped and biased score |
| `P` | weights |
| `m`, `l`, `acc` | running maximum, sum of exponentials, weighted values |
| `G` | spatial extents of a map, one to three axes |
| `N` | tokens in a window |
| `T` | tokens in a packed batch |

Ids such as *C5* name the clause that a sentence fixes; conformance cases and
decision records cite the same ids.
"""
