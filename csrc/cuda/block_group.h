// A group of blocks at work on one selection: what each does between two barriers. Included by greedy.cu alone, which
// has the map.
#pragma once

#include "bounds.h"
#include "difal/cuda_coverage.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr double kTie = 1e-12;     // of the first gain: closer than this is a tie
constexpr double kUnit = 0x1p-50;  // of the largest gain: rounding per row raised, at most
constexpr int kTile = 64;          // columns that a block lowers together
constexpr int kThreads = 384;      // of a block: more would leave the loop too few registers
constexpr int kOpen = 0, kSettled = 1, kTaken = 2;

__device__ inline double round_to(double v, double magic) {
    return (v + magic) - magic;
}

// What a block knows of the current round; in shared memory.
struct Round {
    double best, reach, tie;
    int64_t winner;
    int32_t contenders, stale, holders, unused;
    int32_t rank[kContenders];  // whose columns contend
};

struct Space {
    CoverageTask task;
    Round round;
    double doubles[kWarp];
    int64_t integers[kWarp];
};

// Entry e of column j.
struct Entry {
    int64_t row;
    float k;
};

// The kernel matrix stored whole.
struct Dense {
    static __device__ int64_t length(const CoverageTask& t, int64_t) { return t.rows; }
    static __device__ Entry entry(const CoverageTask& t, int64_t j, int64_t e) {
        return {e, t.symmetric ? t.gram[j * t.gram_stride + e] : t.gram[e * t.gram_stride + j]};
    }
};

// A list of live entries per point; serves as row and as column, the matrix being symmetric.
struct Sparse {
    static __device__ int64_t length(const CoverageTask& t, int64_t j) { return t.list_length[j]; }
    static __device__ Entry entry(const CoverageTask& t, int64_t j, int64_t e) {
        const int64_t at = t.list_begin[j] + e;
        return {t.list_point[at], t.list_value[at]};
    }
};

__device__ inline int64_t point_of(const CoverageTask& t, int64_t column) {
    return t.candidates ? t.candidates[column] : column;
}

// How far the estimate of one entry may be off. On the diagonal nothing is estimated.
__device__ inline float bound_at(const CoverageTask& t, int64_t row, int64_t column, float k) {
    ErrorModel error = t.estimate.error;
    if (t.symmetric && row == column) error.sq_dist_rel_err = 0;
    const float sum = t.estimate.sq_norms[row] + t.estimate.sq_norms[point_of(t, column)];
    return bound_of(t.points.kind, error, k, sum);
}

// Adds an entry's gain and bound.
__device__ inline void count_entry(const CoverageTask& t, int64_t row, int64_t column, float k, double& gain,
                                   double& bound) {
    const float m = t.rounded[row];
    const double w = t.weights[row];
    const float b = bound_at(t, row, column, k);
    if (k > m) gain += w * (static_cast<double>(k) - static_cast<double>(m));
    if (k + b > m) bound += w * static_cast<double>(b);
}

template <typename Matrix>
struct BlockGroup {
    Space& space;
    const CoverageTask& t;
    int rank, size;
    unsigned* arrivals;
    unsigned met = 0;
    // The same in all blocks, so that none waits to be told.
    int64_t pick = 0, rows_updated = 0;
    double first_gain = -1;

    __device__ BlockGroup(Space& s, int r, int n, unsigned* a) : space(s), t(s.task), rank(r), size(n), arrivals(a) {}

    // All blocks of the group wait for each other, and see what the others wrote before.
    __device__ void meet() {
        __syncthreads();
        if (size == 1) return;
        if (threadIdx.x == 0) {
            met += static_cast<unsigned>(size);
            __threadfence();
            atomicAdd(arrivals, 1u);
            while (static_cast<int>(*static_cast<volatile unsigned*>(arrivals) - met) < 0) wait_a_little();
            __threadfence();
        }
        __syncthreads();
    }

