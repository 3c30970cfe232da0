/* Causal attention within texts that stand one behind the other, and its gradients, in float32.

   An item of work is a text and one of its key heads. What it reads and writes is its own, so that
   threads may share the items in any way. Products are made for a few rows at once, whose sums stay
   in registers; scores are made for BLOCK rows at most. Compiled by packed_attention.py. */

#include "exponential.h"

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 2 };
#endif
enum { ROWS = 4, BLOCK = 32 };

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef struct { float *at; int64_t head, row; } tensor; /* [heads, N, width], as Python gives it */
typedef struct { float *at; long row, column; } matrix;  /* (i, j) is at[i * row + j * column] */
_Static_assert(sizeof(tensor) == 24, "a pointer is an int64");

static inline matrix part(tensor t, long head, long first)
{
    return (matrix){t.at + head * t.head + first * t.row, t.row, 1};
}
static inline matrix from_row(matrix m, long i)
{
    return (matrix){m.at + i * m.row, m.row, m.column};
}
static inline matrix turned(matrix m) { return (matrix){m.at, m.column, m.row}; }
static inline long least(long a, long b) { return a < b ? a : b; }
static inline long padded(long count) { return (count + LANES - 1) / LANES * LANES; }

/* The first numbers of `rows` rows of a product, `vectors` vectors each; both are constants. */
static inline __attribute__((always_inline)) void tile(
    matrix result, matrix left, matrix right, long depth, int adds, int rows, int vectors)
{
    vector sums[ROWS][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++)
            sums[i][v] = adds ? ((vector *)(result.at + i * result.row))[v] : (vector){0};
    for (long k = 0; k < depth; k++) {
        const vector *numbers = (const vector *)(right.at + k * right.row);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++)
                sums[i][v] += left.at[i * left.row + k * left.column] * numbers[v];
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) ((vector *)(result.at + i * result.row))[v] = sums[i][v];
}

/* Makes `left right`, or adds it to the result: ROWS rows at most, all LANES of the columns. */
static void multiply(matrix result, matrix left, matrix right, long rows, long depth, long columns,
                     int adds)
{
    if (rows < ROWS && rows > 1) {
        for (long i = 0; i < rows; i++)
            multiply(from_row(result, i), from_row(left, i), right, 1, depth, columns, adds);
        return;
    }
    while (columns > 0) {
        const int many = columns >= VECTORS * LANES, step = many ? VECTORS * LANES : LANES;
        if (rows == ROWS && many) tile(result, left, right, depth, adds, ROWS, VECTORS);
        else if (rows == ROWS) tile(result, left, right, depth, adds, ROWS, 1);
        else if (many) tile(result, left, right, depth, adds, 1, VECTORS);
        else tile(result, left, right, depth, adds, 1, 1);
        result.at += step, right.at += step, columns -= step;
    }
}

/* Copies [count, width] times a factor to [width, padded(count)], of which it takes the scratch. */
static matrix turned_copy(float **scratch, matrix from, long count, long width, float factor)
{
    const matrix copy = {*scratch, padded(count), 1};
    for (long j = 0; j < copy.row; j++)
        for (long c = 0; c < width; c++)
            copy.at[c * copy.row + j] = j < count ? factor * from.at[j * from.row + c] : 0;
    *scratch += width * copy.row;
    return copy;
}

/* The first `seen` numbers become their softmax, the others before `end` 0. */
static void softmax(float *scores, long seen, long end)
{
    float top = scores[0], total = 0;
    for (long j = 1; j < seen; j++) top = scores[j] > top ? scores[j] : top;
    for (long j = seen; j < end; j++) scores[j] = -__builtin_inff();
    for (long j = 0; j < end; j++) {
        scores[j] = exponential(scores[j] - top);
        total += scores[j];
    }
    const float factor = 1 / total;
    for (long j = 0; j < end; j++) scores[j] *= factor;
}

/* Gradients by scores take the place of those by their softmax. */
static void softmax_backward(const float *shares, float *gradients, long end, float scale)
{
    float mean = 0;
    for (long j = 0; j < end; j++) mean += shares[j] * gradients[j];
    for (long j = 0; j < end; j++) gradients[j] = scale * shares[j] * (gradients[j] - mean);
}

