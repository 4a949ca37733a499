// A group of blocks at work on one selection: what each does between two barriers. Included by greedy.cu alone, which
// has the map.
#pragma once

#include "difal/cuda_coverage.h"
#include "entries.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr double kTie = 1e-12;     // of the first gain: closer than this is a tie
constexpr double kUnit = 0x1p-50;  // of the largest gain: rounding per row raised, at most
constexpr int kTile = 64;          // columns that a block lowers together
constexpr int kThreads = 384;      // of a block: more would leave the loop too few registers
// Never settled; settled, and no live row of it has risen since; picked or not allowed; settled before some rose.
constexpr int kOpen = 0, kSettled = 1, kTaken = 2, kKnown = 3;

// What a block knows of the current round; in shared memory.
struct Round {
    double best, tie;
    int64_t winner;
    int32_t contenders, holders;
    int32_t report[kContenders];  // whose columns contend
    int64_t column[kContenders];
};

struct Space {
    CoverageTask task;
    Round round;
    double doubles[3 * kWarp];
    int64_t integers[2 * kWarp];
    int64_t kept[kKept];  // columns whose float64 values of this pick are in `task.kept`
};

template <typename Matrix>
struct BlockGroup {
    Space& space;
    const CoverageTask& t;
    int rank, size;
    unsigned* arrivals;
    unsigned met = 0;
    // Warps of a block that each propose a column of theirs, in small groups all; and reports of the group.
    int proposers, reports;
    // The same in all blocks, so that none waits to be told.
    int64_t pick = 0, rows_updated = 0;
    int32_t barriers = 0;
    double first_gain = -1;

    __device__ BlockGroup(Space& s, int r, int n, unsigned* a) : space(s), t(s.task), rank(r), size(n), arrivals(a) {
        const int share = kContenders / size > 1 ? kContenders / size : 1;
        proposers = share < warps_in_block() ? share : warps_in_block();
        reports = size * proposers;
    }

