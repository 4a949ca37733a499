// What a sweep holds, and the greedy loop on what is alive after it. See csrc/include/difal/sweep.h.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "alive.h"
#include "difal/sweep.h"
#include "greedy.h"

namespace difal {

// What the rows of one tile do at each step: those of step t are events[begin[t]] to events[begin[t + 1]].
struct TileEvents {
    std::vector<int64_t> begin;
    std::vector<RiseEvent> events;
};

struct TiledGreedy::State final : Greedy {
    std::vector<CoverageLevel> levels;  // after 0, 1, ... guesses
    int64_t first = 0, alive_at = 0, block = 1;
    bool gathers_only = false;        // no guess is to be proven
    std::vector<TileEvents> blocks;   // of `block` points each
    std::vector<double> taken;        // (steps + 1, N): what each step takes; the last, what remains after all guesses
    std::vector<float> weight_alive;  // (steps + 1, N): weight of the rows whose entry dies at each step
    double largest_weight = 0;        // the unit of the two
    std::vector<float> floor;         // coverage at alive_at, rounded, when the entries were gathered
    std::unique_ptr<AliveEntries> alive;
    const uint8_t* candidates = nullptr;  // the problem's own `allowed`
    std::vector<uint8_t> wanted;          // candidates whose entries are gathered, where not all of them are
    int64_t entries_at_start = 0;
    std::vector<int32_t> changed;     // rows whose coverage the last replacement changed
    std::vector<float> was;           // (changed, steps after it + 1): their coverage before
    int64_t changed_from = 0;         // the first step at which it did
    std::vector<TileEvents> changes;  // undo the old and do the new, kBatch rows at a time
    std::vector<uint8_t> is_lower;    // rows whose floor is too high by now

    State(const CoverageProblem& problem, int threads) : Greedy(problem, threads) {
        levels.emplace_back(p.rows, p.kind);
        for (int64_t i = 0; i < p.rows; ++i) largest_weight = std::max(largest_weight, p.weights[i]);
        candidates = p.allowed;
    }

    int64_t steps() const { return static_cast<int64_t>(levels.size()) - 1 - first; }
    bool is_allowed(int64_t j) const { return !p.allowed || p.allowed[j]; }
    float rounded(int64_t step, int64_t i) const {
        return step > steps() ? std::numeric_limits<float>::infinity() : levels[first + step].rounded[i];
    }
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
                const float old_high = t == steps() ? std::numeric_limits<float>::infinity() : old[1];
                const float low = rounded(t, i), high = rounded(t + 1, i);
                if (p.weights[i] == 0 || (low == old[0] && high == old_high)) continue;
                if (old_high > old[0]) add_event(out, r - begin, i, old[0], old_high, true);
                if (high > low) add_event(out, r - begin, i, low, high, false);
            }
        }
        out.begin.push_back(static_cast<int64_t>(out.events.size()));
        return out;
    }

    // What rows [row_begin, row_end) of a tile take from the candidates [column, column + width), given their kernel
    // values; row 0 is at k, whether or not it is one of them.
    void take_from(const TileEvents& rows, int64_t row_begin, int64_t row_end, const float* k, int64_t stride,
                   int64_t column, int64_t width) {
        const auto at_row = [](const RiseEvent& event, int64_t row) { return event.row < row; };
        for (int64_t t = 0; t + 1 < static_cast<int64_t>(rows.begin.size()); ++t) {
            const auto first = rows.events.begin() + rows.begin[t], last = rows.events.begin() + rows.begin[t + 1];
            const auto begin = std::lower_bound(first, last, row_begin, at_row);
            const auto end = std::lower_bound(begin, last, row_end, at_row);
            if (begin == end) continue;
            const int64_t at = t * p.rows + column;
            simd_.take_gains(p.error, k, stride, width, &*begin, end - begin, taken.data() + at,
                             weight_alive.data() + at);
        }
    }

    // Visits the c whose entry of points i and column + c either of the two may still use: a candidate uses it while it
    // is above the coverage of the other, as a row.
    template <typename Visit>
    void each_alive(int64_t i, const float* k, int64_t column, int64_t width, Scratch& s, Visit&& visit) {
        constexpr float kNever = std::numeric_limits<float>::infinity();
        const float as_row = floor[i];
        if (p.allowed) {
            const bool candidate = is_allowed(i);
            for (int64_t c = 0; c < width; ++c) {
                s.covered[c] =
                    std::min(is_allowed(column + c) ? as_row : kNever, candidate ? floor[column + c] : kNever);
            }
        } else {
            for (int64_t c = 0; c < width; ++c) s.covered[c] = std::min(as_row, floor[column + c]);
        }
        const int64_t count = simd_.float32.live(p.kind, p.error, k, s.covered.data(), width, p.sq_norms[i],
                                                 p.sq_norms + column, s.rows.data());
        for (int64_t r = 0; r < count; ++r) visit(static_cast<int32_t>(column + s.rows[r]), k[s.rows[r]]);
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
                s.positions[count] = i;
                s.column[count] = k;
                s.covered[count] = level.rounded[i];
                s.weights[count] = p.weights[i];
                s.sq_norms[count++] = p.sq_norms[i];
            }
            return as_row || may_reach(k, level.rounded[j]);
        });
        return count;
    }

    void scan(int64_t j, Scratch& s, double* gain, double* bound) override {
        int64_t self;
        const int64_t count = pack(j, s, &self);
        simd_.float32.scan(p.kind, p.error, s.column.data(), s.covered.data(), s.weights.data(), count, p.sq_norms[j],
                           s.sq_norms.data(), gain, bound);
        if (self >= 0) *bound -= self_bound(s.column[self], s.covered[self], s.weights[self], s.sq_norms[self]);
    }

    int64_t live_rows(int64_t j, Scratch& s) override {
        int64_t self;
        const int64_t count = pack(j, s, &self);
        const int64_t live = simd_.float32.live(p.kind, p.error, s.column.data(), s.covered.data(), count,
                                                p.sq_norms[j], s.sq_norms.data(), s.rows.data());
        for (int64_t r = 0; r < live; ++r) s.rows[r] = s.positions[s.rows[r]];
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

}  // namespace difal
