// Selection without the kernel matrix: what is done to each of its tiles, and single columns. sweep.h has the idea.
#include "bounds.h"
#include "difal/cuda_coverage.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr int kTakers = 64;     // candidates of a block of `take`
constexpr int kStrip = 256;     // rows that it adds up
constexpr int kMaxStaged = 48;  // steps whose sums fit in shared memory
constexpr int kGatherers = 512;

__device__ inline double multiple(double v, double magic) {
    return (v + magic) - magic;
}

// Where a candidate's sums grow: its block's shared memory if the steps are few, else the device's.
struct Accumulator {
    double *taken, *alive;
    int64_t step;  // numbers from step to step
    bool shared;

    __device__ void add(int64_t s, double gain, double weight) const {
        if (shared) {
            taken[s * step] += gain;
            alive[s * step] += weight;
        } else {
            if (gain != 0) atomicAdd(&taken[s * step], gain);
            if (weight != 0) atomicAdd(&alive[s * step], weight);
        }
    }
};

__device__ inline void take_row(const Sums& sums, int64_t row, float k, const Accumulator& to) {
    const float reach = k * (1 + 2 * sums.error.tolerance + sums.error.relative) + sums.error.absolute;
    const double weight = sums.weights[row];
    for (int64_t e = sums.event_begin[row]; e < sums.event_begin[row + 1]; ++e) {
        const float low = sums.event_low[e], high = sums.event_high[e];
        if (!(reach > low)) break;  // lows ascend
        const float clipped = smaller(larger(k, low), high);
        const double gain = multiple(weight * (static_cast<double>(clipped) - static_cast<double>(low)), sums.magic);
        // Rounded up, so that it stays a bound.
        const double dying = reach <= high ? multiple(weight * 1.000001, sums.magic) : 0.0;
        to.add(sums.event_step[e], gain, dying);
    }
}

// A thread per candidate, a block per 64 candidates and strip of rows. Candidates are the tile's columns, or,
// `transposed`, its rows, whose entries go through shared memory so that they are read along the rows.
template <bool transposed>
__global__ void __launch_bounds__(kTakers) take_kernel(Tile tile, Sums sums, bool staged) {
    double* space = reinterpret_cast<double*>(shared_memory());
    const int64_t candidate_begin = transposed ? tile.row_begin : tile.column_begin;
    const int64_t candidate_end = transposed ? tile.row_end : tile.column_end;
    const int64_t first_row = transposed ? tile.column_begin : tile.row_begin;
    const int64_t last_row = transposed ? tile.column_end : tile.row_end;
    const int64_t group = candidate_begin + static_cast<int64_t>(blockIdx.x) * kTakers;
    const int64_t j = group + threadIdx.x;
    const int64_t begin = first_row + static_cast<int64_t>(blockIdx.y) * kStrip;
    const int64_t end = begin + kStrip < last_row ? begin + kStrip : last_row;
    Accumulator to = {sums.taken + j, sums.alive + j, sums.points, false};
    if (staged) {
        to = {space + threadIdx.x, space + sums.steps * kTakers + threadIdx.x, kTakers, true};
        for (int64_t s = 0; s < sums.steps; ++s) to.taken[s * kTakers] = to.alive[s * kTakers] = 0;
        space += 2 * sums.steps * kTakers;
    }
    const bool here = j < candidate_end;
    if (transposed) {
        float* square = reinterpret_cast<float*>(space) + warp_in_block() * kWarp * (kWarp + 1);
        const int64_t own = group + static_cast<int64_t>(warp_in_block()) * kWarp;
        for (int64_t i = begin; i < end; i += kWarp) {
            for (int r = 0; r < kWarp; ++r) {
                const bool inside = own + r < candidate_end && i + lane() < end;
                square[r * (kWarp + 1) + lane()] =
                    inside ? tile.tile[(own + r - tile.row_begin) * tile.stride + i + lane() - tile.column_begin] : 0;
            }
            __syncwarp();
            for (int r = 0; r < kWarp && i + r < end && here; ++r)
                take_row(sums, i + r, square[lane() * (kWarp + 1) + r], to);
            __syncwarp();
        }
    } else if (here) {
        const float* line = tile.tile + (begin - tile.row_begin) * tile.stride + j - tile.column_begin;
        for (int64_t i = begin; i < end; ++i, line += tile.stride) take_row(sums, i, *line, to);
    }
    if (!staged || !here) return;
    for (int64_t s = 0; s < sums.steps; ++s) {
        if (to.taken[s * kTakers] != 0) atomicAdd(&sums.taken[s * sums.points + j], to.taken[s * kTakers]);
        if (to.alive[s * kTakers] != 0) atomicAdd(&sums.alive[s * sums.points + j], to.alive[s * kTakers]);
    }
}

