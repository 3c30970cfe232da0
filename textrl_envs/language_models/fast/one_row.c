/* A product with one row, in float32: what it costs is to read the weights once from memory.

   Rows of the weight lie one behind the other and are read as one stream, fetched in advance. Compiled
   and called by one_row.py. */

#define LANES 16
#define AHEAD 4096 /* numbers to fetch in advance */

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* out[n] = weight[n] . x + bias[n], of rows first..last-1 of `size` numbers; bias may be null. */
void multiply(const float *weight, const float *x, const float *bias, float *out, long first,
              long last, long size)
{
    for (long n = first; n < last; n++) {
        const float *w = weight + n * size;
        lanes sums[4] = {0}; /* several, so that none waits for the last */
        long k = 0;
        for (; k + 4 * LANES <= size; k += 4 * LANES)
            for (long j = 0; j < 4; j++) {
                const long at = k + j * LANES;
                __builtin_prefetch(w + at + AHEAD);
                sums[j] += *(const lanes *)(w + at) * *(const lanes *)(x + at);
            }
        sums[0] += sums[1] + sums[2] + sums[3];
        float sum = bias ? bias[n] : 0;
        for (long j = 0; j < LANES; j++) sum += sums[0][j];
        for (; k < size; k++) sum += w[k] * x[k];
        out[n] = sum;
    }
}
