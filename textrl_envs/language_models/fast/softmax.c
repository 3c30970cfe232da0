/* softmax(logits) of rows of float32, without writing it: what sampling needs of it, and no more.

   Each row is read twice while it is in the processor's cache, and BLOCK numbers of it a third time
   when a token is drawn. Compiled and called by softmax.py. */

#include <math.h>
#include "exponential.h"

#define BLOCK 128
#define LOWEST -1e30f /* stands for minus infinity: 0 times it is 0 */
#define ALMOST_1 (1 - 0x1p-52)

/* Of rows first..last-1: the largest logit, the log of the sum of exp(logits), the entropy, and the
   sums of exp(logit - largest) over each block, [blocks] a row. */
void summarise(const float *logits, float *tops, float *log_totals, float *entropies, float *sums,
               long first, long last, long size)
{
    const long blocks = (size + BLOCK - 1) / BLOCK;
    for (long row = first; row < last; row++) {
        const float *z = logits + row * size;
        float top = z[0];
        for (long j = 1; j < size; j++) top = z[j] > top ? z[j] : top;
        double total = 0, mean = 0;
        for (long b = 0; b < blocks; b++) {
            const long end = (b + 1) * BLOCK < size ? (b + 1) * BLOCK : size;
            float sum = 0, product = 0;
            for (long j = b * BLOCK; j < end; j++) {
                const float x = z[j] - top, weight = exponential(x);
                sum += weight;
                product += weight * (x < LOWEST ? LOWEST : x);
            }
            sums[row * blocks + b] = sum;
            total += sum;
            mean += product;
        }
        tops[row] = top;
        log_totals[row] = top + (float)log(total);
        entropies[row] = (float)(log(total) - mean / total);
    }
}

/* Draws a token in each of the rows first..last-1: the first whose cumulative weight is above a
   share, in [0, 1), of the whole. A share below 1 leaves it below the last weight that is not 0. */
void draw(const float *logits, const float *tops, const float *sums, const double *shares,
          int64_t *tokens, long first, long last, long size)
{
    const long blocks = (size + BLOCK - 1) / BLOCK;
    for (long row = first; row < last; row++) {
        const float *sum = sums + row * blocks;
        double total = 0, before = 0;
        for (long b = 0; b < blocks; b++) total += sum[b];
        const double target = (shares[row] < ALMOST_1 ? shares[row] : ALMOST_1) * total;
        long block = 0;
        while (block < blocks - 1 && before + sum[block] <= target) before += sum[block++];

        const long start = block * BLOCK, count = start + BLOCK < size ? BLOCK : size - start;
        const float *z = logits + row * size + start;
        float weights[BLOCK];
        for (long j = 0; j < count; j++) weights[j] = exponential(z[j] - tops[row]);
        double all = 0, reached = weights[0];
        for (long j = 0; j < count; j++) all += weights[j];
        const double share = (target - before) / sum[block];
        const double goal = (share < ALMOST_1 ? share : ALMOST_1) * all;
        long found = 0;
        while (found < count - 1 && reached <= goal) reached += weights[++found];
        tokens[row] = start + found;
    }
}

/* Overwrites rows first..last-1 of the logits with their probabilities. */
void normalise(float *logits, const float *tops, const float *log_totals, long first, long last,
               long size)
{
    for (long row = first; row < last; row++) {
        const float top = tops[row], share = expf(top - log_totals[row]); /* of the largest */
        float *restrict z = logits + row * size;
        for (long j = 0; j < size; j++) z[j] = share * exponential(z[j] - top);
    }
}