__device__ inline bool is_alive(const Points& points, const Estimate& estimate, const Lists& lists, int64_t i,
                                int64_t j, float k) {
    if (lists.allowed && !lists.allowed[i] && !lists.allowed[j]) return false;
    const float least = lists.floor[i] < lists.floor[j] ? lists.floor[i] : lists.floor[j];
    return k + bound_of(points.kind, estimate.error, k, estimate.sq_norms[i] + estimate.sq_norms[j]) > least;
}

// A warp per row of the tile: its live entries, in the order of the columns.
__global__ void __launch_bounds__(kGatherers) gather_rows(Points points, Estimate estimate, Tile tile, Lists lists) {
    const int64_t i = tile.row_begin + static_cast<int64_t>(blockIdx.x) * warps_in_block() + warp_in_block();
    if (i >= tile.row_end) return;
    const float* line = tile.tile + (i - tile.row_begin) * tile.stride - tile.column_begin;
    int32_t length = lists.length[i];
    for (int64_t first = tile.column_begin; first < tile.column_end; first += kWarp) {
        const int64_t j = first + lane();
        const bool alive = j < tile.column_end && is_alive(points, estimate, lists, i, j, line[j]);
        const unsigned mask = __ballot_sync(kAllLanes, alive);
        if (alive && lists.point) {
            const int64_t at = lists.begin[i] + length + __popc(mask & ((1u << lane()) - 1u));
            if (at < lists.begin[i + 1]) {
                lists.point[at] = static_cast<int32_t>(j);
                lists.value[at] = line[j];
            }
        }
        length += __popc(mask);
    }
    if (lane() == 0) lists.length[i] = length;
}

// A block per 32 columns: each warp counts its share of the rows, then knows where its entries go.
__global__ void __launch_bounds__(kGatherers) gather_columns(Points points, Estimate estimate, Tile tile, Lists lists) {
    int32_t* counts = reinterpret_cast<int32_t*>(shared_memory());  // (warps, kWarp)
    const int64_t j = tile.column_begin + static_cast<int64_t>(blockIdx.x) * kWarp + lane();
    const bool here = j < tile.column_end;
    const int64_t rows = tile.row_end - tile.row_begin, share = (rows + warps_in_block() - 1) / warps_in_block();
    const int64_t begin = tile.row_begin + warp_in_block() * share;
    const int64_t end = begin + share < tile.row_end ? begin + share : tile.row_end;
    const float* from = tile.tile + j - tile.column_begin - tile.row_begin * tile.stride;
    int32_t count = 0;
    for (int64_t i = begin; i < end && here; ++i)
        count += is_alive(points, estimate, lists, j, i, from[i * tile.stride]);
    counts[warp_in_block() * kWarp + lane()] = count;
    __syncthreads();
    int32_t before = here ? lists.length[j] : 0, total = before;
    for (int w = 0; w < warps_in_block(); ++w) {
        if (w < warp_in_block()) before += counts[w * kWarp + lane()];
        total += counts[w * kWarp + lane()];
    }
    for (int64_t i = begin; i < end && here && lists.point && count > 0; ++i) {
        const float k = from[i * tile.stride];
        if (!is_alive(points, estimate, lists, j, i, k)) continue;
        const int64_t at = lists.begin[j] + before++;
        if (at >= lists.begin[j + 1]) continue;
        lists.point[at] = static_cast<int32_t>(i);
        lists.value[at] = k;
    }
    __syncthreads();  // all have read the length
    if (here && warp_in_block() == 0) lists.length[j] = total;
}

