#include "difal/exact_kernel.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "difal/coverage.h"
#include "difal/kernel_value.h"

namespace difal {
namespace {

constexpr int64_t kWidened = 8;  // rows that are widened together
constexpr std::array<int32_t, kWidened> kFirst = {0, 1, 2, 3, 4, 5, 6, 7};

}  // namespace

ExactKernel::ExactKernel(const CoverageProblem& problem) : p_(problem) {
    if (p_.kind != KernelKind::cosine) return;
    norms_.resize(p_.points);
    std::vector<float> room;
    for (int64_t i = 0; i < p_.points; ++i) norms_[i] = norm(row_at(i, room));
}

// A row of the features as float64 or float32; in `room` where it must be widened.
const void* ExactKernel::row_at(int64_t feature_row, std::vector<float>& room) const {
    const void* row = static_cast<const char*>(p_.features) + feature_row * p_.dimension * size_of(p_.type);
    if (!is_narrow(p_.type)) return row;
    room.resize(p_.dimension);
    widen_row(row, p_.type, p_.dimension, room.data());
    return room.data();
}

double ExactKernel::norm(const void* y) const {
    const int32_t first = 0;
    double squared;
    const CoverageKernels& simd = coverage_kernels();
    if (p_.type == NumberType::f64) {
        simd.products_f64(static_cast<const double*>(y), p_.dimension, &first, 1, static_cast<const double*>(y),
                          &squared);
    } else {
        simd.products_f32(static_cast<const float*>(y), p_.dimension, &first, 1, static_cast<const float*>(y),
                          &squared);
    }
    return std::sqrt(squared);
}

void ExactKernel::against_point(int64_t point, const int32_t* rows, int64_t count, double* out) const {
    if (p_.kind == KernelKind::precomputed) {
        for (int64_t r = 0; r < count; ++r) {
            const int64_t at = rows[r] * p_.feature_stride + point;
            out[r] = p_.type == NumberType::f64 ? static_cast<const double*>(p_.features)[at]
                                                : static_cast<const float*>(p_.features)[at];
        }
        return;
    }
    thread_local std::vector<float> room;
    const int64_t at = feature_row(point);
    against(row_at(at, room), norms_.empty() ? 0 : norms_[at], feature_rows(rows, count, p_.covered), count, out);
}

void ExactKernel::against_row(int64_t row, const int32_t* points, int64_t count, double* out) const {
    thread_local std::vector<float> room;
    const int64_t at = feature_row(p_.covered ? p_.covered[row] : row);
    against(row_at(at, room), norms_.empty() ? 0 : norms_[at], feature_rows(points, count, nullptr), count, out);
}

void ExactKernel::against_other(const void* y, int64_t index, const int32_t* rows, int64_t count, double* out) const {
    if (count == 0) return;
    const int64_t size = size_of(p_.type == NumberType::f64 ? NumberType::f64 : NumberType::f32);
    const void* other = static_cast<const char*>(y) + index * p_.dimension * size;
    against(other, norms_.empty() ? 0 : norm(other), feature_rows(rows, count, p_.covered), count, out);
}

int64_t ExactKernel::feature_row(int64_t point) const {
    return p_.order ? p_.order[point] : point;
}

// Where rows (`of`: the points that they are) or points are in the features; valid until the next call of this thread.
const int32_t* ExactKernel::feature_rows(const int32_t* ids, int64_t count, const int64_t* of) const {
    if (!of && !p_.order) return ids;
    thread_local std::vector<int32_t> found;
    found.resize(count);
    for (int64_t r = 0; r < count; ++r) found[r] = static_cast<int32_t>(feature_row(of ? of[ids[r]] : ids[r]));
    return found.data();
}

void ExactKernel::against(const void* y, double y_norm, const int32_t* feature_rows, int64_t count, double* out) const {
    const CoverageKernels& simd = coverage_kernels();
    const bool products = p_.kind == KernelKind::cosine;
    if (p_.type == NumberType::f64) {
        const auto run = products ? simd.products_f64 : simd.distances_f64;
        run(static_cast<const double*>(p_.features), p_.dimension, feature_rows, count, static_cast<const double*>(y),
            out);
    } else if (is_narrow(p_.type)) {
        const auto run = products ? simd.products_f32 : simd.distances_f32;
        thread_local std::vector<float> some;
        some.resize(kWidened * p_.dimension);
        for (int64_t begin = 0; begin < count; begin += kWidened) {
            const int64_t size = std::min(kWidened, count - begin);
            for (int64_t r = 0; r < size; ++r) {
                const int64_t at = feature_rows[begin + r] * p_.dimension * size_of(p_.type);
                widen_row(static_cast<const char*>(p_.features) + at, p_.type, p_.dimension,
                          some.data() + r * p_.dimension);
            }
            run(some.data(), p_.dimension, kFirst.data(), size, static_cast<const float*>(y), out + begin);
        }
    } else {
        const auto run = products ? simd.products_f32 : simd.distances_f32;
        run(static_cast<const float*>(p_.features), p_.dimension, feature_rows, count, static_cast<const float*>(y),
            out);
    }
    for (int64_t r = 0; r < count; ++r) {
        if (products) {
            const double norms = norms_[feature_rows[r]] * y_norm;
            out[r] = norms > 0 ? std::max(out[r] / norms, 0.0) : 0.0;
        } else {
            out[r] = kernel_of_squared_distance(p_.kind, out[r], p_.bandwidth);
        }
    }
}

}  // namespace difal
