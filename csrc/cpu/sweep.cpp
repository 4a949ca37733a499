#include "difal/sweep.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "alive.h"
#include "greedy.h"

namespace difal {
namespace {

constexpr float kForever = std::numeric_limits<float>::infinity();
constexpr int64_t kRows = 256;  // rows per task when their coverage is made again

// What the rows of one tile do at each step: those of step t are events[begin[t]] to events[begin[t + 1]].
struct TileEvents {
    std::vector<int64_t> begin;
    std::vector<RiseEvent> events;
};

}  // namespace

struct Sweep::State final : Greedy {
    std::vector<CoverageLevel> levels;  // after 0, 1, ... guesses
    int64_t first = 0, alive_at = 0, block = 1;
    std::vector<TileEvents> blocks;   // of `block` points each
    std::vector<double> taken;        // (steps + 1, N): what each step takes; the last, what remains after all guesses
    std::vector<float> weight_alive;  // (steps + 1, N): weight of the rows whose entry dies at each step
    double largest_weight = 0;        // the unit of the two
    std::vector<float> floor;         // coverage at alive_at, rounded, when the entries were gathered
    std::unique_ptr<AliveEntries> alive;
    int64_t entries_at_start = 0;
    std::vector<int32_t> changed;     // rows whose coverage the last replacement changed
    std::vector<float> was;           // (changed, steps after it + 1): their coverage before
    int64_t changed_from = 0;         // the first step at which it did
    std::vector<TileEvents> changes;  // undo the old and do the new, kBatch rows at a time
    std::vector<uint8_t> is_lower;    // rows whose floor is too high by now

    State(const CoverageProblem& problem, int threads) : Greedy(problem, threads) {
        levels.emplace_back(p.rows, p.kind);
        for (int64_t i = 0; i < p.rows; ++i) largest_weight = std::max(largest_weight, p.weights[i]);
    }

    int64_t steps() const { return static_cast<int64_t>(levels.size()) - 1 - first; }
    bool is_allowed(int64_t j) const { return !p.allowed || p.allowed[j]; }
    float rounded(int64_t step, int64_t i) const { return step > steps() ? kForever : levels[first + step].rounded[i]; }
    float weight_of(int64_t i) const { return static_cast<float>(p.weights[i] / largest_weight); }

    void add_event(TileEvents& to, int64_t row, int64_t i, float low, float high, bool undo) const {
        const float weight = weight_of(i);
        to.events.push_back({static_cast<int32_t>(row), low, high, undo ? -weight : weight, weight * 1.000001f});
    }

    TileEvents block_events(int64_t b) const {
        TileEvents out;
        const int64_t end = std::min(p.rows, (b + 1) * block);
        for (int64_t t = 0; t <= steps(); ++t) {
            out.begin.push_back(static_cast<int64_t>(out.events.size()));
            for (int64_t i = b * block; i < end; ++i) {
                const float low = rounded(t, i), high = rounded(t + 1, i);
                if (high > low && p.weights[i] != 0) add_event(out, i - b * block, i, low, high, false);
            }
        }
        out.begin.push_back(static_cast<int64_t>(out.events.size()));
        return out;
    }

    // The events of changed rows [begin, end): old ones undone, new ones done.
    TileEvents change_events(int64_t begin, int64_t end) const {
        TileEvents out;
        const int64_t width = steps() - changed_from + 1;
        for (int64_t t = 0; t <= steps(); ++t) {
            out.begin.push_back(static_cast<int64_t>(out.events.size()));
            for (int64_t r = begin; r < end && t >= changed_from; ++r) {
                const int64_t i = changed[r];
                const float* old = was.data() + r * width + (t - changed_from);
                const float old_high = t == steps() ? kForever : old[1];
                const float low = rounded(t, i), high = rounded(t + 1, i);
                if (p.weights[i] == 0 || (low == old[0] && high == old_high)) continue;
                if (old_high > old[0]) add_event(out, r - begin, i, old[0], old_high, true);
                if (high > low) add_event(out, r - begin, i, low, high, false);
            }
        }
        out.begin.push_back(static_cast<int64_t>(out.events.size()));
        return out;
    }

