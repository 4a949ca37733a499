#include "difal/coverage.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "difal/exact_kernel.h"
#include "difal/threads.h"

namespace difal {
namespace {

constexpr int64_t kStrip = 16;        // rows per task of fill, columns per task of the first scan
constexpr int64_t kSpan = 1024;       // columns per task of a gain update, rows per task of cover
constexpr int64_t kBatch = 32;        // contenders settled between two looks at the best
constexpr int64_t kInline = 1 << 16;  // fewer multiply-adds than this are not worth waking threads for
constexpr double kTie = 1e-12;        // of the first gain: closer than this is a tie
constexpr double kUnit = 0x1p-52;
constexpr double kTaken = -std::numeric_limits<double>::infinity();

// Per-thread buffers for one column of the matrix.
struct Scratch {
    std::vector<int32_t> rows, places;
    std::vector<double> values;
    std::vector<float> column;
    void reserve(int64_t n) {
        if (static_cast<int64_t>(rows.size()) >= n) return;
        rows.resize(n);
        places.resize(n);
        values.resize(n);
        column.resize(n);
    }
};

Scratch& scratch(int64_t n) {
    thread_local Scratch buffers;
    buffers.reserve(n);
    return buffers;
}

}  // namespace

struct Coverage::State {
    CoverageProblem p;
    const CoverageKernels& simd = coverage_kernels();
    ExactKernel exact;
    Team team;
    CoverageStats stats;
    bool symmetric;

    std::vector<double> coverage;      // m, float64: what picks are judged by
    std::vector<float> rounded;        // m rounded to float32: what estimated gains are relative to
    std::vector<double> gains;         // estimates; -inf once picked or where not allowed
    std::vector<double> margin;        // gains + margin is an upper bound (plus drift())
    std::vector<double> bounds;        // error bound of the estimate at its last scan; valid ever after
    std::vector<double> settled_gain;  // float64, valid while in `settled`
    std::vector<uint8_t> is_settled;
    std::vector<int64_t> scanned_at;  // number of picks made at the last scan
    std::vector<int64_t> settled;     // columns whose settled_gain is still exact
    double first_gain = -1;
    double largest_gain = 0;

    State(const CoverageProblem& problem, int threads)
        : p(problem), exact(p), team(threads), symmetric(problem.symmetric) {
        coverage.assign(p.rows, 0.0);
        rounded.assign(p.rows, 0.0f);
        gains.assign(p.columns, 0.0);
        margin.assign(p.columns, 0.0);
        bounds.assign(p.columns, 0.0);
        settled_gain.assign(p.columns, 0.0);
        is_settled.assign(p.columns, 0);
        scanned_at.assign(p.columns, -1);
    }

    int64_t point(int64_t column) const { return p.candidates ? p.candidates[column] : column; }

    // Rounding of the running sums in `gains` since their last scan, for all columns.
    double drift() const { return kUnit * static_cast<double>(stats.rows_updated + p.rows) * largest_gain; }

    double tie() const { return kTie * first_gain; }

    // Column j of the matrix as contiguous numbers.
    const float* column(int64_t j, Scratch& s) const {
        if (symmetric) return p.gram + j * p.gram_stride;
        for (int64_t i = 0; i < p.rows; ++i) s.column[i] = p.gram[i * p.gram_stride + j];
        return s.column.data();
    }

    float scale_of(int64_t j) const { return p.scale[point(j)]; }

    // k(x_i, x_i): 1, but 0 for the cosine of a zero vector.
    float self(int64_t i) const {
        const int32_t row = static_cast<int32_t>(i);
        double value;
        exact.against_point(i, &row, 1, &value);
        return static_cast<float>(value);
    }

    // Replaces the `count` kUncertain entries of row i, whose first column is `column_begin`, by float64
    // values.
    void settle_entries(int64_t i, float* k, int64_t column_begin, int64_t count, Scratch& s) const {
        int64_t found = 0;
        for (int64_t c = 0; found < count; ++c) {
            if (k[c] != kUncertain) continue;
            s.places[found] = static_cast<int32_t>(c);
            s.rows[found++] = static_cast<int32_t>(point(column_begin + c));
        }
        exact.against_point(i, s.rows.data(), count, s.values.data());
        for (int64_t u = 0; u < count; ++u) k[s.places[u]] = static_cast<float>(s.values[u]);
    }

    // What a scan charges column j for its own row beyond rounding: nothing is estimated there.
    double self_bound(int64_t j, const float* k) const {
        double gain, charged, rounding;
        ErrorModel rounding_only = p.error;
        rounding_only.lambda = 0;
        simd.scan(p.kind, p.error, k + j, rounded.data() + j, p.weights + j, 1, scale_of(j), p.scale + j, &gain,
                  &charged);
        simd.scan(p.kind, rounding_only, k + j, rounded.data() + j, p.weights + j, 1, scale_of(j), p.scale + j, &gain,
                  &rounding);
        return charged - rounding;
    }

