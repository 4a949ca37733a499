// The inner loop of loop_model.py: what rows that rise take from all columns, by the formulas of the GPU kernels.
// Compiled when it is first needed, by the host's compiler.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "difal/estimate.h"

using namespace difal;

namespace {

constexpr int64_t kColumns = 512;  // at a time, so that their sums stay in cache

double round_to(double v, double magic) {
    return (v + magic) - magic;
}

struct Rows {
    KernelKind kind;
    ErrorModel error;
    const float* gram;
    int64_t stride, columns, count;
    const int64_t* rows;
    const float *low, *high, *sq_norms;
    const double* weights;
    double magic, bound_magic;
    double *gains, *bounds, *touched;
    uint8_t *known, *reached;
};

template <KernelKind kind>
float bound(const Rows& r, bool diagonal, float k, float sum) {
    ErrorModel error = r.error;
    if (diagonal) error.sq_dist_rel_err = 0;
    return entry_bound<kind>(error, k, sum);
}

// First gains and bounds, not rounded; `low` is the coverage.
template <KernelKind kind>
void start_as(const Rows& r) {
    for (int64_t first = 0; first < r.columns; first += kColumns) {
        const int64_t last = std::min(r.columns, first + kColumns);
        for (int64_t a = 0; a < r.count; ++a) {
            const int64_t i = r.rows[a];
            const float* line = r.gram + i * r.stride;
            const float m = r.low[a], s = r.sq_norms[i];
            const double w = r.weights[i];
#pragma omp simd
            for (int64_t j = first; j < last; ++j) {
                const float k = line[j], b = bound<kind>(r, i == j, k, s + r.sq_norms[j]);
                const double rise = static_cast<double>(k) - static_cast<double>(m);
                r.gains[j] += w * (rise > 0 ? rise : 0.0);
                r.bounds[j] += w * static_cast<double>(k + b > m ? b : 0.0f);
            }
        }
    }
}

template <KernelKind kind>
void lower_as(const Rows& r) {
    for (int64_t first = 0; first < r.columns; first += kColumns) {
        const int64_t last = std::min(r.columns, first + kColumns);
        for (int64_t a = 0; a < r.count; ++a) {
            const int64_t i = r.rows[a];
            const float* line = r.gram + i * r.stride;
            const float low = r.low[a], high = r.high[a], s = r.sq_norms[i];
            const double w = r.weights[i];
            const float rounding = high * r.error.relative;
#pragma omp simd
            for (int64_t j = first; j < last; ++j) {
                const float k = line[j];
                const float clipped = smaller(larger(k, low), high);
                r.gains[j] -= round_to(w * (static_cast<double>(clipped) - static_cast<double>(low)), r.magic);
                const float b = bound<kind>(r, i == j, k, s + r.sq_norms[j]);
                const bool live = k + b > low, dies = live & !(k + b > high);
                r.bounds[j] -= round_to(w * static_cast<double>(dies ? b : 0.0f), r.bound_magic);
                const float across = k - b < high ? smaller(b, high - low) : 0.0f;
                const float charge = live & (r.known[j] != 0) ? across + rounding : 0.0f;
                r.touched[j] += round_to(w * static_cast<double>(charge), r.bound_magic);
                r.reached[j] |= live;
            }
        }
    }
}

}  // namespace

// The kernels that the benchmarks and the model's test use.
#define DIFAL_EACH(CALL)                         \
    switch (static_cast<KernelKind>(kind)) {     \
        case KernelKind::laplace:                \
            return CALL<KernelKind::laplace>(r); \
        case KernelKind::cosine:                 \
            return CALL<KernelKind::cosine>(r);  \
        default:                                 \
            return CALL<KernelKind::rbf>(r);     \
    }

extern "C" void run_rows(int start, int kind, const float* error, const float* gram, int64_t stride, int64_t columns,
                         const int64_t* rows, const float* low, const float* high, int64_t count, const float* sq_norms,
                         const double* weights, const double* magic, double* gains, double* bounds, double* touched,
                         uint8_t* known, uint8_t* reached) {
    Rows r{static_cast<KernelKind>(kind),
           {},
           gram,
           stride,
           columns,
           count,
           rows,
           low,
           high,
           sq_norms,
           weights,
           magic[0],
           magic[1],
           gains,
           bounds,
           touched,
           known,
           reached};
    r.error.sq_dist_rel_err = error[0];
    r.error.relative = error[1];
    r.error.absolute = error[2];
    r.error.tolerance = error[3];
    if (start) {
        DIFAL_EACH(start_as)
    }
    DIFAL_EACH(lower_as)
}
