/* Attention of single tokens to the keys and values of their rows, in float32; and what writes them.

   torch's own attention is made for many queries; here each row has one, and what it costs is to
   read the keys and values once from memory. They lie as (slots, columns, kv heads, HEAD_WIDTH), so
   that a row is read from end to end, all heads at once. Compiled by attention.py. */

#include <string.h>
#include "exponential.h"

#define AHEAD 8192 /* bytes to fetch in advance: what memory gives while the first are waited for */
#define ROWS_AHEAD 8
#define LINE 16 /* numbers of a cache line */

/* Fetches column t of a row; where the row ends before it, one of what is probably read next. */
static inline void fetch(const float *row, const float *next, long t, long count, long width)
{
    const float *column = t < count ? row + t * width : next + (t - count) * width;
    for (long j = 0; j < width; j += LINE) __builtin_prefetch(column + j);
}

static inline void softmax(float *scores, long count)
{
    float top = scores[0], total = 0;
    for (long t = 1; t < count; t++) top = scores[t] > top ? scores[t] : top;
    for (long t = 0; t < count; t++) {
        scores[t] = exponential(scores[t] - top);
        total += scores[t];
    }
    for (long t = 0; t < count; t++) scores[t] /= total;
}

/* Tokens first..last-1. Token i has the query at query + i * query_stride, looks at the first
   lengths[i] columns of slot slots[i], and writes out + i * heads * HEAD_WIDTH. `scores` has room
   for heads * columns numbers. */
void attend(const float *query, long query_stride, const float *keys, const float *values,
            const int64_t *slots, const int64_t *lengths, float *out, float *scores,
            long first, long last, long columns, long kv_heads, long groups, float scale)
{
    const long width = kv_heads * HEAD_WIDTH, heads = kv_heads * groups;
    const long ahead = 1 + AHEAD / (width * (long)sizeof(float)); /* columns */
    for (long i = first; i < last; i++) {
        const long count = lengths[i], place = slots[i] * columns * width;
        const float *q = query + i * query_stride, *k = keys + place, *v = values + place;
        const float *next = i + 1 < last ? keys + slots[i + 1] * columns * width : k;
        float *restrict result = out + i * heads * HEAD_WIDTH;
        for (long t = 0; t < count; t++) {
            fetch(k, v, t + ahead, count, width);
            for (long h = 0; h < kv_heads; h++) {
                const float *key = k + t * width + h * HEAD_WIDTH;
                for (long g = h * groups; g < (h + 1) * groups; g++) {
                    float sum = 0;
                    for (long j = 0; j < HEAD_WIDTH; j++) sum += q[g * HEAD_WIDTH + j] * key[j];
                    scores[g * columns + t] = sum * scale;
                }
            }
        }
        for (long g = 0; g < heads; g++) softmax(scores + g * columns, count);
        memset(result, 0, heads * HEAD_WIDTH * sizeof(float));
        for (long t = 0; t < count; t++) {
            fetch(v, next, t + ahead, count, width);
            for (long h = 0; h < kv_heads; h++) {
                const float *value = v + t * width + h * HEAD_WIDTH;
                for (long g = h * groups; g < (h + 1) * groups; g++) {
                    const float share = scores[g * columns + t];
                    for (long j = 0; j < HEAD_WIDTH; j++) result[g * HEAD_WIDTH + j] += share * value[j];
                }
            }
        }
    }
}

/* Writes new keys and values to the cache: row sources[i] of them, or row i where there are no
   sources, to column places[i] of all slots' columns. */
void append(const float *key, long key_stride, const float *value, long value_stride,
            const int64_t *sources, const int64_t *places, float *keys, float *values, long count,
            long width)
{
    for (long i = 0; i < count; i++) {
        if (i + ROWS_AHEAD < count)
            for (long j = 0; j < width; j += LINE) {
                __builtin_prefetch(keys + places[i + ROWS_AHEAD] * width + j, 1);
                __builtin_prefetch(values + places[i + ROWS_AHEAD] * width + j, 1);
            }
        const long from = sources ? sources[i] : i, at = places[i] * width;
        memcpy(keys + at, key + from * key_stride, width * sizeof(float));
        memcpy(values + at, value + from * value_stride, width * sizeof(float));
    }
}
