#include "difal/sweep.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "alive.h"
#include "greedy.h"

namespace difal {
namespace {

constexpr int64_t kStrip = 16;  // rows per task of a tile's transform
constexpr int64_t kSpan = 256;  // columns per task of a tile's sums
constexpr float kForever = std::numeric_limits<float>::infinity();

}  // namespace

struct Sweep::State final : Greedy {
    struct Event {
        int32_t step;  // 0 for the first step of the sweep; the last one is what remains after all guesses
        float low, high;
    };

    std::vector<CoverageLevel> levels;  // after 0, 1, ... guesses
    int64_t first = 0, alive_at = 0;
    std::vector<int64_t> event_begin;  // (N + 1,) into events
    std::vector<Event> events;
    std::vector<double> taken;        // (steps + 1, N), negative sums of what each step takes
    std::vector<float> weight_alive;  // (steps + 1, N): weight of the rows whose entry dies at each step
    std::vector<float> floor;         // coverage at alive_at, rounded
    std::unique_ptr<AliveEntries> alive;
    int64_t entries_at_start = 0;

    State(const CoverageProblem& problem, int threads) : Greedy(problem, threads) { levels.emplace_back(p.rows); }

    int64_t steps() const { return static_cast<int64_t>(levels.size()) - 1 - first; }
    bool is_allowed(int64_t j) const { return !p.allowed || p.allowed[j]; }

    // Events of all rows over the steps of this sweep.
    void make_events() {
        event_begin.assign(p.rows + 1, 0);
        events.clear();
        for (int64_t i = 0; i < p.rows; ++i) {
            for (int64_t t = 0; t < steps() && p.weights[i] != 0; ++t) {
                const float low = levels[first + t].rounded[i], high = levels[first + t + 1].rounded[i];
                if (high > low) events.push_back({static_cast<int32_t>(t), low, high});
            }
            if (p.weights[i] != 0)
                events.push_back({static_cast<int32_t>(steps()), levels.back().rounded[i], kForever});
            event_begin[i + 1] = static_cast<int64_t>(events.size());
        }
    }

    // Adds what rows [row, row + rows) take from the candidates [column, column + width), given their kernel values.
    void take_from(const float* k, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t width) {
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t e = event_begin[row + i]; e < event_begin[row + i + 1]; ++e) {
                const int64_t at = events[e].step * p.rows + column;
                simd_.take_gains(p.error, taken.data() + at, weight_alive.data() + at, k + i * stride, width,
                                 events[e].low, events[e].high, p.weights[row + i]);
            }
        }
    }

    // Keeps the entries of point i, with `width` points from `column` on, that either of the two may still use: as a
    // row that covers a candidate, or as a candidate that is covered by a row.
    void keep_alive(int64_t i, const float* k, int64_t column, int64_t width, Scratch& s) {
        for (int64_t c = 0; c < width; ++c) s.covered[c] = std::min(floor[i], floor[column + c]);
        const int64_t count =
            simd_.live(p.kind, p.error, k, s.covered.data(), width, p.scale[i], p.scale + column, s.rows.data());
        const bool candidate = is_allowed(i);
        for (int64_t r = 0; r < count; ++r) {
            const int64_t j = column + s.rows[r];
            if (candidate || is_allowed(j)) alive->add(i, static_cast<int32_t>(j), k[s.rows[r]]);
        }
    }

    // Greedy on the alive entries: a list serves as row and as column, the matrix being symmetric.

    int64_t pack(int64_t j, Scratch& s, int64_t* self) {
        const int64_t length = alive->length(j);
        s.reserve(length + 1);
        int64_t count = 0;
        *self = -1;
        alive->filter(j, [&](int32_t i, float k) {
            const bool as_row = may_reach(k, level.rounded[i]);
            if (as_row) {
                if (i == j) *self = count;
                s.places[count] = i;
                s.column[count] = k;
                s.covered[count] = level.rounded[i];
                s.weights[count] = p.weights[i];
                s.scale[count++] = p.scale[i];
            }
            return as_row || may_reach(k, level.rounded[j]);
        });
        return count;
    }

    void scan(int64_t j, Scratch& s, double* gain, double* bound) override {
        int64_t self;
        const int64_t count = pack(j, s, &self);
        simd_.scan(p.kind, p.error, s.column.data(), s.covered.data(), s.weights.data(), count, p.scale[j],
                   s.scale.data(), gain, bound);
        if (self >= 0) *bound -= self_bound(s.column[self], s.covered[self], s.weights[self], s.scale[self]);
    }

    int64_t live_rows(int64_t j, Scratch& s) override {
        int64_t self;
        const int64_t count = pack(j, s, &self);
        const int64_t live = simd_.live(p.kind, p.error, s.column.data(), s.covered.data(), count, p.scale[j],
                                        s.scale.data(), s.rows.data());
        for (int64_t r = 0; r < live; ++r) s.rows[r] = s.places[s.rows[r]];
        return live;
    }

    void raise(const std::vector<Rise>& rises) override {
        for (const Rise& rise : rises) {
            const double weight = p.weights[rise.row];
            alive->filter(rise.row, [&](int32_t j, float k) {
                if (is_settled_[j] && may_reach(k, rise.low)) reopen(j);
                gains_[j] -= weight * (static_cast<double>(std::min(std::max(k, rise.low), rise.high)) -
                                       static_cast<double>(rise.low));
                return may_reach(k, rise.high) || may_reach(k, level.rounded[j]);
            });
        }
    }
};

