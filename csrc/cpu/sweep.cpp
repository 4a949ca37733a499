#include "difal/sweep.h"

#include <algorithm>
#include <stdexcept>

#include "sweep_state.h"

namespace difal {
namespace {

constexpr int64_t kRows = 256;  // rows per task when their coverage is made again

}  // namespace

TiledGreedy::TiledGreedy(const CoverageProblem& problem, int threads) : state_(new State(problem, threads)) {}
TiledGreedy::~TiledGreedy() = default;

void TiledGreedy::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms) {
    State& s = *state_;
    const auto change = [&](CoverageLevel& level) {
        cover_by_labeled(s.p, s.exact, s.pool, level, labeled, count, products, stride, sq_norms);
    };
    if (s.levels.empty()) {
        s.Greedy::cover(change);
    } else {
        change(s.levels[0]);
    }
}

double TiledGreedy::guess(int64_t j, float* products) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.sq_norms, buffers);
    s.levels.push_back(s.levels.back());
    CoverageLevel& level = s.levels.back();
    const int64_t live = coverage_kernels().float32.live(s.p.kind, s.p.error, products, level.rounded.data(), s.p.rows,
                                                         s.p.sq_norms[j], s.p.sq_norms, buffers.rows.data());
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

void TiledGreedy::keep(int64_t count) {
    state_->levels.resize(count + 1, CoverageLevel(0, state_->p.kind));
}

int64_t TiledGreedy::guesses() const {
    return static_cast<int64_t>(state_->levels.size()) - 1;
}

const double* TiledGreedy::coverage(int64_t count) const {
    const std::vector<CoverageLevel>& levels = state_->levels;
    if (count < 0 || count >= static_cast<int64_t>(levels.size()) || levels[count].exact.empty()) {
        throw std::logic_error("TiledGreedy::coverage: it was let go");
    }
    return levels[count].exact.data();
}

double TiledGreedy::gain(int64_t t) const {
    const State& s = *state_;
    const std::vector<double>&low = s.levels[t].exact, &high = s.levels[t + 1].exact;
    double total = 0;
    for (int64_t i = 0; i < s.p.rows; ++i) total += s.p.weights[i] * (high[i] - low[i]);
    return total;
}

void TiledGreedy::begin(int64_t first, int64_t alive_at, int64_t entries, int64_t block, const uint8_t* wanted) {
    State& s = *state_;
    forget(first);
    s.p.allowed = s.candidates;
    if (wanted) {
        s.wanted.assign(wanted, wanted + s.p.rows);
        for (int64_t j = 0; s.candidates && j < s.p.rows; ++j) s.wanted[j] &= s.candidates[j];
        s.p.allowed = s.wanted.data();
    }
    s.first = first;
    s.alive_at = alive_at;
    s.block = block;
    s.taken.assign((s.steps() + 1) * s.p.rows, 0.0);
    s.weight_alive.assign((s.steps() + 1) * s.p.rows, 0.0f);
    s.blocks.assign((s.p.rows + block - 1) / block, {});
    s.gathers_only = entries > 0 && s.steps() == 0;
    if (!s.gathers_only) {
        s.pool.parallel_for(static_cast<int64_t>(s.blocks.size()), [&](int64_t b) { s.blocks[b] = s.block_events(b); });
    }
    s.alive.reset();
    if (entries > 0) {
        s.floor = s.levels[alive_at].rounded;
        s.alive.reset(new AliveEntries(s.p.rows, entries));
    }
}

void TiledGreedy::forget(int64_t before) {
    State& s = *state_;
    for (int64_t t = 0; t < before; ++t) s.levels[t] = CoverageLevel(0, s.p.kind);
    s.taken = {};
    s.weight_alive = {};
    s.was = {};
    s.blocks = {};
    s.changes = {};
}

void TiledGreedy::drop(int64_t guesses) {
    State& s = *state_;
    s.levels.erase(s.levels.begin() + guesses + 1, s.levels.end());
    s.alive.reset();
    s.is_lower.clear();
}

