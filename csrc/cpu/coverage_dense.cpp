// The kernel matrix stored whole, in float32 or in 16 bits an entry.
#include <algorithm>

#include "difal/coverage.h"
#include "greedy.h"

namespace difal {
namespace {

constexpr int64_t kStrip = 32;        // rows that are mirrored together: a line of the cache or two
constexpr int64_t kSpan = 5120;       // columns per task of a gain update
constexpr int64_t kSparse = 8;        // fewer live entries than one in so many are gathered before they are summed
constexpr int64_t kTogether = 16;     // columns whose first gains are summed at once
constexpr int64_t kInline = 1 << 18;  // fewer multiply-adds than this are not worth waking threads for

// The most that entry_bound's slope can be, or -1 where that says too little or there is none.
double steepest(KernelKind kind) {
    switch (kind) {
        case KernelKind::rbf:
        case KernelKind::cauchy:
            return 1;
        case KernelKind::student_t:
            return 1.5;
        case KernelKind::rational_quadratic:
            return 0.5;
        case KernelKind::laplace:
        case KernelKind::tophat:
        case KernelKind::cosine:
        case KernelKind::precomputed:
            break;
    }
    return -1;
}

}  // namespace

class StoredGreedy : public Greedy {
  public:
    using Greedy::Greedy;
    virtual void fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* products,
                      int64_t stride) = 0;
    virtual void mirror(int64_t begin, int64_t end) = 0;
};

namespace {

template <typename T>
class Stored final : public StoredGreedy {
  public:
    Stored(const CoverageProblem& problem, int threads) : StoredGreedy(problem, threads) {
        if (!p.symmetric || steepest(p.kind) < 0) return;
        weighted_sq_norms_.resize(p.rows);
        for (int64_t i = 0; i < p.rows; ++i) {
            weighted_sq_norms_[i] = p.weights[i] * p.row_sq_norms[i];
            weight_ += p.weights[i];
            spread_ += weighted_sq_norms_[i];
        }
    }

    void fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* products,
              int64_t stride) override {
        const int64_t width = column_end - column_begin;
        std::vector<float> packed;  // the s_j of this block's columns
        const float* sq_norms = p.sq_norms + column_begin;
        if (p.candidates) {
            for (int64_t j = column_begin; j < column_end; ++j) packed.push_back(p.sq_norms[p.candidates[j]]);
            sq_norms = packed.data();
        }
        const int64_t mirrored = p.symmetric ? std::min(column_end, row_begin) : column_begin;
        Scratch& buffers = scratch(width + 1);
        for (int64_t begin = row_begin; begin < row_end; begin += kStrip) {
            const int64_t end = std::min(row_end, begin + kStrip);
            for (int64_t i = begin; i < end; ++i) {
                float* k = products + (i - row_begin) * stride;
                fill_row(p, exact, i, k, column_begin, width, sq_norms, buffers);
                kernels_.store(k, width, entry(i, column_begin));
            }
            if (mirrored > column_begin) {
                kernels_.transpose(entry(begin, column_begin), p.matrix_stride, end - begin, mirrored - column_begin,
                                   entry(column_begin, begin), p.matrix_stride);
            }
        }
    }

    void mirror(int64_t begin, int64_t end) override {
        for (int64_t i = begin; i < end; ++i) {
            for (int64_t j = begin; j < i; ++j) *entry(j, i) = *entry(i, j);
        }
    }

  protected:
    void scan(int64_t j, Scratch& s, double* gain, double* bound) override {
        const T* k = column(j, s);
        const float* covered = level.rounded.data();
        // Later few entries are live, and finding those costs a fraction of summing all.
        const int64_t live = stats.picks == 0 ? p.rows
                                              : kernels_.live(p.kind, p.error, k, covered, p.rows, sq_norm_of(j),
                                                              p.row_sq_norms, s.rows.data());
        if (live * kSparse < p.rows) {
            for (int64_t r = 0; r < live; ++r) {
                const int32_t i = s.rows[r];
                s.weights[r] = p.weights[i];
                s.packed[r] = entry_value(k[i]);
                s.covered[r] = covered[i];
                s.sq_norms[r] = p.row_sq_norms[i];
            }
            simd_.float32.scan(p.kind, p.error, s.packed.data(), s.covered.data(), s.weights.data(), live,
                               sq_norm_of(j), s.sq_norms.data(), gain, bound);
        } else {
            kernels_.scan(p.kind, p.error, k, covered, p.weights, p.rows, sq_norm_of(j), p.row_sq_norms, gain, bound);
        }
        if (p.symmetric) *bound -= self_bound(k[j], level.rounded[j], p.weights[j], p.sq_norms[j]);
    }