    __device__ int64_t tiles() const { return (t.columns + kTile - 1) / kTile; }

    // visit(j) for this thread's share of this block's columns.
    template <typename Visit>
    __device__ void each_own_column(Visit&& visit) const {
        const int64_t mine = (tiles() - rank + size - 1) / size;  // tiles rank, rank + size, ...
        for (int64_t at = threadIdx.x; at < mine * kTile; at += blockDim.x) {
            const int64_t j = (rank + at / kTile * size) * kTile + at % kTile;
            if (j < t.columns) visit(j);
        }
    }

    __device__ double tie_of(double best) const {
        return kTie * (first_gain < 0 ? (best > 0 ? best : 0.0) : first_gain);
    }

    // Publishes the block's best settled column, its best open one, and what its open ones gain at least.
    __device__ void look() {
        double settled = no_gain(), lower = no_gain(), upper = no_gain();
        each_own_column([&](int64_t j) {
            if (t.flag[j] == kTaken) return;
            if (t.flag[j] == kSettled) {
                settled = t.settled[j] > settled ? t.settled[j] : settled;
                return;
            }
            const double gain = t.gains[j], bound = t.bounds[j];
            lower = gain - bound > lower ? gain - bound : lower;
            upper = gain + bound > upper ? gain + bound : upper;
        });
        const double most_settled = block_max(settled, space.doubles);
        const double most_lower = block_max(lower, space.doubles);
        const double most_upper = block_max(upper, space.doubles);
        const double enough = most_settled - tie_of(most_settled);
        int64_t winner = t.columns, proposal = t.columns;  // the lowest of each
        each_own_column([&](int64_t j) {
            if (t.flag[j] == kSettled && t.settled[j] >= enough && j < winner) winner = j;
            if (t.flag[j] == kOpen && t.gains[j] + t.bounds[j] == most_upper && j < proposal) proposal = j;
        });
        winner = block_min(winner, space.integers);
        proposal = block_min(proposal, space.integers);
        if (threadIdx.x == 0) {
            BlockReport& report = t.reports[rank];
            report.settled = most_settled;
            report.lower = most_lower;
            report.upper = report.refreshed = most_upper;
            report.winner = winner;
            report.proposal = proposal;
            report.stale = proposal < t.columns && t.scanned[proposal] != pick;
        }
    }

    // Reads what all blocks reported: who contends, and if nobody does, who won.
    __device__ void survey() {
        if (warp_in_block() == 0) {
            double best = no_gain(), lower = no_gain();
            for (int r = lane(); r < size; r += kWarp) {
                best = t.reports[r].settled > best ? t.reports[r].settled : best;
                lower = t.reports[r].lower > lower ? t.reports[r].lower : lower;
            }
            best = warp_max(best);
            lower = warp_max(lower);
            const double largest = double_of(t.control->largest);
            const double drift = kUnit * static_cast<double>(rows_updated + t.rows) * largest;
            const double slack = kTie * (first_gain < 0 ? 2 * largest : first_gain) + drift;
            lower -= drift;
            const double reach = (best > lower ? best : lower) - slack;
            const double tie = tie_of(best);
            int contenders = 0, stale = 0, holders = 0;
            int64_t winner = t.columns;
            for (int first = 0; first < size; first += kWarp) {
                const int r = first + lane();
                const bool here = r < size;
                const bool contends = here && t.reports[r].proposal < t.columns && t.reports[r].upper >= reach;
                const unsigned mask = __ballot_sync(kAllLanes, contends);
                const int place = contenders + __popc(mask & ((1u << lane()) - 1u));
                const bool listed = contends && place < kContenders;
                if (listed) space.round.rank[place] = r;
                stale |= __ballot_sync(kAllLanes, listed && t.reports[r].stale != 0) != 0;
                contenders += __popc(mask);
                const bool holds = here && t.reports[r].settled >= best - tie && t.reports[r].winner < t.columns;
                holders += __popc(__ballot_sync(kAllLanes, holds));
                const int64_t lowest = warp_min(holds ? t.reports[r].winner : t.columns);
                winner = lowest < winner ? lowest : winner;
            }
            if (lane() == 0) {
                Round& round = space.round;
                round.best = best;
                round.reach = reach;
                round.tie = tie;
                round.winner = winner;
                round.contenders = contenders < kContenders ? contenders : kContenders;
                round.stale = stale;
                round.holders = holders;
            }
        }
        __syncthreads();
    }

