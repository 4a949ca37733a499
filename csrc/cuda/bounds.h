// estimate.h with the kernel chosen at run time. A launch has one kernel, so the switch does not diverge.
#pragma once

#include "difal/estimate.h"
#include "platform.h"

namespace difal {
namespace cuda {

__device__ inline float bound_of(KernelKind kind, const ErrorModel& error, float k, float sum) {
    switch (kind) {
        case KernelKind::rbf:
            return entry_bound<KernelKind::rbf>(error, k, sum);
        case KernelKind::laplace:
            return entry_bound<KernelKind::laplace>(error, k, sum);
        case KernelKind::cauchy:
            return entry_bound<KernelKind::cauchy>(error, k, sum);
        case KernelKind::student_t:
            return entry_bound<KernelKind::student_t>(error, k, sum);
        case KernelKind::rational_quadratic:
            return entry_bound<KernelKind::rational_quadratic>(error, k, sum);
        case KernelKind::tophat:
            return entry_bound<KernelKind::tophat>(error, k, sum);
        case KernelKind::cosine:
            return entry_bound<KernelKind::cosine>(error, k, sum);
        case KernelKind::precomputed:
            return entry_bound<KernelKind::precomputed>(error, k, sum);
    }
    return 0;
}

// The estimate of one kernel value from its inner product g, or kUncertain.
template <KernelKind kind>
__device__ inline float value_as(const ErrorModel& error, float g, float s_i, float s_j) {
    if constexpr (kind == KernelKind::cosine) {
        return g < -error.absolute ? -1.0f : larger(g, 0.0f);  // -1: surely 0, and never live
    } else {
        const float sum = s_i + s_j;
        return estimate<kind>(sum - 2 * g, error.sq_dist_rel_err * sum, error.tolerance);
    }
}

__device__ inline float value_of(KernelKind kind, const ErrorModel& error, float g, float s_i, float s_j) {
    switch (kind) {
        case KernelKind::rbf:
            return value_as<KernelKind::rbf>(error, g, s_i, s_j);
        case KernelKind::laplace:
            return value_as<KernelKind::laplace>(error, g, s_i, s_j);
        case KernelKind::cauchy:
            return value_as<KernelKind::cauchy>(error, g, s_i, s_j);
        case KernelKind::student_t:
            return value_as<KernelKind::student_t>(error, g, s_i, s_j);
        case KernelKind::rational_quadratic:
            return value_as<KernelKind::rational_quadratic>(error, g, s_i, s_j);
        case KernelKind::tophat:
            return value_as<KernelKind::tophat>(error, g, s_i, s_j);
        case KernelKind::cosine:
            return value_as<KernelKind::cosine>(error, g, s_i, s_j);
        case KernelKind::precomputed:
            break;
    }
    return g;
}

// Could an entry with this estimate reach above m? Never says no wrongly, and costs no division.
__device__ inline bool may_reach(const ErrorModel& error, float k, float m) {
    return k + k * (2 * error.tolerance + error.relative) + error.absolute > m;
}

}  // namespace cuda
}  // namespace difal