Sweep::Sweep(const CoverageProblem& problem, int threads) : state_(new State(problem, threads)) {}
Sweep::~Sweep() = default;

void Sweep::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* scale) {
    State& s = *state_;
    cover_by_labeled(s.p, s.exact, s.team, s.levels[0], labeled, count, products, stride, scale);
}

double Sweep::guess(int64_t j, float* products) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    s.stats.uncertain += fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.scale, buffers);
    s.levels.push_back(s.levels.back());
    CoverageLevel& level = s.levels.back();
    const int64_t live = coverage_kernels().live(s.p.kind, s.p.error, products, level.rounded.data(), s.p.rows,
                                                 s.p.scale[j], s.p.scale, buffers.rows.data());
    s.exact.against_point(j, buffers.rows.data(), live, buffers.values.data());
    double gain = 0;
    for (int64_t r = 0; r < live; ++r) {
        const int32_t i = buffers.rows[r];
        if (buffers.values[r] <= level.exact[i]) continue;
        gain += s.p.weights[i] * (buffers.values[r] - level.exact[i]);
        level.set(i, buffers.values[r]);
    }
    return gain;
}

void Sweep::keep(int64_t count) {
    state_->levels.resize(count + 1, CoverageLevel(0));
}

int64_t Sweep::guesses() const {
    return static_cast<int64_t>(state_->levels.size()) - 1;
}

const double* Sweep::coverage(int64_t count) const {
    return state_->levels[count].exact.data();
}

void Sweep::begin(int64_t first, int64_t alive_at, int64_t entries) {
    State& s = *state_;
    s.first = first;
    s.alive_at = alive_at;
    s.make_events();
    s.taken.assign((s.steps() + 1) * s.p.rows, 0.0);
    s.weight_alive.assign((s.steps() + 1) * s.p.rows, 0.0f);
    s.alive.reset();
    if (entries > 0) {
        s.floor = s.levels[alive_at].rounded;
        s.alive.reset(new AliveEntries(s.p.rows, entries));
    }
}