__global__ void __launch_bounds__(256) column_kernel(Points points, Estimate estimate, Column column) {
    const int64_t segment = static_cast<int64_t>(blockIdx.x) * warps_in_block() + warp_in_block();
    if (segment * kSegment >= column.rows) return;
    const int64_t i = segment * kSegment + lane(), j = column.point;
    const bool here = lane() < kSegment && i < column.rows;
    const ErrorModel& error = estimate.error;
    const float k = here ? column.values[i] : 0.0f;
    float bound = 0;
    double gain = 0, slack = 0;
    if (here) {
        ErrorModel own = error;
        if (i == j) own.sq_dist_rel_err = 0;
        bound = bound_of(points.kind, own, k, estimate.sq_norms[i] + estimate.sq_norms[j]);
    }
    if (column.new_exact) {
        bool live = here && i == j;
        if (here) {
            const double before = column.exact[i];
            column.new_exact[i] = before;
            column.new_rounded[i] = column.rounded[i];
            live = live || k + bound > column.rounded[i];
        }
        __syncwarp();  // the copies are there before they are raised
        exact_of_lanes(points, live, i, j, [&](int64_t row, double value) {
            const double before = column.exact[row];
            if (value <= before) return;
            gain += column.weights[row] * (value - before);
            if (lane() == 0) {
                column.new_exact[row] = value;
                column.new_rounded[row] = static_cast<float>(value);
            }
        });
        if (lane() == 0) column.gain[segment] = gain;
        return;
    }
    if (here) {
        const float m = column.rounded[i];
        const double w = column.weights[i];
        if (k > m) gain = w * (static_cast<double>(k) - static_cast<double>(m));
        if (k + bound > m) slack = w * static_cast<double>(bound);
    }
    gain = warp_sum(gain);
    slack = warp_sum(slack);
    if (lane() == 0) {
        column.gain[segment] = gain;
        column.bound[segment] = slack;
    }
}

unsigned blocks_for(int64_t count, int64_t each) {
    return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

void coverage_take(Queue queue, const Tile& tile, const Sums& sums) {
    const int64_t rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
    const bool staged = sums.steps <= kMaxStaged;
    const size_t sums_size = staged ? 2 * sizeof(double) * kTakers * static_cast<size_t>(sums.steps) : 0;
    launch(take_kernel<false>, queue, dim3(blocks_for(columns, kTakers), blocks_for(rows, kStrip)), kTakers, sums_size,
           false, tile, sums, staged);
    if (tile.row_begin == tile.column_begin) return;  // the diagonal square holds both halves
    launch(take_kernel<true>, queue, dim3(blocks_for(rows, kTakers), blocks_for(columns, kStrip)), kTakers,
           sums_size + sizeof(float) * (kTakers / kWarp) * kWarp * (kWarp + 1), false, tile, sums, staged);
}

void coverage_gather(Queue queue, const Points& points, const Estimate& estimate, const Tile& tile,
                     const Lists& lists) {
    const int64_t rows = tile.row_end - tile.row_begin, columns = tile.column_end - tile.column_begin;
    constexpr int kWarps = kGatherers / kWarp;
    launch(gather_rows, queue, dim3(blocks_for(rows, kWarps)), kGatherers, 0, false, points, estimate, tile, lists);
    if (tile.row_begin == tile.column_begin) return;
    launch(gather_columns, queue, dim3(blocks_for(columns, kWarp)), kGatherers, sizeof(int32_t) * kWarp * kWarps, false,
           points, estimate, tile, lists);
}

void coverage_column(Queue queue, const Points& points, const Estimate& estimate, const Column& column) {
    constexpr int kThreads = 256;
    launch(column_kernel, queue, dim3(blocks_for(column.rows, kThreads / kWarp * kSegment)), kThreads, 0, false, points,
           estimate, column);
}

}  // namespace cuda
}  // namespace difal
