/* Products of numbers of 8 bits, summed in 32. Called by int8.py.

   Activations come in floats and are laid out in 16 bits, though they need but 8: two of them times
   two weights are one instruction then, and no sum on the way is too large for its place. */

#include <math.h>
#include <stdint.h>

/* Of each row: scale = largest / 127, and the numbers divided by it, rounded. */
void quantise(const float *restrict x, int16_t *restrict q, float *restrict scales, long rows,
              long width)
{
    for (long t = 0; t < rows; t++) {
        const float *row = x + t * width;
        float largest = 1e-30f;
        int is_nan = 0; /* which no comparison finds, and no whole number holds */
        for (long k = 0; k < width; k++) {
            largest = fabsf(row[k]) > largest ? fabsf(row[k]) : largest;
            is_nan |= row[k] != row[k];
        }
        const float inverse = is_nan ? 0 : 127 / largest;
        scales[t] = is_nan ? NAN : largest / 127;
        for (long k = 0; k < width; k++)
            q[t * width + k] = (int16_t)rintf(row[k] * inverse);
    }
}

/* y[t][n] = scales[t] weight_scales[n] sum_k q[t][k] weight[n][k] + bias[n], for n = first..last-1. */
void product(const int16_t *restrict q, const float *restrict scales, const int8_t *restrict weight,
             const float *restrict weight_scales, const float *restrict bias, float *restrict y,
             long rows, long width, long outputs, long first, long last)
{
    int16_t wide[width];
    for (long n = first; n < last; n++) {
        const int8_t *w = weight + n * width;
        if (rows > 1) /* widened once for all rows */
            for (long k = 0; k < width; k++)
                wide[k] = w[k];
        for (long t = 0; t < rows; t++) {
            const int16_t *row = q + t * width;
            int32_t sum = 0;
            if (rows > 1)
                for (long k = 0; k < width; k++)
                    sum += row[k] * wide[k];
            else
                for (long k = 0; k < width; k++)
                    sum += row[k] * (int16_t)w[k];
            y[t * outputs + n] = (float)sum * (scales[t] * weight_scales[n]) + bias[n];
        }
    }
}