    // Brings this block's own contender up to date.
    __device__ void refresh() {
        const Round& round = space.round;
        bool listed = false;
        for (int c = 0; c < round.contenders; ++c) listed |= round.rank[c] == rank;
        if (!listed || t.reports[rank].stale == 0) return;
        const int64_t j = t.reports[rank].proposal, length = Matrix::length(t, j);
        double gain = 0, bound = 0;
        for (int64_t e = threadIdx.x; e < length; e += blockDim.x) {
            const Entry entry = Matrix::entry(t, j, e);
            count_entry(t, entry.row, j, entry.k, gain, bound);
        }
        gain = round_to(block_sum(gain, space.doubles), t.control->magic);
        bound = block_sum(bound, space.doubles);
        if (threadIdx.x == 0) {
            t.gains[j] = gain;
            t.bounds[j] = bound;
            t.scanned[j] = static_cast<int32_t>(pick);
            t.reports[rank].refreshed = gain + bound;
        }
    }

    // Drops contenders that a fresh look has shown not to contend.
    __device__ void narrow() {
        if (warp_in_block() == 0) {
            Round& round = space.round;
            const bool here = lane() < round.contenders;
            const int r = here ? round.rank[lane()] : 0;
            const bool contends = here && t.reports[r].refreshed >= round.reach;
            const unsigned mask = __ballot_sync(kAllLanes, contends);
            if (contends) round.rank[__popc(mask & ((1u << lane()) - 1u))] = r;
            __syncwarp();
            if (lane() == 0) round.contenders = __popc(mask);
        }
        __syncthreads();
    }

    // visit(rows, values, count) for the live entries of column j in one segment, four at a time; all lanes.
    template <typename Visit>
    __device__ void each_live(int64_t j, int64_t segment, int64_t length, Visit&& visit) const {
        const int64_t e = segment * kSegment + lane();
        bool live = false;
        int64_t row = 0;
        if (lane() < kSegment && e < length) {
            const Entry entry = Matrix::entry(t, j, e);
            row = entry.row;
            live = entry.k + bound_at(t, row, j, entry.k) > t.rounded[row];
        }
        exact_of_lanes(t.points, live, row, point_of(t, j), visit);
    }

    __device__ int64_t partial_stride() const { return (t.rows + kSegment - 1) / kSegment; }

    // Float64 gains of all contenders, by all warps of the group; then their owners add them up.
    __device__ void settle() {
        const Round& round = space.round;
        const int64_t warps = static_cast<int64_t>(size) * warps_in_block();
        const int64_t self = static_cast<int64_t>(rank) * warps_in_block() + warp_in_block();
        int64_t before = 0;
        for (int c = 0; c < round.contenders; ++c) {
            const int64_t j = t.reports[round.rank[c]].proposal, length = Matrix::length(t, j);
            const int64_t segments = (length + kSegment - 1) / kSegment;
            for (int64_t s = (self + warps - before % warps) % warps; s < segments; s += warps) {
                double gain = 0;
                each_live(j, s, length, [&](int64_t row, double k) {
                    const double m = t.exact[row];
                    if (k > m) gain += t.weights[row] * (k - m);
                });
                if (lane() == 0) t.partial[c * partial_stride() + s] = gain;
            }
            before += segments;
        }
        meet();
        for (int c = 0; c < round.contenders; ++c) {
            if (round.rank[c] != rank) continue;
            const int64_t j = t.reports[rank].proposal, length = Matrix::length(t, j);
            const int64_t segments = (length + kSegment - 1) / kSegment;
            double gain = 0;
            for (int64_t s = threadIdx.x; s < segments; s += blockDim.x) gain += t.partial[c * partial_stride() + s];
            gain = block_sum(gain, space.doubles);
            if (threadIdx.x == 0) {
                t.settled[j] = gain;
                t.flag[j] = kSettled;
            }
        }
        __syncthreads();
    }

