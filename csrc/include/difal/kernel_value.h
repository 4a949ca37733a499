// Kernel values in float64 from distances: shared by the CPU and the GPU.
#pragma once

#include <cmath>

#include "difal/coverage_kernels.h"
#include "difal/each_side.h"

namespace difal {

// The kernel as a function of squared distance, in float64; written as the reference writes it, so that tophat's edge
// agrees. Not for cosine or a kernel that users give.
DIFAL_EACH_SIDE static inline double kernel_of_squared_distance(KernelKind kind, double squared, double bandwidth) {
    const double r = sqrt(squared) / bandwidth;
    switch (kind) {  // without a default, so that the compiler names a kernel that is missing
        case KernelKind::rbf:
            return exp(-r * r);
        case KernelKind::laplace:
            return exp(-r);
        case KernelKind::cauchy:
            return 1 / (1 + r * r);
        case KernelKind::student_t:
            return pow(1 + r * r / 0.5, -0.75);
        case KernelKind::rational_quadratic:
            return 1 / (1 + r * r / 2);
        case KernelKind::tophat:
            return sqrt(squared) < bandwidth ? 1.0 : 0.0;
        case KernelKind::cosine:
        case KernelKind::precomputed:
            break;
    }
    return 0;
}

}  // namespace difal
