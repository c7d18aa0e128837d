/* simd_math.h - exp2 and tanh of whole vectors, over simd_avx2.h or simd_avx512.h (included before).
 *
 * simd_exp2: t = n + r with n the nearest whole number, so |r| <= 1/2 exactly; 2^r = 1 + r * P(r), P of degree 5 (Remez
 * exchange for the relative error, with the constant held at 1 so that 2^0 is exactly 1; its error is 2e-9); then the
 * exponent is moved by n. Measured: within 1 ulp of the real 2^t for normal results. Below -160 exactly 0, so a masked
 * score of -inf weighs nothing; from 128 on inf; NaN stays NaN.
 * simd_tanh: below 0.625 the polynomial of Cephes' tanhf (S. Moshier, netlib), else 1 - 2 / (exp(2x) + 1): 2 ulp. */
#ifndef KERNEL_SIMD_MATH_H
#define KERNEL_SIMD_MATH_H

#define SIMD_LOG2_E 1.44269504088896341 /* log2(e): exp(x) = exp2(x * SIMD_LOG2_E) */

SIMD_INLINE simd simd_exp2_below_160(simd t) /* for t that is known to be at most 160 */
{
    t = simd_max(simd_set(-160.0f), t);
    simd n = simd_round(t), r = simd_sub(t, n);
    simd p = simd_set(0x1.41fbbcp-13f);
    p = simd_fma(p, r, simd_set(0x1.5f3e54p-10f));
    p = simd_fma(p, r, simd_set(0x1.3b2d4cp-7f));
    p = simd_fma(p, r, simd_set(0x1.c6aee8p-5f));
    p = simd_fma(p, r, simd_set(0x1.ebfbdcp-3f));
    p = simd_fma(p, r, simd_set(0x1.62e43p-1f));
    p = simd_fma(p, r, simd_set(1.0f));
    return simd_scale2(p, n);
}

SIMD_INLINE simd simd_exp2(simd t)
{
    return simd_exp2_below_160(simd_where_less(simd_set(160.0f), t, simd_set(160.0f), t));
}

SIMD_INLINE simd simd_tanh(simd x)
{
    simd z = simd_mul(x, x), size = simd_absolute(x);
    simd p = simd_set(-5.70498872745e-3f);
    p = simd_fma(p, z, simd_set(2.06390887954e-2f));
    p = simd_fma(p, z, simd_set(-5.37397155531e-2f));
    p = simd_fma(p, z, simd_set(1.33314422036e-1f));
    p = simd_fma(p, z, simd_set(-3.33332819422e-1f));
    simd small = simd_fma(simd_mul(p, z), x, x);
    simd e = simd_exp2(simd_mul(size, simd_set((float)(2 * SIMD_LOG2_E))));
    simd large = simd_sub(simd_set(1.0f), simd_div(simd_set(2.0f), simd_add(e, simd_set(1.0f))));
    return simd_where_less(size, simd_set(0.625f), small, simd_copy_sign(large, x));
}

#endif