    void scan(int64_t j, const float* k) {
        double gain, bound;
        simd.scan(p.kind, p.error, k, rounded.data(), p.weights, p.rows, scale_of(j), p.scale, &gain, &bound);
        gains[j] = gain;
        bounds[j] = margin[j] = symmetric ? bound - self_bound(j, k) : bound;
        scanned_at[j] = stats.picks;
    }

    // Rows that column j may still raise, with their float64 kernel values, in s.rows and s.values.
    int64_t live_values(int64_t j, const float* k, Scratch& s) const {
        const int64_t count =
            simd.live(p.kind, p.error, k, rounded.data(), p.rows, scale_of(j), p.scale, s.rows.data());
        exact.against_point(point(j), s.rows.data(), count, s.values.data());
        return count;
    }

    // Rescans column j if its estimate is stale and, if it still contends, computes its gain in float64.
    // Returns whether it was settled. Touches column j's own numbers only.
    bool refine(int64_t j, double threshold) {
        Scratch& s = scratch(p.rows);
        const float* k = column(j, s);
        if (scanned_at[j] != stats.picks) {
            scan(j, k);
            if (gains[j] + margin[j] + drift() < threshold) return false;
        }
        const int64_t count = live_values(j, k, s);
        double gain = 0;
        for (int64_t r = 0; r < count; ++r) {
            const int32_t i = s.rows[r];
            gain += p.weights[i] * std::max(s.values[r] - coverage[i], 0.0);
        }
        settled_gain[j] = gain;
        margin[j] = gain - gains[j];
        is_settled[j] = 1;
        return true;
    }

    int64_t choose() {
        double best = kTaken;
        for (int64_t j : settled) best = std::max(best, settled_gain[j]);
        std::vector<int64_t> contenders{std::max_element(gains.begin(), gains.end()) - gains.begin()};
        if (is_settled[contenders[0]]) contenders.clear();
        int64_t settled_now = 0;
        for (;;) {
            const double threshold = best - (first_gain < 0 ? kTie * std::max(best, 0.0) : tie());
            team.parallel_for(static_cast<int64_t>(contenders.size()),
                              [&](int64_t c) { refine(contenders[c], threshold); });
            for (int64_t j : contenders) {
                if (!is_settled[j]) continue;
                settled.push_back(j);
                best = std::max(best, settled_gain[j]);
                ++settled_now;
            }
            const double reach = best - (first_gain < 0 ? kTie * std::max(best, 0.0) : tie()) - drift();
            contenders.clear();
            for (int64_t j = 0; j < p.columns; ++j) {
                if (gains[j] + margin[j] >= reach && !is_settled[j] && gains[j] != kTaken) contenders.push_back(j);
            }
            if (contenders.empty()) break;
            if (static_cast<int64_t>(contenders.size()) > kBatch) {
                std::nth_element(
                    contenders.begin(), contenders.begin() + kBatch, contenders.end(),
                    [&](int64_t a, int64_t b) { return gains[a] != gains[b] ? gains[a] > gains[b] : a < b; });
                contenders.resize(kBatch);
            }
        }
        stats.settled += settled_now;
        stats.contested += settled_now > 1;
        if (first_gain < 0) first_gain = best;
        int64_t winner = p.columns;
        for (int64_t j : settled) {
            if (settled_gain[j] >= best - tie()) winner = std::min(winner, j);
        }
        return winner;
    }

    struct Rise {
        int32_t row;
        float low, high;
    };

    void take(int64_t j) {
        Scratch& s = scratch(p.rows);
        const float* k = column(j, s);
        const int64_t count = live_values(j, k, s);
        std::vector<Rise> rises;
        for (int64_t r = 0; r < count; ++r) {
            const int32_t i = s.rows[r];
            if (s.values[r] <= coverage[i]) continue;
            const float low = rounded[i];
            coverage[i] = s.values[r];
            rounded[i] = static_cast<float>(s.values[r]);
            if (p.weights[i] != 0) rises.push_back({i, low, rounded[i]});
        }
        settled.erase(std::remove(settled.begin(), settled.end(), j), settled.end());
        gains[j] = kTaken;
        ++stats.picks;
        stats.rows_updated += static_cast<int64_t>(rises.size());
        reopen(rises);
        const auto lower = [&](int64_t block) {
            const int64_t begin = block * kSpan, size = std::min(kSpan, p.columns - begin);
            for (const Rise& rise : rises) {
                simd.lower_gains(gains.data() + begin, p.gram + rise.row * p.gram_stride + begin, size, rise.low,
                                 rise.high, p.weights[rise.row]);
            }
        };
        const int64_t blocks = (p.columns + kSpan - 1) / kSpan;
        if (static_cast<int64_t>(rises.size()) * p.columns < kInline) {
            for (int64_t block = 0; block < blocks; ++block) lower(block);
        } else {
            team.parallel_for(blocks, lower);
        }
    }

