/* GELU by tanh, as GPT-2 has it, and its derivative in the same pass. Called by gelu.py.

   0.5 x (1 + tanh u) = x s(2u), with s(z) = 1 / (1 + exp(-z)) and u = sqrt(2/pi) (x + 0.044715 x^3);
   the derivative is s + x s (1 - s) 2u'. */

#include "exponential.h"

#define SCALE 1.5957691216057308f /* 2 sqrt(2/pi) */
#define CUBIC 0.044715f

void gelu(const float *restrict x, float *restrict result, long first, long last)
{
    for (long i = first; i < last; i++) {
        const float z = SCALE * x[i] * (1 + CUBIC * x[i] * x[i]);
        const float power = exponential(z < 0 ? z : -z), near = 1 / (1 + power);
        result[i] = x[i] * (z < 0 ? power * near : near);
    }
}

void gelu_with_slope(const float *restrict x, float *restrict result, float *restrict slope,
                     long first, long last)
{
    for (long i = first; i < last; i++) {
        const float square = x[i] * x[i], z = SCALE * x[i] * (1 + CUBIC * square);
        const float power = exponential(z < 0 ? z : -z), near = 1 / (1 + power);
        const float s = z < 0 ? power * near : near;
        result[i] = x[i] * s;
        /* s (1 - s) as power near^2, which loses no digits where s is almost 1. */
        slope[i] = s + x[i] * power * near * near * SCALE * (1 + 3 * CUBIC * square);
    }
}
