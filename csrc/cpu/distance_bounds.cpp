#include "distance_bounds.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "difal/coverage_kernels.h"
#include "difal/int16_rows.h"
#include "difal/isa.h"
#include "difal/rows.h"
#include "float32_kernels.h"

namespace difal {
namespace {

constexpr int64_t kBlock = kInt16Rows;
constexpr int64_t kSample = 256;         // rows whose mean is the origin
constexpr int64_t kInt16Dimension = 64;  // shorter rows are mostly padding in groups of 32
constexpr double kUnit = 0x1p-24;        // float32's unit roundoff
constexpr double kMaxSlack = 0.25;
// Squared norms of which float32 keeps all digits, and whose products it can hold.
constexpr float kSmallest = 1e-28f, kLargest = 1e30f;
constexpr float kNoBound = std::numeric_limits<float>::infinity();

template <typename T>
void mean(const T* x, int64_t rows, int64_t d, T* out) {
    const int64_t count = std::min(rows, kSample);
    std::vector<double> sum(d, 0.0);
    for (int64_t r = 0; r < count; ++r) {
        const T* row = x + r * rows / count * d;
        for (int64_t c = 0; c < d; ++c) sum[c] += row[c] / static_cast<double>(count);
    }
    for (int64_t c = 0; c < d; ++c) out[c] = static_cast<T>(sum[c]);
}

// The slack of rows whose products are off by no more than gemm_rel_err |a| |b|.
float slack_of(double gemm_rel_err) {
    const double slack = 1.01 * (gemm_rel_err + 20 * kUnit);
    return slack < kMaxSlack ? static_cast<float>(slack) : kNoBound;
}

double relative_error_of_sums(int64_t terms) {
    return terms * kUnit / (1 - terms * kUnit);
}

}  // namespace

const Float32Kernels& float32_kernels() {
    return *by_isa(&kFloat32Generic, &kFloat32Avx2, &kFloat32Avx512);
}

DistanceBounds::DistanceBounds(const void* features, int64_t rows, int64_t dimension, bool is_double)
    : dimension_(dimension),
      row_bytes_(dimension * static_cast<int64_t>(is_double ? sizeof(double) : sizeof(float))),
      is_double_(is_double),
      in_integers_(has_vnni() && dimension >= kInt16Dimension),
      center_(dimension) {
    lines_ = in_integers_ ? int16_block_size(dimension) / 16 : dimension;
    if (is_double) {
        mean(static_cast<const double*>(features), rows, dimension, center_.data());
    } else {
        mean(static_cast<const float*>(features), rows, dimension, reinterpret_cast<float*>(center_.data()));
    }
}

void DistanceBounds::prepare(const void* const* rows, int64_t count, BoundRows& out, int64_t begin) const {
    out.blocks.resize((begin + count + kBlock - 1) / kBlock * lines_);
    out.squared.resize(begin + count);
    out.slack.resize(begin + count);
    for (int64_t r = 0; r < count; r += kBlock) {
        prepare_block(rows + r, std::min(kBlock, count - r), out, begin + r);
    }
}

void DistanceBounds::prepare_block(const void* const* rows, int64_t count, BoundRows& out, int64_t begin) const {
    thread_local std::vector<double> gathered, centred;
    gathered.resize((count * row_bytes_ + sizeof(double) - 1) / sizeof(double));
    for (int64_t r = 0; r < count; ++r) {
        std::memcpy(reinterpret_cast<char*>(gathered.data()) + r * row_bytes_, rows[r], row_bytes_);
    }
    RowsJob job;
    job.features = gathered.data();
    job.is_double = is_double_;
    job.rows = count;
    job.dimension = dimension_;
    job.center = center_.data();
    job.sq_norms = out.squared.data() + begin;
    BoundRows::Line* block = out.blocks.data() + begin / kBlock * lines_;
    double rounding[kBlock] = {};
    float* a = nullptr;
    if (in_integers_) {
        prepare_int16_rows(job, block->words, rounding);
    } else {
        centred.resize(kBlock * dimension_);  // more than float32 needs
        a = reinterpret_cast<float*>(centred.data());
        std::fill_n(a + count * dimension_, (kBlock - count) * dimension_, 0.0f);
        job.out = a;
        prepare_rows(job);
    }
    for (int64_t r = 0; r < count; ++r) {
        float& squared = out.squared[begin + r];
        const bool is_usual = squared == 0 || (kSmallest < squared && squared < kLargest);
        const double sums = relative_error_of_sums(in_integers_ ? int16_roundings(dimension_) + 2 : dimension_);
        const double moved = rounding[r], gemm_rel_err = sums * (1 + moved) * (1 + moved) + 2 * moved + moved * moved;
        out.slack[begin + r] = is_usual ? slack_of(gemm_rel_err) : kNoBound;
        if (out.slack[begin + r] == kNoBound) {
            squared = 0;
            if (a) std::fill_n(a + r * dimension_, dimension_, 0.0f);
        }
    }
    if (a) {
        coverage_kernels().float32.transpose(a, dimension_, kBlock, dimension_, reinterpret_cast<float*>(block->words),
                                             kBlock);
    }
}

void DistanceBounds::multiply(const BoundRows& a, int64_t a_rows, const BoundRows& b, int64_t begin, int64_t count,
                              float* out, int64_t stride) const {
    const BoundRows::Line* other = b.blocks.data() + begin / kBlock * lines_;
    if (in_integers_) {
        multiply_int16_rows(a.blocks.data()->words, a_rows, other->words, count, dimension_, out, stride);
    } else {
        float32_kernels().multiply(reinterpret_cast<const float*>(a.blocks.data()), a_rows,
                                   reinterpret_cast<const float*>(other), count, dimension_, out, stride);
    }
}

}  // namespace difal