    // All blocks of the group wait for each other, and see what the others wrote before.
    __device__ void meet() {
        __syncthreads();
        if (size == 1) return;
        ++barriers;
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

    // The gain of an open column is no more, and no less. The estimate is off by `bounds` at most; and if it was
    // settled once, by `offset` then, and by no more than `touched` since.
    __device__ double upper(int64_t j) const {
        const double bound = t.bounds[j];
        if (t.flag[j] != kKnown) return t.gains[j] + bound;
        const double since = t.offset[j] + t.touched[j];
        return t.gains[j] + (since < bound ? since : bound);
    }
    __device__ double lower_bound(int64_t j) const {
        const double bound = t.bounds[j];
        if (t.flag[j] != kKnown) return t.gains[j] - bound;
        const double since = t.touched[j] - t.offset[j];
        return t.gains[j] - (since < bound ? since : bound);
    }

    // The largest, or least, of some warps' numbers in shared memory: of those that propose together.
    __device__ double most(const double* of_warps) const {
        double found = of_warps[warp_in_block() % proposers];
        for (int w = warp_in_block() % proposers; w < warps_in_block(); w += proposers)
            found = of_warps[w] > found ? of_warps[w] : found;
        return found;
    }
    __device__ int64_t least(const int64_t* of_warps) const {
        int64_t found = of_warps[warp_in_block() % proposers];
        for (int w = warp_in_block() % proposers; w < warps_in_block(); w += proposers)
            found = of_warps[w] < found ? of_warps[w] : found;
        return found;
    }

    // Publishes, for each that proposes, its best settled column, its best open one, and what its open ones gain at
    // least.
    __device__ void look() {
        double settled = no_gain(), lower = no_gain(), highest = no_gain();
        each_own_column([&](int64_t j) {
            if (t.flag[j] == kTaken) return;
            if (t.flag[j] == kSettled) {
                settled = t.settled[j] > settled ? t.settled[j] : settled;
                return;
            }
            const double above = upper(j), below = lower_bound(j);
            lower = below > lower ? below : lower;
            highest = above > highest ? above : highest;
        });
        settled = warp_max(settled);
        lower = warp_max(lower);
        highest = warp_max(highest);
        if (lane() == 0) {
            space.doubles[warp_in_block()] = settled;
            space.doubles[kWarp + warp_in_block()] = lower;
            space.doubles[2 * kWarp + warp_in_block()] = highest;
        }
        __syncthreads();
        settled = most(space.doubles);
        lower = most(space.doubles + kWarp);
        highest = most(space.doubles + 2 * kWarp);
        const double enough = settled - tie_of(settled);
        int64_t winner = t.columns, proposal = t.columns;  // the lowest of each
        each_own_column([&](int64_t j) {
            if (t.flag[j] == kTaken) return;
            if (t.flag[j] == kSettled) {
                if (t.settled[j] >= enough && j < winner) winner = j;
            } else if (j < proposal && upper(j) == highest) {
                proposal = j;
            }
        });
        winner = warp_min(winner);
        proposal = warp_min(proposal);
        if (lane() == 0) {
            space.integers[warp_in_block()] = winner;
            space.integers[kWarp + warp_in_block()] = proposal;
        }
        __syncthreads();
        if (lane() == 0 && warp_in_block() < proposers) {
            BlockReport& report = t.reports[rank * proposers + warp_in_block()];
            report.settled = settled;
            report.lower = lower;
            report.upper = highest;
            report.winner = least(space.integers);
            report.proposal = least(space.integers + kWarp);
        }
    }

    // Reads all reports: who contends, and if nobody does, who won.
    __device__ void survey() {
        if (warp_in_block() == 0) {
            double best = no_gain(), lower = no_gain(), highest = no_gain();
            for (int r = lane(); r < reports; r += kWarp) {
                best = t.reports[r].settled > best ? t.reports[r].settled : best;
                lower = t.reports[r].lower > lower ? t.reports[r].lower : lower;
                highest = t.reports[r].upper > highest ? t.reports[r].upper : highest;
            }
            best = warp_max(best);
            lower = warp_max(lower);
            highest = warp_max(highest);
            const double largest = double_of(t.control->largest), units = largest + t.control->bound_scale;
            const double drift = kUnit * static_cast<double>(rows_updated + t.rows + 2) * units;
            const double slack = kTie * (first_gain < 0 ? 2 * largest : first_gain) + drift;
            lower -= drift;
            const double reach = (best > lower ? best : lower) - slack;
            // While nobody is settled who could win, one at a time: the first decides how few others are needed.
            const bool single = best < lower;
            const double tie = tie_of(best);
            int contenders = 0, holders = 0;
            int64_t winner = t.columns;
            for (int first = 0; first < reports; first += kWarp) {
                const int r = first + lane();
                const bool here = r < reports;
                bool contends = here && t.reports[r].proposal < t.columns && t.reports[r].upper >= reach;
                if (single) contends = contends && t.reports[r].upper == highest;
                const unsigned mask = __ballot_sync(kAllLanes, contends);
                const int index = contenders + __popc(mask & ((1u << lane()) - 1u));
                if (contends && index < kContenders) {
                    space.round.report[index] = r;
                    space.round.column[index] = t.reports[r].proposal;
                }
                contenders += __popc(mask);
                const bool holds = here && t.reports[r].settled >= best - tie && t.reports[r].winner < t.columns;
                holders += __popc(__ballot_sync(kAllLanes, holds));
                const int64_t lowest = warp_min(holds ? t.reports[r].winner : t.columns);
                winner = lowest < winner ? lowest : winner;
            }
            const int together = single ? 1 : kContenders;
            if (lane() == 0) {
                Round& round = space.round;
                round.best = best;
                round.tie = tie;
                round.winner = winner;
                round.contenders = contenders < together ? contenders : together;
                round.holders = holders;
            }
        }
        __syncthreads();
    }

    // visit(e, row, value) for the live entries e of column j in one segment; all lanes. Returns how many they are.
    template <typename Visit>
    __device__ int each_live(int64_t j, int64_t segment, int64_t length, Visit&& visit) const {
        const int64_t e = segment * kSegment + lane();
        bool live = false;
        int64_t row = 0;
        if (lane() < kSegment && e < length) {
            const Entry entry = Matrix::entry(t, j, e);
            row = entry.row;
            live = is_live(j, entry);
        }
        const unsigned mask = __ballot_sync(kAllLanes, live);
        unsigned left = mask;
        exact_of_lanes(t.points, live, row, point_of(t, j), [&](int64_t at, double k) {
            visit(segment * kSegment + __ffs(left) - 1, at, k);
            left &= left - 1u;
        });
        return __popc(mask);
    }

    __device__ bool is_live(int64_t j, const Entry& entry) const {
        return entry.k + bound_at(t, entry.row, j, entry.k) > t.rounded[entry.row];
    }

    __device__ int64_t partial_stride() const { return (t.rows + kSegment - 1) / kSegment; }

    // Float64 gains of all contenders, by all warps of the group; then their owners add them up. The values of the
    // first kKept of a pick are kept: one of them is the likely winner. `before`: how many this pick has settled
    // already.
    __device__ void settle(int32_t before) {
        const Round& round = space.round;
        const int64_t warps = static_cast<int64_t>(size) * warps_in_block();
        const int64_t self = static_cast<int64_t>(rank) * warps_in_block() + warp_in_block();
        int64_t done = 0, rows = 0;
        for (int c = 0; c < round.contenders; ++c) {
            const int64_t j = round.column[c], length = Matrix::length(t, j);
            const int64_t segments = (length + kSegment - 1) / kSegment;
            double* kept = before + c < kKept ? t.kept + (before + c) * t.rows : nullptr;
            for (int64_t s = (self + warps - done % warps) % warps; s < segments; s += warps) {
                double gain = 0;
                rows += each_live(j, s, length, [&](int64_t e, int64_t row, double k) {
                    const double m = t.exact[row];
                    if (k > m) gain += t.weights[row] * (k - m);
                    if (kept && lane() == 0) kept[e] = k;
                });
                if (lane() == 0) t.partial[c * partial_stride() + s] = gain;
            }
            if (kept && threadIdx.x == 0) space.kept[before + c] = j;
            done += segments;
        }
        count_rows(rows);
        meet();
        for (int c = 0; c < round.contenders; ++c) {
            if (round.report[c] / proposers != rank) continue;
            const int64_t j = round.column[c], length = Matrix::length(t, j);
            const int64_t segments = (length + kSegment - 1) / kSegment;
            double gain = 0;
            for (int64_t s = threadIdx.x; s < segments; s += blockDim.x) gain += t.partial[c * partial_stride() + s];
            gain = block_sum(gain, space.doubles);
            if (threadIdx.x == 0) {
                t.settled[j] = gain;
                t.offset[j] = gain - t.gains[j];
                t.touched[j] = 0;
                t.flag[j] = kSettled;
            }
        }
        __syncthreads();
    }

    __device__ void count_rows(int64_t rows) const {
        if (lane() == 0 && rows > 0) atomicAdd(&t.control->float64_rows, static_cast<unsigned long long>(rows));
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

    // Raises the coverage of the rows that column j covers better, and lists them. `kept`: how many columns' values
    // are.
    __device__ void take(int64_t j, int32_t kept, unsigned long long* rises) {
        const auto raise = [&](int64_t row, double k) {
            if (k <= t.exact[row]) return;
            const float low = t.rounded[row], high = static_cast<float>(k);
            t.exact[row] = k;
            t.rounded[row] = high;
            if (t.weights[row] != 0) t.rises[atomicAdd(rises, 1ull)] = {row, low, high};
        };
        const int64_t length = Matrix::length(t, j), segments = (length + kSegment - 1) / kSegment;
        for (int32_t c = 0; c < kept && c < kKept; ++c) {
            if (space.kept[c] != j) continue;
            const int64_t threads = static_cast<int64_t>(size) * blockDim.x;
            for (int64_t e = static_cast<int64_t>(rank) * blockDim.x + threadIdx.x; e < length; e += threads) {
                const Entry entry = Matrix::entry(t, j, e);
                if (is_live(j, entry)) raise(entry.row, t.kept[c * t.rows + e]);
            }
            return;
        }
        const int64_t warps = static_cast<int64_t>(size) * warps_in_block();
        int64_t rows = 0;
        for (int64_t s = static_cast<int64_t>(rank) * warps_in_block() + warp_in_block(); s < segments; s += warps) {
            rows += each_live(j, s, length, [&](int64_t, int64_t row, double k) {
                if (lane() == 0) raise(row, k);
            });
        }
        count_rows(rows);
    }

    __device__ double taken_by(const Rise& rise, double w, float k, double magic) const {
        const float clipped = smaller(larger(k, rise.low), rise.high);
        return round_to(w * (static_cast<double>(clipped) - static_cast<double>(rise.low)), magic);
    }

    __device__ void lower(int64_t count, double magic);

    __device__ void run(int64_t most) {
        Control& control = *t.control;
        pick = control.picks;
        rows_updated = control.rows_updated;
        first_gain = control.first_gain;
        const double magic = control.magic;
        for (const int64_t end = t.budget < pick + most ? t.budget : pick + most; pick < end; ++pick) {
            int32_t settled = 0, rounds = 0;
            for (;;) {
                ++rounds;
                look();
                meet();
                survey();
                if (space.round.contenders == 0) break;
                settle(settled);
                settled += space.round.contenders;
            }
            const int64_t j = winner();
            const double gain = t.settled[j];
            if (first_gain < 0) first_gain = gain > 0 ? gain : 0.0;
            if (j / kTile % size == rank && threadIdx.x == 0) t.flag[j] = kTaken;
            take(j, settled, &control.rises[pick & 1]);
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
                control.rounds += rounds;
            }
            lower(count, magic);
        }
        if (rank == 0 && threadIdx.x == 0) {
            control.barriers += barriers;
            control.blocks = size;
        }
        barriers = 0;
        meet();  // before the next selection's task replaces this one's
    }
};

}  // namespace
}  // namespace cuda
}  // namespace difal
