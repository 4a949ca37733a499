#include "difal/rows.h"

#include <cmath>

#include "difal/coverage_kernels.h"

namespace difal {
namespace {

template <typename T>
struct RowKernels {
    double (*center)(const T*, int64_t, const T*, float, float*);
    void (*scale)(const T*, int64_t, double, float*);
    void (*products)(const T*, int64_t, const int32_t*, int64_t, const T*, double*);
};

// The same as a kernel's `center`, for bandwidths of which float32 has no reciprocal of full precision.
template <typename T>
double center_in_double(const T* x, int64_t d, const T* center, double bandwidth, float* out) {
    double squared = 0;
    for (int64_t c = 0; c < d; ++c) {
        out[c] = static_cast<float>((static_cast<double>(x[c]) - static_cast<double>(center[c])) / bandwidth);
        squared += static_cast<double>(out[c]) * static_cast<double>(out[c]);
    }
    return squared;
}

template <typename T>
void prepare(const RowsJob& job, const RowKernels<T>& kernels) {
    const int64_t d = job.dimension;
    const T* center = static_cast<const T*>(job.center);
    const bool is_usual = 1e-37 < job.bandwidth && job.bandwidth < 1e37;
    const float factor = is_usual ? static_cast<float>(1 / job.bandwidth) : 0.0f;
    for (int64_t i = 0; i < job.rows; ++i) {
        const T* x = static_cast<const T*>(job.features) + i * d;
        float* out = job.out + i * d;
        double squared;
        if (center) {
            squared = is_usual ? kernels.center(x, d, center, factor, out)
                               : center_in_double(x, d, center, job.bandwidth, out);
        } else {
            const int32_t own = 0;
            kernels.products(x, d, &own, 1, x, &squared);  // the norm that ExactKernel divides by
            kernels.scale(x, d, squared > 0 ? 1 / std::sqrt(squared) : 0.0, out);
            squared = 0;
        }
        if (job.sq_norms) job.sq_norms[i] = static_cast<float>(squared);
    }
}

}  // namespace

void prepare_rows(const RowsJob& job) {
    const CoverageKernels& simd = coverage_kernels();
    if (job.is_double) {
        prepare<double>(job, {simd.center_f64, simd.scale_f64, simd.products_f64});
    } else {
        prepare<float>(job, {simd.center_f32, simd.scale_f32, simd.products_f32});
    }
}

}  // namespace difal
