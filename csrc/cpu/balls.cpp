#include "difal/balls.h"

#include <algorithm>
#include <atomic>
#include <queue>
#include <vector>

#include "greedy.h"

namespace difal {
namespace {

constexpr int64_t kStrip = 16;  // rows per task
constexpr int64_t kChunk = 64;  // entries looked at together: most are 0

// A candidate and its gain when it was put on the heap. Gains only fall, so an entry that is still right is the best.
struct Entry {
    int32_t gain, candidate;
    bool operator<(const Entry& other) const {
        return gain != other.gain ? gain < other.gain : candidate > other.candidate;
    }
};

// visit(c) for the c < width with k[c] = 1.
template <typename Visit>
void each_inside(const float* k, int64_t width, Visit&& visit) {
    for (int64_t begin = 0; begin < width; begin += kChunk) {
        const int64_t end = std::min(width, begin + kChunk);
        int32_t any = 0;
        for (int64_t c = begin; c < end; ++c) any |= k[c] > 0.5f;
        if (!any) continue;
        for (int64_t c = begin; c < end; ++c) {
            if (k[c] > 0.5f) visit(c);
        }
    }
}

}  // namespace

struct Balls::State {
    CoverageProblem p;
    ExactKernel exact;
    ThreadPool pool;
    std::vector<uint8_t> covered;
    std::vector<std::atomic<int32_t>> counts;  // uncovered points within the radius of each point
    std::priority_queue<Entry> heap;
    int64_t covered_count = 0;

    bool counted = false;
    int64_t capacity = 0;
    std::atomic<int64_t> gathered{0};
    std::vector<std::vector<int32_t>> lower_near;  // of each point, those of lower or equal index
    std::vector<int64_t> near_begin;               // (N + 1,) into near, once linked
    std::vector<int32_t> near;

    State(const CoverageProblem& problem, int threads)
        : p(problem), exact(p), pool(threads), covered(p.rows, 0), counts(p.rows) {
        for (auto& count : counts) count.store(0, std::memory_order_relaxed);
    }

    int32_t count_of(int64_t j) const { return counts[j].load(std::memory_order_relaxed); }
    bool fits() const { return gathered.load(std::memory_order_relaxed) <= capacity; }
    bool gathering() const { return !lower_near.empty() && fits(); }

    void mark(int64_t i) {
        covered[i] = 1;
        ++covered_count;
    }

    void row_of_tile(int64_t i, float* k, int64_t column_begin, int64_t width) {
        fill_row(p, exact, i, k, column_begin, width, p.sq_norms + column_begin, scratch(width + 1));
        const bool row_open = !covered[i], gather = gathering();
        int32_t own = 0;
        int64_t pairs = 0;
        each_inside(k, std::min(width, i - column_begin + 1), [&](int64_t c) {
            const int64_t j = column_begin + c;
            const bool column_open = !covered[j];
            if (!row_open && !column_open) return;
            if (!counted) {
                if (row_open) counts[j].fetch_add(1, std::memory_order_relaxed);
                if (column_open && j != i) ++own;
            }
            ++pairs;
            if (gather) lower_near[i].push_back(static_cast<int32_t>(j));
        });
        counts[i].fetch_add(own, std::memory_order_relaxed);
        gathered.fetch_add(pairs, std::memory_order_relaxed);
    }

    // The gathered pairs as a list of neighbours per point.
    void link() {
        near_begin.assign(p.rows + 1, 0);
        for (int64_t i = 0; i < p.rows; ++i) {
            throw_if_interrupted();
            near_begin[i + 1] += static_cast<int64_t>(lower_near[i].size());
            for (int32_t j : lower_near[i]) near_begin[j + 1] += j != i;
        }
        for (int64_t i = 0; i < p.rows; ++i) near_begin[i + 1] += near_begin[i];
        near.resize(near_begin[p.rows]);
        std::vector<int64_t> at(near_begin.begin(), near_begin.end() - 1);
        for (int64_t i = 0; i < p.rows; ++i) {
            throw_if_interrupted();
            for (int32_t j : lower_near[i]) {
                near[at[i]++] = j;
                if (j != i) near[at[j]++] = static_cast<int32_t>(i);
            }
            std::vector<int32_t>().swap(lower_near[i]);
        }
    }