/* Shares of the keys for the queries first .. first + rows - 1 of a text, ROWS at most. */
static void share_out(matrix shares, matrix queries, matrix keys, long first, long rows, long width)
{
    const long end = padded(first + rows);
    multiply(shares, queries, keys, rows, width, end, 0);
    for (long i = 0; i < rows; i++) softmax(shares.at + i * shares.row, first + i + 1, end);
}

/* tensors: query, key, value, result. Text t is rows bounds[t] .. bounds[t + 1] - 1. */
void forward(const tensor *tensors, const int64_t *bounds, float *scratch, long first, long last,
             long kv_heads, long groups, long width, float scale)
{
    for (long item = first; item < last; item++) {
        const long text = item / kv_heads, h = item % kv_heads;
        const long start = bounds[text], count = bounds[text + 1] - start;
        float *free = scratch;
        const matrix keys = turned_copy(&free, part(tensors[1], h, start), count, width, scale);
        const matrix values = part(tensors[2], h, start), shares = {free, padded(count), 1};
        for (long g = h * groups; g < (h + 1) * groups; g++) {
            const matrix queries = part(tensors[0], g, start), results = part(tensors[3], g, start);
            for (long i = 0; i < count; i += ROWS) {
                const long rows = least(ROWS, count - i);
                share_out(shares, from_row(queries, i), keys, i, rows, width);
                multiply(from_row(results, i), shares, values, rows, i + rows, width, 0);
            }
        }
    }
}

/* tensors: query, key, value, and the gradient of the result; the gradients of the first three. */
void backward(const tensor *tensors, const int64_t *bounds, float *scratch, long first, long last,
              long kv_heads, long groups, long width, float scale)
{
    for (long item = first; item < last; item++) {
        const long text = item / kv_heads, h = item % kv_heads;
        const long start = bounds[text], count = bounds[text + 1] - start;
        float *free = scratch;
        const matrix keys = part(tensors[1], h, start), values = part(tensors[2], h, start);
        const matrix keys_turned = turned_copy(&free, keys, count, width, scale);
        const matrix values_turned = turned_copy(&free, values, count, width, 1);
        const matrix for_keys = part(tensors[5], h, start), for_values = part(tensors[6], h, start);
        const matrix shares = {free, padded(count), 1}, slopes = from_row(shares, BLOCK);
        for (long g = h * groups; g < (h + 1) * groups; g++) {
            const matrix queries = part(tensors[0], g, start), above = part(tensors[3], g, start);
            const matrix for_queries = part(tensors[4], g, start);
            for (long block = 0; block < count; block += BLOCK) {
                const long block_end = least(block + BLOCK, count);
                for (long i = block; i < block_end; i += ROWS) {
                    const long rows = least(ROWS, count - i), end = padded(i + rows);
                    const matrix p = from_row(shares, i - block), d = from_row(slopes, i - block);
                    share_out(p, from_row(queries, i), keys_turned, i, rows, width);
                    multiply(d, from_row(above, i), values_turned, rows, width, end, 0);
                    for (long r = 0; r < rows; r++)
                        softmax_backward(p.at + r * p.row, d.at + r * d.row, end, scale);
                    multiply(from_row(for_queries, i), d, keys, rows, i + rows, width, 0);
                }
                for (long j = 0; j < block_end; j += ROWS) {
                    const int adds = j < block || g > h * groups; /* to what is there already */
                    const long i = j > block ? j : block;         /* none before sees key j */
                    const long rows = least(ROWS, count - j), depth = block_end - i;
                    const matrix p = from_row(turned(from_row(shares, i - block)), j);
                    const matrix d = from_row(turned(from_row(slopes, i - block)), j);
                    const matrix v = from_row(for_values, j), k = from_row(for_keys, j);
                    multiply(v, p, from_row(above, i), rows, depth, width, adds);
                    multiply(k, d, from_row(queries, i), rows, depth, width, adds);
                }
            }
        }
    }
}
