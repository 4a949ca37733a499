// One call for each kernel, by the switch that templates need, without a default, so that the compiler
// names a kernel that is missing: DIFAL_EACH_KIND(CALL) returns CALL(the kind).
#pragma once

#define DIFAL_EACH_KIND(CALL)                            \
    switch (kind) {                                      \
        case KernelKind::rbf:                            \
            return CALL(KernelKind::rbf);                \
        case KernelKind::laplace:                        \
            return CALL(KernelKind::laplace);            \
        case KernelKind::cauchy:                         \
            return CALL(KernelKind::cauchy);             \
        case KernelKind::student_t:                      \
            return CALL(KernelKind::student_t);          \
        case KernelKind::rational_quadratic:             \
            return CALL(KernelKind::rational_quadratic); \
        case KernelKind::tophat:                         \
            return CALL(KernelKind::tophat);             \
        case KernelKind::cosine:                         \
            return CALL(KernelKind::cosine);             \
        case KernelKind::precomputed:                    \
            return CALL(KernelKind::precomputed);        \
    }                                                    \
    __builtin_unreachable()