    // Entries bounded by bound_of, which of the value k is (k + quantization_err) (relative + 1.01 min(sq_dist_rel_err
    // (s_i + s_j) slope, tolerance)) + quantization_err, sum to no more than this; see docs/exactness.md.
    bool weigh(int64_t begin, int64_t end) override {
        if (weighted_sq_norms_.empty()) return false;
        const double quantization_err = p.error.quantization_err;
        double totals[kTogether], spreads[kTogether];
        for (int64_t first = begin; first < end; first += kTogether) {
            const int64_t count = std::min(kTogether, end - first);
            kernels_.weigh(entry(first, 0), p.matrix_stride, count, p.rows, p.weights, weighted_sq_norms_.data(),
                           totals, spreads);
            for (int64_t c = 0; c < count; ++c) {
                const double total = totals[c] + quantization_err * weight_,
                             spread = spreads[c] + quantization_err * spread_;
                const double most = p.error.tolerance * total;
                const double estimated =
                    p.error.sq_dist_rel_err * steepest(p.kind) * (spread + sq_norm_of(first + c) * total);
                gains_[first + c] = totals[c];
                // NaN, of scales beyond float32's range, is not below `most`.
                bounds_[first + c] = 1.0001 * (p.error.relative * total + 1.01 * (estimated < most ? estimated : most) +
                                               quantization_err * weight_);
            }
        }
        return true;
    }

    int64_t live_rows(int64_t j, Scratch& s) override {
        return kernels_.live(p.kind, p.error, column(j, s), level.rounded.data(), p.rows, sq_norm_of(j), p.row_sq_norms,
                             s.rows.data());
    }

    void raise(const std::vector<RowRise>& rises) override {
        for (int64_t j : settled_) {
            const auto touched = [&](const RowRise& rise) { return touches(rise, j); };
            if (is_settled_[j] && std::any_of(rises.begin(), rises.end(), touched)) reopen(j);
        }
        const auto lower = [&](int64_t block) {
            const int64_t begin = block * kSpan, size = std::min(kSpan, p.columns - begin);
            kernels_.lower_gains(gains_.data() + begin, entry(0, begin), p.matrix_stride, size, rises.data(),
                                 static_cast<int64_t>(rises.size()));
        };
        const int64_t blocks = (p.columns + kSpan - 1) / kSpan;
        if (static_cast<int64_t>(rises.size()) * p.columns < kInline) {
            for (int64_t block = 0; block < blocks; ++block) lower(block);
        } else {
            pool.parallel_for(blocks, lower);
        }
    }

  private:
    T* entry(int64_t i, int64_t j) const { return static_cast<T*>(p.matrix) + i * p.matrix_stride + j; }

    // Column j as contiguous numbers.
    const T* column(int64_t j, Scratch& s) const {
        if (p.symmetric) return entry(j, 0);
        T* out = room(s);
        for (int64_t i = 0; i < p.rows; ++i) out[i] = *entry(i, j);
        return out;
    }
    static T* room(Scratch& s) {
        if constexpr (sizeof(T) == 2)
            return s.entries.data();
        else
            return s.column.data();
    }

    bool touches(const RowRise& rise, int64_t j) const {
        const T* k = entry(rise.row, j);
        int32_t row;
        return may_reach(entry_value(*k), rise.low) &&
               kernels_.live(p.kind, p.error, k, &rise.low, 1, sq_norm_of(j), p.row_sq_norms + rise.row, &row) != 0;
    }

    const MatrixKernels<T>& kernels_ = matrix_kernels<T>();
    std::vector<double> weighted_sq_norms_;  // w_i s_i; empty where `weigh` is not for this kernel
    double weight_ = 0, spread_ = 0;         // sums of w_i and of w_i s_i
};

}  // namespace

int64_t count_uncertain(KernelKind kind, const ErrorModel& error, float* products, int64_t rows, int64_t columns,
                        const float* row_sq_norms, const float* column_sq_norms) {
    int64_t count = 0;
    for (int64_t i = 0; i < rows; ++i) {
        count += coverage_kernels().transform(kind, error, products + i * columns, columns, row_sq_norms[i],
                                              column_sq_norms);
    }
    return count;
}

DenseGreedy::DenseGreedy(const CoverageProblem& problem, int threads) {
    if (problem.is_short) {
        state_.reset(new Stored<uint16_t>(problem, threads));
    } else {
        state_.reset(new Stored<float>(problem, threads));
    }
}
DenseGreedy::~DenseGreedy() = default;

void DenseGreedy::fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* products,
                       int64_t stride) {
    state_->fill(row_begin, row_end, column_begin, column_end, products, stride);
}
void DenseGreedy::mirror(int64_t begin, int64_t end) {
    state_->mirror(begin, end);
}

void DenseGreedy::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms) {
    StoredGreedy& s = *state_;
    s.cover([&](CoverageLevel& level) {
        cover_by_labeled(s.p, s.exact, s.pool, level, labeled, count, products, stride, sq_norms);
    });
}

void DenseGreedy::cover_with(const double* coverage) {
    StoredGreedy& s = *state_;
    s.cover([&](CoverageLevel& level) {
        for (int64_t i = 0; i < s.p.rows; ++i) level.set(i, std::max(coverage[i], level.exact[i]));
    });
}

void DenseGreedy::start() {
    state_->start();
}
void DenseGreedy::select(int64_t count, int64_t* picks, double* gains) {
    state_->select(count, picks, gains);
}
double DenseGreedy::covered() const {
    return state_->covered();
}
CoverageStats DenseGreedy::stats() const {
    return state_->stats;
}

}  // namespace difal
