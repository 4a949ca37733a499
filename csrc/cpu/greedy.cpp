#include "greedy.h"

#include <algorithm>
#include <limits>

namespace difal {
namespace {

constexpr int64_t kStrip = 16;   // columns per task of the first scan
constexpr int64_t kSpan = 1024;  // rows per task of cover_by_labeled
constexpr int64_t kBatch = 32;   // contenders settled between two looks at the best
constexpr int64_t kPart = 256;  // rows of a column per task of settling it, a multiple of what ExactKernel does at once
constexpr int64_t kWake = 1 << 16;  // fewer numbers than this are not worth waking threads for
constexpr double kTie = 1e-12;      // of the first gain: closer than this is a tie
constexpr double kUnit = 0x1p-52;
constexpr double kTaken = -std::numeric_limits<double>::infinity();

}  // namespace

void Scratch::reserve(int64_t n) {
    if (static_cast<int64_t>(rows.size()) >= n) return;
    rows.resize(n);
    positions.resize(n);
    values.resize(n);
    weights.resize(n);
    column.resize(n);
    packed.resize(n);
    covered.resize(n);
    sq_norms.resize(n);
    entries.resize(n);
}

Scratch& scratch(int64_t n) {
    thread_local Scratch buffers;
    buffers.reserve(n);
    return buffers;
}

void fill_row(const CoverageProblem& p, const ExactKernel& exact, int64_t i, float* k, int64_t first, int64_t width,
              const float* sq_norms, Scratch& s) {
    const auto point = [&](int64_t c) { return p.candidates ? p.candidates[first + c] : first + c; };
    const int64_t count = coverage_kernels().transform(p.kind, p.error, k, width, p.row_sq_norms[i], sq_norms);
    int64_t found = 0;
    for (int64_t c = 0; found < count; ++c) {
        if (k[c] != kUncertain) continue;
        s.positions[found] = static_cast<int32_t>(c);
        s.rows[found++] = static_cast<int32_t>(point(c));
    }
    if (!p.candidates && first <= i && i < first + width) {  // k(x_i, x_i): 1, but 0 for the cosine of a zero vector
        s.positions[found] = static_cast<int32_t>(i - first);
        s.rows[found++] = static_cast<int32_t>(i);
    }
    exact.against_row(i, s.rows.data(), found, s.values.data());
    for (int64_t u = 0; u < found; ++u) k[s.positions[u]] = static_cast<float>(s.values[u]);
}

void cover_by_labeled(const CoverageProblem& p, const ExactKernel& exact, ThreadPool& pool, CoverageLevel& level,
                      const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms) {
    const CoverageKernels& simd = coverage_kernels();
    pool.parallel_for((p.rows + kSpan - 1) / kSpan, [&](int64_t block) {
        const int64_t begin = block * kSpan, size = std::min(kSpan, p.rows - begin);
        Scratch& s = scratch(kSpan);
        for (int64_t l = 0; l < count; ++l) {
            float* k = products + l * stride + begin;
            simd.transform(p.kind, p.error, k, size, sq_norms[l], p.row_sq_norms + begin);
            const int64_t live = simd.float32.live(p.kind, p.error, k, level.rounded.data() + begin, size, sq_norms[l],
                                                   p.row_sq_norms + begin, s.rows.data());
            for (int64_t r = 0; r < live; ++r) s.rows[r] += static_cast<int32_t>(begin);
            exact.against_other(labeled, l, s.rows.data(), live, s.values.data());
            for (int64_t r = 0; r < live; ++r) {
                if (s.values[r] > level.exact[s.rows[r]]) level.set(s.rows[r], s.values[r]);
            }
        }
    });
}

Greedy::Greedy(const CoverageProblem& problem, int threads)
    : p(problem),
      exact(p),
      pool(threads),
      level(problem.rows, problem.kind, problem.is_short),
      first_gain(problem.first_gain) {
    gains_.assign(p.columns, 0.0);
    margin_.assign(p.columns, 0.0);
    bounds_.assign(p.columns, 0.0);
    settled_gain_.assign(p.columns, 0.0);
    is_settled_.assign(p.columns, 0);
    scanned_at_.assign(p.columns, -1);
    reaching_.assign(p.columns, 0);
}

// Rounding of the running sums in `gains_` since their last scan, for all columns: of each row risen, three halves of a
// unit of what it takes and one half of what is left, neither of which is more than a first gain.
double Greedy::drift() const {
    return 2 * kUnit * static_cast<double>(stats.rows_updated + p.rows) * largest_gain_;
}

double Greedy::tie(double best) const {
    return kTie * (first_gain < 0 ? std::max(best, 0.0) : first_gain);
}

void Greedy::rescan(int64_t j, Scratch& s) {
    scan(j, s, &gains_[j], &bounds_[j]);
    margin_[j] = bounds_[j];
    scanned_at_[j] = stats.picks;
}

void Greedy::start(const int64_t* picked, int64_t count) {
    for (int64_t j = 0; p.allowed && j < p.columns; ++j) {
        if (!p.allowed[j]) gains_[j] = kTaken;
    }
    for (int64_t t = 0; t < count; ++t) gains_[picked[t]] = kTaken;
    const bool is_open = std::all_of(level.exact.begin(), level.exact.end(), [](double m) { return m == 0; });
    const std::vector<double> barred = gains_;
    pool.parallel_for((p.columns + kStrip - 1) / kStrip, [&](int64_t strip) {
        const int64_t begin = strip * kStrip, end = std::min(p.columns, begin + kStrip);
        const bool weighed = is_open && weigh(begin, end);
        for (int64_t j = begin; j < end; ++j) {
            if (barred[j] == kTaken) {
                gains_[j] = kTaken;
            } else if (weighed) {
                margin_[j] = bounds_[j];
                scanned_at_[j] = stats.picks;
            } else {
                rescan(j, scratch(p.rows));
            }
        }
    });
    for (int64_t j = 0; j < p.columns; ++j) largest_gain_ = std::max(largest_gain_, gains_[j] + bounds_[j]);
    started_ = true;
}

// The coverage rose by something that is no pick: newly labeled points. A pick in all but name.
void Greedy::after_rise(const CoverageLevel& before) {
    std::vector<RowRise> rises;
    for (int64_t i = 0; i < p.rows; ++i) {
        if (level.exact[i] > before.exact[i] && p.weights[i] != 0)
            rises.push_back({i, before.rounded[i], level.rounded[i], p.weights[i]});
    }
    ++stats.picks;
    stats.rows_updated += static_cast<int64_t>(rises.size());
    raise(rises);
    forget_unsettled();
}

void Greedy::forget_unsettled() {
    settled_.erase(std::remove_if(settled_.begin(), settled_.end(), [&](int64_t c) { return !is_settled_[c]; }),
                   settled_.end());
}

// Rescans column j if its estimate is stale and, if it still contends, computes its gain in float64. Returns whether
// it was settled. Touches column j's own numbers only.
bool Greedy::refine(int64_t j, double threshold) {
    Scratch& s = scratch(p.rows);
    if (scanned_at_[j] != stats.picks) {
        rescan(j, s);
        if (gains_[j] + margin_[j] + drift() < threshold) return false;
    }
    const int64_t count = live_rows(j, s);
    exact.against_point(point(j), s.rows.data(), count, s.values.data());
    settle(j, s.rows.data(), s.values.data(), count);
    return true;
}

void Greedy::settle(int64_t j, const int32_t* rows, const double* values, int64_t count) {
    double gain = 0;
    for (int64_t r = 0; r < count; ++r) gain += p.weights[rows[r]] * std::max(values[r] - level.exact[rows[r]], 0.0);
    settled_gain_[j] = gain;
    margin_[j] = gain - gains_[j];
    is_settled_[j] = 1;
}

// Column j's rows that may still rise, in float64, by all threads; kept, for it is the likely winner.
void Greedy::make_column(int64_t j) {
    Scratch& s = scratch(p.rows);
    const int64_t count = live_rows(j, s);
    kept_.rows.assign(s.rows.begin(), s.rows.begin() + count);
    kept_.values.resize(count);
    kept_.column = j;
    kept_.picks = stats.picks;
    const auto part = [&](int64_t at) {
        const int64_t begin = at * kPart, size = std::min(kPart, count - begin);
        exact.against_point(point(j), kept_.rows.data() + begin, size, kept_.values.data() + begin);
    };
    const int64_t parts = (count + kPart - 1) / kPart;
    if (count * p.dimension < kWake) {
        for (int64_t at = 0; at < parts; ++at) part(at);
    } else {
        pool.parallel_for(parts, part);
    }
}

// The columns that are not settled and whose gain may be `reach` or more.
void Greedy::find_contenders(double reach, std::vector<int64_t>& found) {
    const int64_t count = simd_.reaching(gains_.data(), margin_.data(), p.columns, reach, reaching_.data());
    found.clear();
    for (int64_t c = 0; c < count; ++c) {
        const int64_t j = reaching_[c];
        if (!is_settled_[j] && gains_[j] != kTaken) found.push_back(j);
    }
}

// Where many contend only because their bounds are from long ago, all of those are scanned at once: they would have to
// be, one after another, at the next picks. A column is scanned so no more often than the picks double.
bool Greedy::rescan_old(const std::vector<int64_t>& contenders) {
    if (static_cast<int64_t>(contenders.size()) <= kBatch) return false;
    std::vector<int64_t> old;
    for (int64_t j : contenders) {
        if (scanned_at_[j] != stats.picks && 2 * scanned_at_[j] <= stats.picks) old.push_back(j);
    }
    if (static_cast<int64_t>(old.size()) <= kBatch) return false;
    pool.parallel_for(static_cast<int64_t>(old.size()), [&](int64_t c) { rescan(old[c], scratch(p.rows)); });
    return true;
}

int64_t Greedy::choose() {
    double best = kTaken;
    for (int64_t j : settled_) best = std::max(best, settled_gain_[j]);
    std::vector<int64_t> contenders;
    int64_t settled_now = 0;
    const int64_t first = simd_.largest(gains_.data(), p.columns);
    if (!is_settled_[first] && gains_[first] + margin_[first] + drift() >= best - tie(best)) {
        make_column(first);
        settle(first, kept_.rows.data(), kept_.values.data(), static_cast<int64_t>(kept_.rows.size()));
        settled_.push_back(first);
        best = std::max(best, settled_gain_[first]);
        ++settled_now;
    }
    for (;;) {
        const double threshold = best - tie(best);
        const auto refine_one = [&](int64_t c) { refine(contenders[c], threshold); };
        const int64_t count = static_cast<int64_t>(contenders.size());
        if (count * (p.rows / 64 + static_cast<int64_t>(kept_.rows.size()) * p.dimension) < kWake) {
            for (int64_t c = 0; c < count; ++c) refine_one(c);
        } else {
            pool.parallel_for(count, refine_one);
        }
        for (int64_t j : contenders) {
            if (!is_settled_[j]) continue;
            settled_.push_back(j);
            best = std::max(best, settled_gain_[j]);
            ++settled_now;
        }
        const double reach = best - tie(best) - drift();
        find_contenders(reach, contenders);
        if (rescan_old(contenders)) find_contenders(reach, contenders);
        if (contenders.empty()) break;
        if (static_cast<int64_t>(contenders.size()) > kBatch) {
            std::nth_element(
                contenders.begin(), contenders.begin() + kBatch, contenders.end(),
                [&](int64_t a, int64_t b) { return gains_[a] != gains_[b] ? gains_[a] > gains_[b] : a < b; });
            contenders.resize(kBatch);
        }
    }
    stats.settled_candidates += settled_now;
    stats.contested += settled_now > 1;
    if (first_gain < 0) first_gain = best;
    int64_t winner = p.columns;
    for (int64_t j : settled_) {
        if (settled_gain_[j] < best - tie(best)) continue;
        if (winner == p.columns || place(j) < place(winner)) winner = j;
    }
    return winner;
}

void Greedy::take(int64_t j) {
    if (kept_.column != j || kept_.picks != stats.picks) make_column(j);
    std::vector<RowRise> rises;
    for (size_t r = 0; r < kept_.rows.size(); ++r) {
        const int32_t i = kept_.rows[r];
        if (kept_.values[r] <= level.exact[i]) continue;
        const float low = level.rounded[i];
        level.set(i, kept_.values[r]);
        if (p.weights[i] != 0) rises.push_back({i, low, level.rounded[i], p.weights[i]});
    }
    is_settled_[j] = 0;
    gains_[j] = kTaken;
    ++stats.picks;
    stats.rows_updated += static_cast<int64_t>(rises.size());
    raise(rises);
    forget_unsettled();
}

int64_t Greedy::select(int64_t count, int64_t* picks, double* gains, double least) {
    for (int64_t t = 0; t < count; ++t) {
        const int64_t contested = stats.contested;
        picks[t] = choose();
        gains[t] = settled_gain_[picks[t]];
        if (gains[t] - tie(gains[t]) <= least) {
            stats.contested = contested;
            return t;
        }
        take(picks[t]);
    }
    return count;
}

void Greedy::stop() {
    gains_.assign(p.columns, 0.0);
    margin_.assign(p.columns, 0.0);
    bounds_.assign(p.columns, 0.0);
    is_settled_.assign(p.columns, 0);
    scanned_at_.assign(p.columns, -1);
    settled_.clear();
    kept_.column = -1;
    largest_gain_ = 0;
    started_ = false;
}

double Greedy::covered() const {
    double total = 0;
    for (int64_t i = 0; i < p.rows; ++i) total += p.weights[i] * level.exact[i];
    return total;
}

}  // namespace difal