    // The lowest column of the whole group within a tie of the best.
    __device__ int64_t winner() {
        const Round& round = space.round;
        if (round.holders == 1) return round.winner;
        const double enough = round.best - round.tie;
        int64_t own = t.columns;
        each_own_column([&](int64_t j) {
            if (t.flag[j] == kSettled && t.settled[j] >= enough && j < own) own = j;
        });
        own = block_min(own, space.integers);
        if (threadIdx.x == 0) t.winners[rank] = own;
        meet();
        int64_t lowest = t.columns;
        for (int r = threadIdx.x; r < size; r += blockDim.x) lowest = t.winners[r] < lowest ? t.winners[r] : lowest;
        return block_min(lowest, space.integers);
    }

    // Raises the coverage of the rows that column j covers better, and lists them.
    __device__ void take(int64_t j, unsigned long long* rises) {
        const int64_t length = Matrix::length(t, j), segments = (length + kSegment - 1) / kSegment;
        const int64_t warps = static_cast<int64_t>(size) * warps_in_block();
        for (int64_t s = static_cast<int64_t>(rank) * warps_in_block() + warp_in_block(); s < segments; s += warps) {
            each_live(j, s, length, [&](int64_t row, double k) {
                if (lane() != 0 || k <= t.exact[row]) return;
                const float low = t.rounded[row], high = static_cast<float>(k);
                t.exact[row] = k;
                t.rounded[row] = high;
                if (t.weights[row] != 0) t.rises[atomicAdd(rises, 1ull)] = {row, low, high};
            });
        }
    }

    __device__ double taken_by(const Rise& rise, float k, double magic) const {
        const float clipped = smaller(larger(k, rise.low), rise.high);
        return round_to(t.weights[rise.row] * (static_cast<double>(clipped) - static_cast<double>(rise.low)), magic);
    }

    __device__ void lower(int64_t count, double magic);

    __device__ void run(int64_t most) {
        Control& control = *t.control;
        pick = control.picks;
        rows_updated = control.rows_updated;
        first_gain = control.first_gain;
        const double magic = control.magic;
        for (const int64_t end = t.budget < pick + most ? t.budget : pick + most; pick < end; ++pick) {
            int64_t settled = 0;
            for (;;) {
                look();
                meet();
                survey();
                if (space.round.contenders == 0) break;
                if (space.round.stale) {
                    refresh();
                    meet();
                    narrow();
                }
                settled += space.round.contenders;
                settle();
            }
            const int64_t j = winner();
            const double gain = t.settled[j];
            if (first_gain < 0) first_gain = gain > 0 ? gain : 0.0;
            if (j / kTile % size == rank && threadIdx.x == 0) t.flag[j] = kTaken;
            take(j, &control.rises[pick & 1]);
            meet();
            const int64_t count = static_cast<int64_t>(control.rises[pick & 1]);
            rows_updated += count;
            if (rank == 0 && threadIdx.x == 0) {
                t.picks[pick] = j;
                t.pick_gains[pick] = gain;
                control.rises[(pick + 1) & 1] = 0;  // all have lowered by those
                control.picks = pick + 1;
                control.rows_updated = rows_updated;
                control.first_gain = first_gain;
                control.settled_candidates += settled;
                control.contested += settled > 1;
            }
            lower(count, magic);
        }
        meet();  // before the next selection's task replaces this one's
    }
};

}  // namespace
}  // namespace cuda
}  // namespace difal