    // A settled gain stays exact until a row that its column can still raise has risen.
    void reopen(const std::vector<Rise>& rises) {
        const auto touched = [&](int64_t j) {
            for (const Rise& rise : rises) {
                float low = rise.low;
                int32_t row;
                const float* k = p.gram + rise.row * p.gram_stride + j;
                if (*k + *k * (2 * p.error.tolerance + p.error.relative) + p.error.absolute <= low) continue;
                if (simd.live(p.kind, p.error, k, &low, 1, scale_of(j), p.scale + rise.row, &row) != 0) return true;
            }
            return false;
        };
        const auto kept = std::remove_if(settled.begin(), settled.end(), [&](int64_t j) {
            if (!touched(j)) return false;
            is_settled[j] = 0;
            margin[j] = bounds[j];
            return true;
        });
        settled.erase(kept, settled.end());
    }
};

Coverage::Coverage(const CoverageProblem& problem, int threads) : state_(new State(problem, threads)) {}
Coverage::~Coverage() = default;

void Coverage::fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) {
    State& s = *state_;
    const CoverageProblem& p = s.p;
    std::vector<float> packed;  // the s_j of this block's columns
    const float* scale = p.scale + column_begin;
    if (!s.symmetric) {
        for (int64_t j = column_begin; j < column_end; ++j) packed.push_back(p.scale[s.point(j)]);
        scale = packed.data();
    }
    const int64_t mirrored = s.symmetric ? std::min(column_end, row_begin) : column_begin;
    const int64_t strips = (row_end - row_begin + kStrip - 1) / kStrip;
    std::vector<int64_t> uncertain(strips, 0);
    s.team.parallel_for(strips, [&](int64_t strip) {
        const int64_t begin = row_begin + strip * kStrip, end = std::min(row_end, begin + kStrip);
        Scratch& buffers = scratch(std::max(p.rows, p.columns));
        for (int64_t i = begin; i < end; ++i) {
            float* k = p.gram + i * p.gram_stride + column_begin;
            const int64_t width = column_end - column_begin;
            const int64_t left = s.simd.transform(p.kind, p.error, k, width, p.scale[i], scale);
            if (left > 0) {
                uncertain[strip] += left;
                s.settle_entries(i, k, column_begin, left, buffers);
            }
            if (s.symmetric && column_begin <= i && i < column_end) k[i - column_begin] = s.self(i);
        }
        if (mirrored > column_begin) {
            s.simd.transpose(p.gram + begin * p.gram_stride + column_begin, p.gram_stride, end - begin,
                             mirrored - column_begin, p.gram + column_begin * p.gram_stride + begin, p.gram_stride);
        }
    });
    for (int64_t count : uncertain) s.stats.uncertain += count;
}

void Coverage::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* scale) {
    State& s = *state_;
    const CoverageProblem& p = s.p;
    const int64_t blocks = (p.rows + kSpan - 1) / kSpan;
    s.team.parallel_for(blocks, [&](int64_t block) {
        const int64_t begin = block * kSpan, size = std::min(kSpan, p.rows - begin);
        Scratch& buffers = scratch(kSpan);
        for (int64_t l = 0; l < count; ++l) {
            float* k = products + l * stride + begin;
            s.simd.transform(p.kind, p.error, k, size, scale[l], p.scale + begin);
            const int64_t live = s.simd.live(p.kind, p.error, k, s.rounded.data() + begin, size, scale[l],
                                             p.scale + begin, buffers.rows.data());
            for (int64_t r = 0; r < live; ++r) buffers.rows[r] += static_cast<int32_t>(begin);
            s.exact.against_other(labeled, l, buffers.rows.data(), live, buffers.values.data());
            for (int64_t r = 0; r < live; ++r) {
                const int32_t i = buffers.rows[r];
                if (buffers.values[r] <= s.coverage[i]) continue;
                s.coverage[i] = buffers.values[r];
                s.rounded[i] = static_cast<float>(buffers.values[r]);
            }
        }
    });
}

void Coverage::cover_with(const double* coverage) {
    State& s = *state_;
    for (int64_t i = 0; i < s.p.rows; ++i) {
        s.coverage[i] = coverage[i];
        s.rounded[i] = static_cast<float>(coverage[i]);
    }
}

void Coverage::start() {
    State& s = *state_;
    const CoverageProblem& p = s.p;
    s.team.parallel_for((p.columns + kStrip - 1) / kStrip, [&](int64_t strip) {
        const int64_t end = std::min(p.columns, (strip + 1) * kStrip);
        for (int64_t j = strip * kStrip; j < end; ++j) s.scan(j, s.column(j, scratch(p.rows)));
    });
    for (int64_t j = 0; j < p.columns; ++j) {
        if (p.allowed && !p.allowed[j]) {
            s.gains[j] = kTaken;
        } else {
            s.largest_gain = std::max(s.largest_gain, s.gains[j]);
        }
    }
}

void Coverage::select(int64_t count, int64_t* picks, double* gains) {
    State& s = *state_;
    for (int64_t t = 0; t < count; ++t) {
        picks[t] = s.choose();
        gains[t] = s.settled_gain[picks[t]];
        s.take(picks[t]);
    }
}

double Coverage::covered() const {
    double total = 0;
    for (int64_t i = 0; i < state_->p.rows; ++i) total += state_->p.weights[i] * state_->coverage[i];
    return total;
}

CoverageStats Coverage::stats() const {
    return state_->stats;
}

}  // namespace difal