void TiledGreedy::tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile,
                       float* transposed, int64_t stride) {
    State& s = *state_;
    const int64_t rows = row_end - row_begin, columns = column_end - column_begin;
    const bool diagonal = row_begin == column_begin;
    Scratch& buffers = scratch(columns + 1);
    for (int64_t r = 0; r < rows; ++r) {
        float* k = tile + r * stride;
        const int64_t i = row_begin + r;
        fill_row(s.p, s.exact, i, k, column_begin, columns, s.p.sq_norms + column_begin, buffers);
        if (!s.alive) continue;
        s.each_alive(i, k, column_begin, columns, buffers, [&](int32_t j, float value) {
            s.alive->add(i, j, value);
            if (!diagonal) s.alive->add(j, static_cast<int32_t>(i), value);
        });
    }
    if (s.gathers_only) return;
    const int64_t own = row_begin / s.block, other = column_begin / s.block;
    const int64_t row = row_begin - own * s.block, column = column_begin - other * s.block;
    s.take_from(s.blocks[own], row, row + rows, tile - row * stride, stride, column_begin, columns);
    if (diagonal) return;
    coverage_kernels().float32.transpose(tile, stride, rows, columns, transposed, stride);
    s.take_from(s.blocks[other], column, column + columns, transposed - column * stride, stride, row_begin, rows);
}

bool TiledGreedy::gathered() const {
    return state_->alive && !state_->alive->full();
}