void Sweep::tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile,
                 float* turned) {
    State& s = *state_;
    const int64_t rows = row_end - row_begin, columns = column_end - column_begin;
    const bool diagonal = row_begin == column_begin;
    const int64_t strips = (rows + kStrip - 1) / kStrip;
    std::vector<int64_t> uncertain(strips, 0);
    s.team.parallel_for(strips, [&](int64_t strip) {
        const int64_t begin = strip * kStrip, end = std::min(rows, begin + kStrip);
        Scratch& buffers = scratch(columns + 1);
        for (int64_t i = begin; i < end; ++i) {
            float* k = tile + i * columns;
            uncertain[strip] +=
                fill_row(s.p, s.exact, row_begin + i, k, column_begin, columns, s.p.scale + column_begin, buffers);
            if (s.alive) s.keep_alive(row_begin + i, k, column_begin, columns, buffers);
        }
        if (!diagonal)
            coverage_kernels().transpose(tile + begin * columns, columns, end - begin, columns, turned + begin, rows);
    });
    for (int64_t count : uncertain) s.stats.uncertain += count;
    s.team.parallel_for((columns + kSpan - 1) / kSpan, [&](int64_t span) {
        const int64_t begin = span * kSpan, width = std::min(kSpan, columns - begin);
        s.take_from(tile + begin, columns, row_begin, rows, column_begin + begin, width);
    });
    if (diagonal) return;
    s.team.parallel_for((rows + kSpan - 1) / kSpan, [&](int64_t span) {
        const int64_t begin = span * kSpan, width = std::min(kSpan, rows - begin);
        s.take_from(turned + begin, rows, column_begin, columns, row_begin + begin, width);
    });
    if (!s.alive) return;
    s.team.parallel_for((columns + kStrip - 1) / kStrip, [&](int64_t strip) {
        const int64_t end = std::min(columns, (strip + 1) * kStrip);
        for (int64_t c = strip * kStrip; c < end; ++c)
            s.keep_alive(column_begin + c, turned + c * rows, row_begin, rows, scratch(rows + 1));
    });
}

bool Sweep::gathered() const {
    return state_->alive && !state_->alive->full();
}

void Sweep::gains(int64_t t, double* out, double* alive) const {
    const State& s = *state_;
    std::fill(out, out + s.p.rows, 0.0);
    std::fill(alive, alive + s.p.rows, 0.0);
    for (int64_t step = t - s.first; step <= s.steps(); ++step) {
        const double* taken = s.taken.data() + step * s.p.rows;
        const float* weight = s.weight_alive.data() + step * s.p.rows;
        for (int64_t j = 0; j < s.p.rows; ++j) {
            out[j] -= taken[j];
            alive[j] += weight[j];
        }
    }
}

double Sweep::settle(int64_t j, float* products, bool fresh, int64_t t, double threshold) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    if (fresh) s.stats.uncertain += fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.scale, buffers);
    const CoverageLevel& level = s.levels[t];
    double estimate, bound;
    const CoverageKernels& simd = coverage_kernels();
    simd.scan(s.p.kind, s.p.error, products, level.rounded.data(), s.p.weights, s.p.rows, s.p.scale[j], s.p.scale,
              &estimate, &bound);
    if (estimate + bound < threshold) return -1;
    const int64_t live = simd.live(s.p.kind, s.p.error, products, level.rounded.data(), s.p.rows, s.p.scale[j],
                                   s.p.scale, buffers.rows.data());
    s.exact.against_point(j, buffers.rows.data(), live, buffers.values.data());
    double gain = 0;
    for (int64_t r = 0; r < live; ++r) {
        const int32_t i = buffers.rows[r];
        gain += s.p.weights[i] * std::max(buffers.values[r] - level.exact[i], 0.0);
    }
    ++s.stats.settled;
    return gain;
}

void Sweep::start(double first_gain, const int64_t* picked) {
    State& s = *state_;
    if (!gathered()) throw std::logic_error("Sweep::start: nothing was gathered");
    s.level = s.levels[s.alive_at];
    s.levels.clear();
    s.levels.shrink_to_fit();
    s.taken = {};
    s.weight_alive = {};
    s.events = {};
    s.entries_at_start = s.alive->count();
    s.first_gain = first_gain;
    s.Greedy::start(picked, s.alive_at);
}

void Sweep::select(int64_t count, int64_t* picks, double* gains) {
    state_->select(count, picks, gains);
}
double Sweep::covered() const {
    return state_->covered();
}
CoverageStats Sweep::stats() const {
    return state_->stats;
}
int64_t Sweep::entries() const {
    return state_->entries_at_start;
}

}  // namespace difal
