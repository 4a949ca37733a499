// Entries of the kernel matrix, stored whole or as lists; their bounds, and what a rise of coverage takes from a
// column. Included by block_group.h alone.
#pragma once

#include "bounds.h"
#include "difal/cuda_coverage.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

__device__ inline double round_to(double v, double magic) {
    return (v + magic) - magic;
}

// Entry e of column j.
struct Entry {
    int64_t row;
    float k;
};

// The kernel matrix stored whole.
struct Dense {
    static __device__ int64_t length(const CoverageTask& t, int64_t) { return t.rows; }
    static __device__ Entry entry(const CoverageTask& t, int64_t j, int64_t e) {
        return {e, t.symmetric ? t.gram[j * t.gram_stride + e] : t.gram[e * t.gram_stride + j]};
    }
};

// A list of live entries per point; serves as row and as column, the matrix being symmetric.
struct Sparse {
    static __device__ int64_t length(const CoverageTask& t, int64_t j) { return t.list_length[j]; }
    static __device__ Entry entry(const CoverageTask& t, int64_t j, int64_t e) {
        const int64_t at = t.list_begin[j] + e;
        return {t.list_point[at], t.list_value[at]};
    }
};

__device__ inline int64_t point_of(const CoverageTask& t, int64_t column) {
    return t.candidates ? t.candidates[column] : column;
}

// How far the estimate of an entry may be off, given s_i + s_j. On the diagonal nothing is estimated. The same bits
// wherever it is computed: what a rise takes from a bound is what was put there.
__device__ inline float bound_of_entry(const CoverageTask& t, bool diagonal, float k, float sum) {
    ErrorModel error = t.estimate.error;
    if (diagonal) error.sq_dist_rel_err = 0;
    return bound_of(t.points.kind, error, k, sum);
}

__device__ inline float bound_at(const CoverageTask& t, int64_t row, int64_t column, float k) {
    const float sum = t.estimate.sq_norms[row] + t.estimate.sq_norms[point_of(t, column)];
    return bound_of_entry(t, t.symmetric && row == column, k, sum);
}

// Adds an entry's gain and bound.
__device__ inline void count_entry(const CoverageTask& t, int64_t row, int64_t column, float k, double& gain,
                                   double& bound) {
    const float m = t.rounded[row];
    const double w = t.weights[row];
    const float b = bound_at(t, row, column, k);
    if (k > m) gain += w * (static_cast<double>(k) - static_cast<double>(m));
    if (k + b > m) bound += w * static_cast<double>(b);
}

// What a rise takes from a column: from its gain, from the bound of that, and how far the first may be off.
struct Taken {
    double gain = 0, bound = 0, charge = 0;
    bool touched = false;

    // An entry k with bound b whose row rises. The error of max(k - m, 0) is b at most while k + b > m, and 0 after; so
    // the error of the difference is b at most, and at most the rise itself, or nothing but the rounding of both m
    // where k is surely above the two. `known`: the column was settled, so that the charge matters.
    __device__ void add(const CoverageTask& t, const Rise& rise, double w, float k, float b, bool known) {
        if (!(k + b > rise.low)) return;
        const double magic = t.control->bound_magic;
        if (!(k + b > rise.high)) bound += round_to(w * static_cast<double>(b), magic);
        if (!known) return;
        touched = true;
        const float across = k - b < rise.high ? smaller(b, rise.high - rise.low) : 0.0f;
        const float rounding = times(rise.high, t.estimate.error.relative);
        charge += round_to(w * static_cast<double>(across + rounding), magic);
    }
};

}  // namespace
}  // namespace cuda
}  // namespace difal