    Entry pop() {
        for (;;) {
            Entry top = heap.top();
            heap.pop();
            const int32_t now = count_of(top.candidate);
            if (now == top.gain) return top;
            top.gain = now;
            heap.push(top);
        }
    }
};

Balls::Balls(const CoverageProblem& problem, int threads) : state_(new State(problem, threads)) {}
Balls::~Balls() = default;

void Balls::cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms) {
    State& s = *state_;
    CoverageLevel level(s.p.rows, KernelKind::precomputed);
    cover_by_labeled(s.p, s.exact, s.pool, level, labeled, count, products, stride, sq_norms);
    for (int64_t i = 0; i < s.p.rows; ++i) {
        if (level.exact[i] > 0.5 && !s.covered[i]) s.mark(i);
    }
}

void Balls::begin(int64_t capacity) {
    State& s = *state_;
    s.capacity = capacity;
    s.gathered.store(0, std::memory_order_relaxed);
    s.lower_near.assign(s.p.rows, {});
}

void Balls::tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile) {
    State& s = *state_;
    const int64_t width = column_end - column_begin;
    s.pool.parallel_for((row_end - row_begin + kStrip - 1) / kStrip, [&](int64_t strip) {
        const int64_t begin = row_begin + strip * kStrip, end = std::min(row_end, begin + kStrip);
        for (int64_t i = begin; i < end; ++i) s.row_of_tile(i, tile + (i - row_begin) * width, column_begin, width);
    });
    if (!s.fits()) s.lower_near = {};
}

bool Balls::end() {
    State& s = *state_;
    if (!s.counted) {
        for (int64_t j = 0; j < s.p.rows; ++j) {
            if (!s.p.allowed || s.p.allowed[j]) s.heap.push({s.count_of(j), static_cast<int32_t>(j)});
        }
    }
    s.counted = true;
    if (!s.fits()) return false;
    s.link();
    s.lower_near = {};
    return true;
}

int64_t Balls::pairs() const {
    int64_t total = 0;
    for (int64_t j = 0; j < state_->p.rows; ++j) total += state_->count_of(j);
    return total;
}

int64_t Balls::best(double* gain) {
    const Entry entry = state_->pop();
    *gain = entry.gain;
    return entry.candidate;
}

int64_t Balls::take(int64_t j, float* products, int64_t* newly) {
    State& s = *state_;
    fill_row(s.p, s.exact, j, products, 0, s.p.rows, s.p.sq_norms, scratch(s.p.rows + 1));
    int64_t count = 0;
    each_inside(products, s.p.rows, [&](int64_t i) {
        if (s.covered[i]) return;
        s.mark(i);
        newly[count++] = i;
    });
    return count;
}

void Balls::lower(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* products) {
    State& s = *state_;
    const int64_t width = column_end - column_begin;
    s.pool.parallel_for(count, [&](int64_t r) {
        float* k = products + r * width;
        fill_row(s.p, s.exact, rows[r], k, column_begin, width, s.p.sq_norms + column_begin, scratch(width + 1));
        each_inside(k, width, [&](int64_t c) { s.counts[column_begin + c].fetch_sub(1, std::memory_order_relaxed); });
    });
}

void Balls::select(int64_t count, int64_t* picks, double* gains) {
    State& s = *state_;
    for (int64_t t = 0; t < count; ++t) {
        const Entry entry = s.pop();
        picks[t] = entry.candidate;
        gains[t] = entry.gain;
        for (int64_t a = s.near_begin[entry.candidate]; a < s.near_begin[entry.candidate + 1]; ++a) {
            const int32_t i = s.near[a];
            if (s.covered[i]) continue;
            throw_if_interrupted();
            s.mark(i);
            for (int64_t b = s.near_begin[i]; b < s.near_begin[i + 1]; ++b)
                s.counts[s.near[b]].fetch_sub(1, std::memory_order_relaxed);
        }
    }
}

int64_t Balls::covered() const {
    return state_->covered_count;
}

}  // namespace difal
