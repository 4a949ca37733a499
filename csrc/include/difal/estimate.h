// Kernel values from inner products in float32, and how far each may be from the truth: shared by the CPU's loops and
// the GPU's threads. `static` for the reason given in half.h.
#pragma once

#include <cstdint>

#include "difal/coverage_kernels.h"
#include "difal/each_side.h"

namespace difal {

// exp(-x) for x >= 0, within 2 ulp; exactly 0 from x = 87 on (kernel values that small count as 0).
DIFAL_EACH_SIDE static inline float exp_minus(float x) {
    const float clipped = x < 87.0f ? x : 87.0f;
    const float shifted = clipped * -1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
    const float n = shifted - 12582912.0f;
    const float r = (-clipped - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.98756915e-4f;
    p = p * r + 1.39819995e-3f;
    p = p * r + 8.33345190e-3f;
    p = p * r + 4.16657960e-2f;
    p = p * r + 1.66666654e-1f;
    p = p * r + 5.00000000e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, 4);
    bits = (bits + 127u) << 23;  // 2^n: the magic constant's own bits fall off the top
    float scale;
    __builtin_memcpy(&scale, &bits, 4);
    return x < 87.0f ? p * scale : 0.0f;
}

DIFAL_EACH_SIDE static inline float smaller(float a, float b) {
    return a < b ? a : b;
}
DIFAL_EACH_SIDE static inline float larger(float a, float b) {
    return a > b ? a : b;
}

// a * b, never fused with an addition. Which ones a GPU's compiler fuses depends on the code around: without this, two
// kernels could disagree in the last bit of one entry's bound, and so on whether it is alive.
template <typename T>
DIFAL_EACH_SIDE static inline T times(T a, T b) {
#if defined(__CUDA_ARCH__)
    if constexpr (sizeof(T) == sizeof(float)) {
        return __fmul_rn(a, b);
    } else {
        return __dmul_rn(a, b);
    }
#else
    return a * b;
#endif
}

// Beyond this squared (rbf) or plain (laplace) distance in bandwidths a kernel value is below 1e-30.
static constexpr float kNegligible = 70.0f;

// One kernel value from q = squared distance in bandwidths with |q - true q| <= delta, or kUncertain. A NaN
// anywhere fails every comparison and so comes out as kUncertain.
template <KernelKind kind>
DIFAL_EACH_SIDE static inline float estimate(float q, float delta, float tolerance) {
    q = q > 0 ? q : (q <= 0 ? 0.0f : q);
    if constexpr (kind == KernelKind::rbf) {
        const float k = exp_minus(q);
        const float far = q - delta > kNegligible ? 0.0f : kUncertain;
        return delta <= tolerance ? k : far;
    } else if constexpr (kind == KernelKind::laplace) {
        const float r = __builtin_sqrtf(q);
        const float k = exp_minus(r);
        const float far = q - delta > kNegligible * kNegligible ? 0.0f : kUncertain;
        const bool known = (delta <= tolerance * tolerance) | (delta <= tolerance * r);
        return known ? k : far;
    } else if constexpr (kind == KernelKind::cauchy) {
        return delta <= tolerance * (1 + q) ? 1 / (1 + q) : kUncertain;
    } else if constexpr (kind == KernelKind::student_t) {  // beta = 1/2: (1 + 2 q)^(-3/4)
        const float root = __builtin_sqrtf(1 + 2 * q);
        return 1.5f * delta <= tolerance * (1 + 2 * q) ? 1 / (root * __builtin_sqrtf(root)) : kUncertain;
    } else if constexpr (kind == KernelKind::rational_quadratic) {  // alpha = 1
        return 0.5f * delta <= tolerance * (1 + 0.5f * q) ? 1 / (1 + 0.5f * q) : kUncertain;
    } else {
        static_assert(kind == KernelKind::tophat, "no estimate of this kernel");
        const float inside = q + delta < 1 ? 1.0f : kUncertain;
        return q - delta > 1 ? 0.0f : inside;
    }
}

// The kernel value of an inner product g, or kUncertain; s as in ErrorModel. Of a kernel that is given, g itself.
template <KernelKind kind>
DIFAL_EACH_SIDE static inline float value_of_product(const ErrorModel& e, float g, float s_i, float s_j) {
    if constexpr (kind == KernelKind::precomputed) {
        return g;
    } else if constexpr (kind == KernelKind::cosine) {
        return g < -e.absolute ? -1.0f : larger(g, 0.0f);  // -1: surely 0, and never live
    } else {
        const float sum = s_i + s_j;
        return estimate<kind>(sum - 2 * g, e.sq_dist_rel_err * sum, e.tolerance);
    }
}

// The logarithmic slope of the kernel where its value is k: the same as in the table of kernel functions in Python.
template <KernelKind kind>
DIFAL_EACH_SIDE static inline float log_slope(float k) {
    if constexpr (kind == KernelKind::rbf) {
        return 1.0f;
    } else if constexpr (kind == KernelKind::laplace) {
        return 1 / larger(1 - k, 1e-7f);
    } else if constexpr (kind == KernelKind::cauchy) {
        return k;
    } else if constexpr (kind == KernelKind::student_t) {
        return 1.5f * k;
    } else {
        static_assert(kind == KernelKind::rational_quadratic, "no slope of this kernel");
        return 0.5f * k;
    }
}

template <KernelKind kind>
DIFAL_EACH_SIDE static inline float entry_bound(const ErrorModel& e, float k, float sum) {
    if constexpr (kind == KernelKind::tophat || kind == KernelKind::precomputed) {
        return times(e.relative, k);
    } else if constexpr (kind == KernelKind::cosine) {
        return e.absolute;
    } else {
        const float estimated = e.sq_dist_rel_err * sum * log_slope<kind>(k);
        return times(k, e.relative + times(1.01f, estimated < e.tolerance ? estimated : e.tolerance));
    }
}

}  // namespace difal