void TiledGreedy::gains(int64_t t, double* out, double* alive) const {
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

int64_t TiledGreedy::replace(int64_t t, const int64_t* points, int64_t count, int64_t moved, float* products) {
    State& s = *state_;
    const int64_t n = s.p.rows, last = static_cast<int64_t>(s.levels.size()) - 1;
    if (t + count != last) throw std::logic_error("TiledGreedy::replace: as many guesses as there were");
    Scratch& buffers = scratch(n + 1);
    fill_row(s.p, s.exact, points[0], products, 0, n, s.p.sq_norms, buffers);
    const CoverageLevel& base = s.levels[t];
    const int64_t live = coverage_kernels().float32.live(s.p.kind, s.p.error, products, base.rounded.data(), n,
                                                         s.p.sq_norms[points[0]], s.p.sq_norms, buffers.rows.data());
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
    s.pool.parallel_for((static_cast<int64_t>(same.size()) + kRows - 1) / kRows, [&](int64_t task) {
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
    s.pool.parallel_for(static_cast<int64_t>(s.changes.size()), [&](int64_t b) {
        s.changes[b] = s.change_events(b * kBatch, std::min(size, (b + 1) * kBatch));
    });
    return size;
}

void TiledGreedy::changed_rows(int64_t* rows) const {
    std::copy(state_->changed.begin(), state_->changed.end(), rows);
}

void TiledGreedy::retake(int64_t batch, int64_t column_begin, int64_t column_end, float* tile, int64_t stride) {
    State& s = *state_;
    const int64_t begin = batch * kBatch, end = std::min<int64_t>(s.changed.size(), begin + kBatch);
    for (int64_t r = begin; r < end; ++r) {
        fill_row(s.p, s.exact, s.changed[r], tile + (r - begin) * stride, column_begin, column_end - column_begin,
                 s.p.sq_norms + column_begin, scratch(column_end - column_begin + 1));
    }
    s.take_from(s.changes[batch], 0, end - begin, tile, stride, column_begin, column_end - column_begin);
}

int64_t TiledGreedy::forget_lower(int64_t* rows) {
    State& s = *state_;
    int64_t count = 0;
    for (int64_t i = 0; s.alive && i < static_cast<int64_t>(s.is_lower.size()); ++i) {
        if (s.is_lower[i]) rows[count++] = i;
    }
    if (count == 0) return 0;
    s.pool.parallel_for((s.p.rows + kRows - 1) / kRows, [&](int64_t task) {
        for (int64_t i = task * kRows; i < std::min(s.p.rows, (task + 1) * kRows); ++i)
            s.alive->filter(i, [&](int32_t j, float) { return !s.is_lower[i] && !s.is_lower[j]; });
    });
    for (int64_t r = 0; r < count; ++r) {
        s.alive->clear(rows[r]);
        s.floor[rows[r]] = s.levels[s.alive_at].rounded[rows[r]];
    }
    return count;
}

void TiledGreedy::gather_again(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end,
                               float* tile, int64_t stride, bool own) {
    State& s = *state_;
    const int64_t columns = column_end - column_begin;
    Scratch& buffers = scratch(columns + 1);
    for (int64_t r = 0; r < count; ++r) {
        const int32_t i = static_cast<int32_t>(rows[r]);
        float* k = tile + r * stride;
        fill_row(s.p, s.exact, i, k, column_begin, columns, s.p.sq_norms + column_begin, buffers);
        s.each_alive(i, k, column_begin, columns, buffers, [&](int32_t j, float value) {
            if (own) s.alive->add(i, j, value);
            if (!own && !s.is_lower[j]) s.alive->add(j, i, value);
        });
    }
}

void TiledGreedy::kernel_rows(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end,
                              float* products, int64_t stride) const {
    const State& s = *state_;
    const int64_t columns = column_end - column_begin;
    for (int64_t r = 0; r < count; ++r) {
        fill_row(s.p, s.exact, rows[r], products + r * stride, column_begin, columns, s.p.sq_norms + column_begin,
                 scratch(columns + 1));
    }
}

void TiledGreedy::add_gains(int64_t t, const int64_t* points, int64_t count, int64_t row_begin, int64_t row_end,
                            float* products, int64_t stride, double* gains) const {
    const State& s = *state_;
    kernel_rows(points, count, row_begin, row_end, products, stride);
    for (int64_t c = 0; c < count; ++c) {
        double gain, bound;
        coverage_kernels().float32.scan(
            s.p.kind, s.p.error, products + c * stride, s.levels[t].rounded.data() + row_begin, s.p.weights + row_begin,
            row_end - row_begin, s.p.sq_norms[points[c]], s.p.sq_norms + row_begin, &gain, &bound);
        gains[c] += gain;
    }
}

void TiledGreedy::add_taken(const int64_t* rows, const float* low, const float* high, const double* weights,
                            int64_t count, int64_t column_begin, int64_t column_end, float* products, int64_t stride,
                            double* taken) const {
    const State& s = *state_;
    kernel_rows(rows, count, column_begin, column_end, products, stride);
    std::vector<RiseEvent> events(count);
    for (int64_t r = 0; r < count; ++r)
        events[r] = {static_cast<int32_t>(r), low[r], high[r], static_cast<float>(weights[r]), 0.0f};
    std::vector<float> unused(column_end - column_begin);
    coverage_kernels().take_gains(s.p.error, products, stride, column_end - column_begin, events.data(), count,
                                  taken + column_begin, unused.data());
}

double TiledGreedy::settle(int64_t j, float* products, bool fresh, int64_t t, double threshold) {
    State& s = *state_;
    Scratch& buffers = scratch(s.p.rows + 1);
    if (fresh) fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.sq_norms, buffers);
    const CoverageLevel& level = s.levels[t];
    double estimate, bound;
    const CoverageKernels& simd = coverage_kernels();
    simd.float32.scan(s.p.kind, s.p.error, products, level.rounded.data(), s.p.weights, s.p.rows, s.p.sq_norms[j],
                      s.p.sq_norms, &estimate, &bound);
    if (estimate + bound < threshold) return -1;
    const int64_t live = simd.float32.live(s.p.kind, s.p.error, products, level.rounded.data(), s.p.rows,
                                           s.p.sq_norms[j], s.p.sq_norms, buffers.rows.data());
    s.exact.against_point(j, buffers.rows.data(), live, buffers.values.data());
    double gain = 0;
    for (int64_t r = 0; r < live; ++r) {
        const int32_t i = buffers.rows[r];
        gain += s.p.weights[i] * std::max(buffers.values[r] - level.exact[i], 0.0);
    }
    ++s.stats.settled_candidates;
    return gain;
}

void TiledGreedy::start(double first_gain, const int64_t* picked) {
    State& s = *state_;
    if (!gathered()) throw std::logic_error("TiledGreedy::start: nothing was gathered");
    s.level = s.levels[s.alive_at];
    s.levels.clear();
    s.levels.shrink_to_fit();
    forget(0);
    s.entries_at_start = s.alive->count();
    s.first_gain = first_gain;
    s.Greedy::start(picked, s.alive_at);
}

int64_t TiledGreedy::select(int64_t count, int64_t* picks, double* gains, double least) {
    return state_->select(count, picks, gains, least);
}

void TiledGreedy::resume(int64_t picks) {
    State& s = *state_;
    s.alive.reset();
    s.levels.assign(picks, CoverageLevel(0, s.p.kind));
    s.levels.push_back(s.level);
    s.is_lower.clear();
    s.Greedy::stop();
}
double TiledGreedy::covered() const {
    return state_->covered();
}
CoverageStats TiledGreedy::stats() const {
    return state_->stats;
}
int64_t TiledGreedy::entries() const {
    return state_->entries_at_start;
}

}  // namespace difal
