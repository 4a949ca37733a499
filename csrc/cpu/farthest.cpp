#include "difal/farthest.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "difal/coverage_kernels.h"
#include "difal/threads.h"
#include "greedy.h"

namespace difal {
namespace {

constexpr int64_t kSpan = 1024;       // points per task
constexpr double kTie = 2e-12;        // of the largest squared distance: closer is a tie, to the lowest index
constexpr double kSafe = 4.0 + 1e-6;  // 2 squared, and room for the rounding of three distances
constexpr double kFar = std::numeric_limits<double>::infinity();
constexpr double kTaken = -1;

}  // namespace

struct Farthest::State {
    int64_t rows, dimension;
    bool is_double;
    const void* features;
    const uint8_t* allowed;
    Team team;
    std::vector<double> squared;   // to the nearest centre
    std::vector<int32_t> nearest;  // which centre that is
    std::vector<const void*> centres;
    std::vector<uint8_t> picked;
    std::atomic<int64_t> reads{0};

    State(int64_t n, int64_t d, bool wide, const void* x, const uint8_t* open, int threads)
        : rows(n),
          dimension(d),
          is_double(wide),
          features(x),
          allowed(open),
          team(threads),
          squared(n, kFar),
          nearest(n, -1),
          picked(n, 0) {}

    const void* row(const void* base, int64_t index) const {
        if (is_double) return static_cast<const double*>(base) + index * dimension;
        return static_cast<const float*>(base) + index * dimension;
    }

    // out[r] = |base[index[r]] - y|^2
    void distances(const void* base, const int32_t* index, int64_t count, const void* y, double* out) const {
        const CoverageKernels& simd = coverage_kernels();
        if (is_double) {
            simd.distances_f64(static_cast<const double*>(base), dimension, index, count, static_cast<const double*>(y),
                               out);
        } else {
            simd.distances_f32(static_cast<const float*>(base), dimension, index, count, static_cast<const float*>(y),
                               out);
        }
    }

    void add(const void* centre) {
        const int32_t name = static_cast<int32_t>(centres.size()), first = 0;
        std::vector<double> between(centres.size());
        team.parallel_for((name + kSpan - 1) / kSpan, [&](int64_t span) {
            const int64_t end = std::min<int64_t>(name, (span + 1) * kSpan);
            for (int64_t c = span * kSpan; c < end; ++c) distances(centres[c], &first, 1, centre, &between[c]);
        });
        centres.push_back(centre);
        team.parallel_for((rows + kSpan - 1) / kSpan, [&](int64_t span) {
            const int64_t begin = span * kSpan, end = std::min(rows, begin + kSpan);
            Scratch& s = scratch(kSpan);
            int64_t count = 0;
            for (int64_t i = begin; i < end; ++i) {
                if (nearest[i] >= 0 && between[nearest[i]] >= kSafe * squared[i]) continue;
                s.rows[count++] = static_cast<int32_t>(i);
            }
            distances(features, s.rows.data(), count, centre, s.values.data());
            for (int64_t r = 0; r < count; ++r) {
                const int32_t i = s.rows[r];
                if (s.values[r] >= squared[i] && nearest[i] >= 0) continue;
                squared[i] = s.values[r];
                nearest[i] = name;
            }
            reads.fetch_add(count, std::memory_order_relaxed);
        });
    }

    bool open(int64_t j) const { return !picked[j] && (!allowed || allowed[j]); }

    int64_t choose() const {
        double best = kTaken;
        for (int64_t j = 0; j < rows; ++j) {
            if (open(j)) best = std::max(best, squared[j]);
        }
        const double reach = best == kFar ? kFar : best - kTie * best;
        int64_t j = 0;
        while (!open(j) || squared[j] < reach) ++j;
        return j;
    }
};

Farthest::Farthest(int64_t rows, int64_t dimension, bool is_double, const void* features, const uint8_t* allowed,
                   int threads)
    : state_(new State(rows, dimension, is_double, features, allowed, threads)) {}
Farthest::~Farthest() = default;

void Farthest::cover(const void* points, int64_t count) {
    for (int64_t l = 0; l < count; ++l) state_->add(state_->row(points, l));
}

void Farthest::select(int64_t count, int64_t* picks, double* distances) {
    State& s = *state_;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t j = s.choose();
        picks[t] = j;
        distances[t] = std::sqrt(s.squared[j]);
        s.picked[j] = 1;
        s.add(s.row(s.features, j));
    }
}

double Farthest::radius() const {
    return std::sqrt(*std::max_element(state_->squared.begin(), state_->squared.end()));
}

int64_t Farthest::reads() const {
    return state_->reads.load(std::memory_order_relaxed);
}

}  // namespace difal
