// The kernel matrix stored whole, float32.
#include <algorithm>

#include "difal/coverage.h"
#include "greedy.h"

namespace difal {
namespace {

constexpr int64_t kStrip = 16;        // rows per task of fill
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
        default:
            return -1;
    }
}

}  // namespace

struct Coverage::State final : Greedy {
    std::vector<double> weighted_scale;  // w_i s_i; empty where `weigh` is not for this kernel

    State(const CoverageProblem& problem, int threads) : Greedy(problem, threads) {
        if (!p.symmetric || steepest(p.kind) < 0) return;
        weighted_scale.resize(p.rows);
        for (int64_t i = 0; i < p.rows; ++i) weighted_scale[i] = p.weights[i] * p.scale[i];
    }

    // Column j as contiguous numbers.
    const float* column(int64_t j, Scratch& s) const {
        if (p.symmetric) return p.gram + j * p.gram_stride;
        for (int64_t i = 0; i < p.rows; ++i) s.column[i] = p.gram[i * p.gram_stride + j];
        return s.column.data();
    }

    void scan(int64_t j, Scratch& s, double* gain, double* bound) override {
        const float* k = column(j, s);
        const float* covered = level.rounded.data();
        // Later few entries are live, and finding those costs a fraction of summing all.
        const int64_t live = stats.picks == 0
                                 ? p.rows
                                 : simd_.live(p.kind, p.error, k, covered, p.rows, scale_of(j), p.scale, s.rows.data());
        if (live * kSparse < p.rows) {
            for (int64_t r = 0; r < live; ++r) {
                const int32_t i = s.rows[r];
                s.weights[r] = p.weights[i];
                s.packed[r] = k[i];
                s.covered[r] = covered[i];
                s.scale[r] = p.scale[i];
            }
            simd_.scan(p.kind, p.error, s.packed.data(), s.covered.data(), s.weights.data(), live, scale_of(j),
                       s.scale.data(), gain, bound);
        } else {
            simd_.scan(p.kind, p.error, k, covered, p.weights, p.rows, scale_of(j), p.scale, gain, bound);
        }
        if (p.symmetric) *bound -= self_bound(k[j], level.rounded[j], p.weights[j], p.scale[j]);
    }

    // Entries bounded by entry_bound, k (relative + 1.01 min(lambda (s_i + s_j) slope, tolerance)), sum to no more than
    // this; see docs/exactness.md.
    bool weigh(int64_t begin, int64_t end) override {
        if (weighted_scale.empty()) return false;
        double totals[kTogether], spreads[kTogether];
        for (int64_t first = begin; first < end; first += kTogether) {
            const int64_t count = std::min(kTogether, end - first);
            simd_.weigh(p.gram + first * p.gram_stride, p.gram_stride, count, p.rows, p.weights, weighted_scale.data(),
                        totals, spreads);
            for (int64_t c = 0; c < count; ++c) {
                const double total = totals[c], most = p.error.tolerance * total;
                const double estimated = p.error.lambda * steepest(p.kind) * (spreads[c] + scale_of(first + c) * total);
                gains_[first + c] = total;
                // NaN, of scales beyond float32's range, is not below `most`.
                bounds_[first + c] = 1.0001 * (p.error.relative * total + 1.01 * (estimated < most ? estimated : most));
            }
        }
        return true;
    }

    int64_t live_rows(int64_t j, Scratch& s) override {
        return simd_.live(p.kind, p.error, column(j, s), level.rounded.data(), p.rows, scale_of(j), p.scale,
                          s.rows.data());
    }

    bool touches(const RowRise& rise, int64_t j) const {
        const float* k = p.gram + rise.row * p.gram_stride + j;
        int32_t row;
        return may_reach(*k, rise.low) &&
               simd_.live(p.kind, p.error, k, &rise.low, 1, scale_of(j), p.scale + rise.row, &row) != 0;
    }

    void raise(const std::vector<RowRise>& rises) override {
        for (int64_t j : settled_) {
            const auto touched = [&](const RowRise& rise) { return touches(rise, j); };
            if (is_settled_[j] && std::any_of(rises.begin(), rises.end(), touched)) reopen(j);
        }
        const auto lower = [&](int64_t block) {
            const int64_t begin = block * kSpan, size = std::min(kSpan, p.columns - begin);
            simd_.lower_gains(gains_.data() + begin, p.gram + begin, p.gram_stride, size, rises.data(),
                              static_cast<int64_t>(rises.size()));
        };
        const int64_t blocks = (p.columns + kSpan - 1) / kSpan;
        if (static_cast<int64_t>(rises.size()) * p.columns < kInline) {
            for (int64_t block = 0; block < blocks; ++block) lower(block);
        } else {
            team.parallel_for(blocks, lower);
        }
    }
};

int64_t count_uncertain(KernelKind kind, const ErrorModel& error, float* products, int64_t rows, int64_t columns,
                        const float* row_scale, const float* column_scale) {
    int64_t count = 0;
    for (int64_t i = 0; i < rows; ++i) {
        count += coverage_kernels().transform(kind, error, products + i * columns, columns, row_scale[i], column_scale);
    }
    return count;
}

Coverage::Coverage(const CoverageProblem& problem, int threads) : state_(new State(problem, threads)) {}
Coverage::~Coverage() = default;

void Coverage::fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) {
    State& s = *state_;
    const CoverageProblem& p = s.p;
    const int64_t width = column_end - column_begin;
    std::vector<float> packed;  // the s_j of this block's columns
    const float* scale = p.scale + column_begin;
    if (p.candidates) {
        for (int64_t j = column_begin; j < column_end; ++j) packed.push_back(p.scale[p.candidates[j]]);
        scale = packed.data();
    }
    const int64_t mirrored = p.symmetric ? std::min(column_end, row_begin) : column_begin;
    Scratch& buffers = scratch(width + 1);
    for (int64_t begin = row_begin; begin < row_end; begin += kStrip) {
        const int64_t end = std::min(row_end, begin + kStrip);
        for (int64_t i = begin; i < end; ++i)
            fill_row(p, s.exact, i, p.gram + i * p.gram_stride + column_begin, column_begin, width, scale, buffers);
        if (mirrored > column_begin) {
            coverage_kernels().transpose(p.gram + begin * p.gram_stride + column_begin, p.gram_stride, end - begin,
                                         mirrored - column_begin, p.gram + column_begin * p.gram_stride + begin,
                                         p.gram_stride);
        }
    }
}

void Coverage::mirror(int64_t begin, int64_t end) {
    const CoverageProblem& p = state_->p;
    for (int64_t i = begin; i < end; ++i) {
        for (int64_t j = begin; j < i; ++j) p.gram[j * p.gram_stride + i] = p.gram[i * p.gram_stride + j];
    }
}

void Coverage::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* scale) {
    State& s = *state_;
    s.cover([&](CoverageLevel& level) {
        cover_by_labeled(s.p, s.exact, s.team, level, labeled, count, products, stride, scale);
    });
}

void Coverage::cover_with(const double* coverage) {
    State& s = *state_;
    s.cover([&](CoverageLevel& level) {
        for (int64_t i = 0; i < s.p.rows; ++i) level.set(i, std::max(coverage[i], level.exact[i]));
    });
}

void Coverage::start() {
    state_->start();
}
void Coverage::select(int64_t count, int64_t* picks, double* gains) {
    state_->select(count, picks, gains);
}
double Coverage::covered() const {
    return state_->covered();
}
CoverageStats Coverage::stats() const {
    return state_->stats;
}

}  // namespace difal
