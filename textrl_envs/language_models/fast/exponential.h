/* exp(x) for x <= 0 by powers of 2 and a polynomial (Cephes), to 2e-7: libm's is not vectorised.
   Below -87, where a float's exponential is all but 0, it is 0; so it is of minus infinity. */

#include <stdint.h>

static inline float exponential(float x)
{
    const float bounded = x < -87.0f ? -87.0f : x;
    const float whole = __builtin_floorf(bounded * 1.44269504088896341f + 0.5f);
    const float rest = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.9875691500e-4f;
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    union { int32_t bits; float value; } power;
    power.bits = ((int32_t)whole + 127) << 23;
    return x < -87.0f ? 0.0f : sum * power.value;
}