    // What a tile's rows take from the candidates [column, column + width), given their kernel values.
    void take_from(const TileEvents& rows, const float* k, int64_t stride, int64_t column, int64_t width) {
        for (int64_t t = 0; t + 1 < static_cast<int64_t>(rows.begin.size()); ++t) {
            const int64_t begin = rows.begin[t], count = rows.begin[t + 1] - begin, at = t * p.rows + column;
            if (count == 0) continue;
            simd_.take_gains(p.error, k, stride, width, rows.events.data() + begin, count, taken.data() + at,
                             weight_alive.data() + at);
        }
    }

    // Visits the c whose entry of points i and column + c either of the two may still use: as a row that covers a
    // candidate, or as a candidate that is covered by a row.
    template <typename Visit>
    void each_alive(int64_t i, const float* k, int64_t column, int64_t width, Scratch& s, Visit&& visit) {
        for (int64_t c = 0; c < width; ++c) s.covered[c] = std::min(floor[i], floor[column + c]);
        const int64_t count =
            simd_.live(p.kind, p.error, k, s.covered.data(), width, p.scale[i], p.scale + column, s.rows.data());
        const bool candidate = is_allowed(i);
        for (int64_t r = 0; r < count; ++r) {
            const int32_t j = static_cast<int32_t>(column + s.rows[r]);
            if (candidate || is_allowed(j)) visit(j, k[s.rows[r]]);
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

    void raise(const std::vector<RowRise>& rises) override {
        for (const RowRise& rise : rises) {
            alive->filter(rise.row, [&](int32_t j, float k) {
                if (is_settled_[j] && may_reach(k, rise.low)) reopen(j);
                gains_[j] -= rise.weight * (static_cast<double>(std::min(std::max(k, rise.low), rise.high)) -
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
    const auto change = [&](CoverageLevel& level) {
        cover_by_labeled(s.p, s.exact, s.team, level, labeled, count, products, stride, scale);
    };
    if (s.levels.empty()) {
        s.Greedy::cover(change);
    } else {
        change(s.levels[0]);
    }
}

double Sweep::guess(int64_t j, float* products) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.scale, buffers);
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
    state_->levels.resize(count + 1, CoverageLevel(0, state_->p.kind));
}

int64_t Sweep::guesses() const {
    return static_cast<int64_t>(state_->levels.size()) - 1;
}

const double* Sweep::coverage(int64_t count) const {
    return state_->levels[count].exact.data();
}

double Sweep::gain(int64_t t) const {
    const State& s = *state_;
    const std::vector<double>&low = s.levels[t].exact, &high = s.levels[t + 1].exact;
    double total = 0;
    for (int64_t i = 0; i < s.p.rows; ++i) total += s.p.weights[i] * (high[i] - low[i]);
    return total;
}

void Sweep::begin(int64_t first, int64_t alive_at, int64_t entries, int64_t block) {
    State& s = *state_;
    s.first = first;
    s.alive_at = alive_at;
    s.block = block;
    s.taken.assign((s.steps() + 1) * s.p.rows, 0.0);
    s.weight_alive.assign((s.steps() + 1) * s.p.rows, 0.0f);
    s.blocks.assign((s.p.rows + block - 1) / block, {});
    s.team.parallel_for(static_cast<int64_t>(s.blocks.size()), [&](int64_t b) { s.blocks[b] = s.block_events(b); });
    s.alive.reset();
    if (entries > 0) {
        s.floor = s.levels[alive_at].rounded;
        s.alive.reset(new AliveEntries(s.p.rows, entries));
    }
}

void Sweep::tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile,
                 float* turned, int64_t stride) {
    State& s = *state_;
    const int64_t rows = row_end - row_begin, columns = column_end - column_begin;
    const bool diagonal = row_begin == column_begin;
    Scratch& buffers = scratch(columns + 1);
    for (int64_t r = 0; r < rows; ++r) {
        float* k = tile + r * stride;
        const int64_t i = row_begin + r;
        fill_row(s.p, s.exact, i, k, column_begin, columns, s.p.scale + column_begin, buffers);
        if (!s.alive) continue;
        s.each_alive(i, k, column_begin, columns, buffers, [&](int32_t j, float value) {
            s.alive->add(i, j, value);
            if (!diagonal) s.alive->add(j, static_cast<int32_t>(i), value);
        });
    }
    s.take_from(s.blocks[row_begin / s.block], tile, stride, column_begin, columns);
    if (diagonal) return;
    coverage_kernels().transpose(tile, stride, rows, columns, turned, stride);
    s.take_from(s.blocks[column_begin / s.block], turned, stride, row_begin, rows);
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
            out[j] += taken[j];
            alive[j] += weight[j];
        }
    }
    // float32 sums of weights: at most 16 terms in a register, then one addition to memory per tile.
    const double unit = s.largest_weight * (1 + 0x1p-23 * static_cast<double>(s.p.rows / 16 + 64));
    for (int64_t j = 0; j < s.p.rows; ++j) {
        out[j] *= s.largest_weight;
        alive[j] *= unit;
    }
}

int64_t Sweep::replace(int64_t t, const int64_t* points, int64_t count, int64_t moved, float* products) {
    State& s = *state_;
    const int64_t n = s.p.rows, last = static_cast<int64_t>(s.levels.size()) - 1;
    if (t + count != last) throw std::logic_error("Sweep::replace: as many guesses as there were");
    Scratch& buffers = scratch(n + 1);
    fill_row(s.p, s.exact, points[0], products, 0, n, s.p.scale, buffers);
    const CoverageLevel& base = s.levels[t];
    const int64_t live = coverage_kernels().live(s.p.kind, s.p.error, products, base.rounded.data(), n,
                                                 s.p.scale[points[0]], s.p.scale, buffers.rows.data());
    s.is_lower.resize(n, 0);
    std::vector<uint8_t> touched(n, 0);
    for (int64_t r = 0; r < live; ++r) touched[buffers.rows[r]] = 1;
    s.changed.clear();
    for (int64_t i = 0; i < n; ++i) {
        if (touched[i] || s.levels[t + moved].exact[i] > base.exact[i]) s.changed.push_back(static_cast<int32_t>(i));
    }
    s.changed_from = t - s.first;
    s.was.resize(s.changed.size() * (count + 1));
    std::vector<uint8_t> same(s.changed.size(), 1);
    s.team.parallel_for((static_cast<int64_t>(same.size()) + kRows - 1) / kRows, [&](int64_t task) {
        const int64_t begin = task * kRows, width = std::min<int64_t>(kRows, same.size() - begin);
        const int32_t* rows = s.changed.data() + begin;
        double values[kRows];
        for (int64_t r = 0; r < width; ++r) s.was[(begin + r) * (count + 1)] = s.levels[t].rounded[rows[r]];
        for (int64_t g = 0; g < count; ++g) {
            s.exact.against_point(points[g], rows, width, values);
            CoverageLevel& level = s.levels[t + g + 1];
            for (int64_t r = 0; r < width; ++r) {
                const int32_t i = rows[r];
                const float was = level.rounded[i];
                level.set(i, std::max(values[r], s.levels[t + g].exact[i]));
                s.was[(begin + r) * (count + 1) + g + 1] = was;
                if (was != level.rounded[i]) same[begin + r] = 0;
            }
        }
    });
    int64_t size = 0;
    for (int64_t r = 0; r < static_cast<int64_t>(same.size()); ++r) {
        if (same[r]) continue;
        s.changed[size] = s.changed[r];
        std::copy_n(s.was.begin() + r * (count + 1), count + 1, s.was.begin() + size++ * (count + 1));
    }
    s.changed.resize(size);
    if (s.alive) {  // coverage before `alive_at` decided what was gathered
        for (int32_t i : s.changed) s.is_lower[i] = s.levels[s.alive_at].rounded[i] < s.floor[i];
    }
    s.changes.assign((size + kBatch - 1) / kBatch, {});
    s.team.parallel_for(static_cast<int64_t>(s.changes.size()), [&](int64_t b) {
        s.changes[b] = s.change_events(b * kBatch, std::min(size, (b + 1) * kBatch));
    });
    return size;
}

void Sweep::changed_rows(int64_t* rows) const {
    std::copy(state_->changed.begin(), state_->changed.end(), rows);
}

void Sweep::retake(int64_t batch, int64_t column_begin, int64_t column_end, float* tile, int64_t stride) {
    State& s = *state_;
    const int64_t begin = batch * kBatch, end = std::min<int64_t>(s.changed.size(), begin + kBatch);
    for (int64_t r = begin; r < end; ++r) {
        fill_row(s.p, s.exact, s.changed[r], tile + (r - begin) * stride, column_begin, column_end - column_begin,
                 s.p.scale + column_begin, scratch(column_end - column_begin + 1));
    }
    s.take_from(s.changes[batch], tile, stride, column_begin, column_end - column_begin);
}

int64_t Sweep::forget_lower(int64_t* rows) {
    State& s = *state_;
    int64_t count = 0;
    for (int64_t i = 0; s.alive && i < static_cast<int64_t>(s.is_lower.size()); ++i) {
        if (s.is_lower[i]) rows[count++] = i;
    }
    if (count == 0) return 0;
    s.team.parallel_for((s.p.rows + kRows - 1) / kRows, [&](int64_t task) {
        for (int64_t i = task * kRows; i < std::min(s.p.rows, (task + 1) * kRows); ++i)
            s.alive->filter(i, [&](int32_t j, float) { return !s.is_lower[i] && !s.is_lower[j]; });
    });
    for (int64_t r = 0; r < count; ++r) {
        s.alive->clear(rows[r]);
        s.floor[rows[r]] = s.levels[s.alive_at].rounded[rows[r]];
    }
    return count;
}

void Sweep::gather_again(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* tile,
                         int64_t stride, bool own) {
    State& s = *state_;
    const int64_t columns = column_end - column_begin;
    Scratch& buffers = scratch(columns + 1);
    for (int64_t r = 0; r < count; ++r) {
        const int32_t i = static_cast<int32_t>(rows[r]);
        float* k = tile + r * stride;
        fill_row(s.p, s.exact, i, k, column_begin, columns, s.p.scale + column_begin, buffers);
        s.each_alive(i, k, column_begin, columns, buffers, [&](int32_t j, float value) {
            if (own) s.alive->add(i, j, value);
            if (!own && !s.is_lower[j]) s.alive->add(j, i, value);
        });
    }
}

void Sweep::kernel_rows(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* products,
                        int64_t stride) const {
    const State& s = *state_;
    const int64_t columns = column_end - column_begin;
    for (int64_t r = 0; r < count; ++r) {
        fill_row(s.p, s.exact, rows[r], products + r * stride, column_begin, columns, s.p.scale + column_begin,
                 scratch(columns + 1));
    }
}

void Sweep::add_gains(int64_t t, const int64_t* points, int64_t count, int64_t row_begin, int64_t row_end,
                      float* products, int64_t stride, double* gains) const {
    const State& s = *state_;
    kernel_rows(points, count, row_begin, row_end, products, stride);
    for (int64_t c = 0; c < count; ++c) {
        double gain, bound;
        coverage_kernels().scan(s.p.kind, s.p.error, products + c * stride, s.levels[t].rounded.data() + row_begin,
                                s.p.weights + row_begin, row_end - row_begin, s.p.scale[points[c]],
                                s.p.scale + row_begin, &gain, &bound);
        gains[c] += gain;
    }
}

void Sweep::add_taken(const int64_t* rows, const float* low, const float* high, const double* weights, int64_t count,
                      int64_t column_begin, int64_t column_end, float* products, int64_t stride, double* taken) const {
    const State& s = *state_;
    kernel_rows(rows, count, column_begin, column_end, products, stride);
    std::vector<RiseEvent> events(count);
    for (int64_t r = 0; r < count; ++r)
        events[r] = {static_cast<int32_t>(r), low[r], high[r], static_cast<float>(weights[r]), 0.0f};
    std::vector<float> unused(column_end - column_begin);
    coverage_kernels().take_gains(s.p.error, products, stride, column_end - column_begin, events.data(), count,
                                  taken + column_begin, unused.data());
}

double Sweep::settle(int64_t j, float* products, bool fresh, int64_t t, double threshold) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    if (fresh) fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.scale, buffers);
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
    s.blocks = {};
    s.changes = {};
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
