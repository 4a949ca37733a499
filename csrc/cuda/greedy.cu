// The greedy loop, whole on the device: one launch makes many picks of many selections. docs/kernels.md has the map.
//
// A *group* of blocks works on one selection. It keeps an estimate of every column's gain with a bound, settles in
// float64 the columns that could be the best, takes the best, and lowers the estimates for the rows that rose.
// Between phases the group meets at a barrier in global memory, so nothing returns to the host.
//
// Estimates are sums of multiples of one power of two (`magic`), small enough to add up without rounding. So their
// sums do not depend on the order, atomics included, and a run repeats bit for bit.
#include "block_group.h"
#include "bounds.h"
#include "difal/cuda_coverage.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

// Each block lowers its own columns: lanes two columns each, warps a share of the rows.
template <>
__device__ void BlockGroup<Dense>::lower(int64_t count, double magic) {
    constexpr int kSums = 3, kAhead = 2;
    double* sums = reinterpret_cast<double*>(&space + 1);  // (warps, kSums, kTile)
    __syncthreads();
    for (int64_t tile = rank; tile < tiles(); tile += size) {
        Taken taken[2];
        float sq_norm[2];
        bool known[2], here[2];
        for (int c = 0; c < 2; ++c) {
            const int64_t j = tile * kTile + c * kWarp + lane();
            here[c] = j < t.columns;
            known[c] = here[c] && (t.flag[j] == kSettled || t.flag[j] == kKnown);
            sq_norm[c] = here[c] ? t.estimate.sq_norms[point_of(t, j)] : 0.0f;
        }
        const float* column = t.gram + tile * kTile + lane();
        for (int64_t first = warp_in_block(); first < count; first += kAhead * warps_in_block()) {
            float entries[kAhead][2];  // all on their way before the first is needed
#pragma unroll
            for (int a = 0; a < kAhead; ++a) {
                const int64_t r = first + a * warps_in_block();
                const float* line = column + (r < count ? t.rises[r].row : 0) * t.gram_stride;
                for (int c = 0; c < 2; ++c) entries[a][c] = r < count && here[c] ? line[c * kWarp] : -1.0f;
            }
#pragma unroll
            for (int a = 0; a < kAhead; ++a) {
                const int64_t r = first + a * warps_in_block();
                if (r >= count) break;
                const Rise rise = t.rises[r];
                const double w = t.weights[rise.row];
#pragma unroll
                for (int c = 0; c < 2; ++c) {
                    const float k = entries[a][c];
                    taken[c].gain += taken_by(rise, w, k, magic);
                    if (!may_reach(t.estimate.error, k, rise.low)) continue;
                    const bool diagonal = t.symmetric && rise.row == tile * kTile + c * kWarp + lane();
                    const float sum = t.estimate.sq_norms[rise.row] + sq_norm[c];
                    taken[c].add(t, rise, w, k, bound_of_entry(t, diagonal, k, sum), known[c]);
                }
            }
        }
        for (int c = 0; c < 2; ++c) {
            double* own = sums + warp_in_block() * kSums * kTile + c * kWarp + lane();
            own[0] = taken[c].gain;
            own[kTile] = taken[c].bound;
            own[2 * kTile] = taken[c].charge;
            if (taken[c].touched) t.flag[tile * kTile + c * kWarp + lane()] = kKnown;
        }
        __syncthreads();
        for (int c = threadIdx.x; c < kSums * kTile; c += blockDim.x) {
            const int64_t j = tile * kTile + c % kTile;
            if (j >= t.columns) continue;
            double total = 0;  // exact, so in any order
            for (int w = 0; w < warps_in_block(); ++w) total += sums[w * kSums * kTile + c];
            if (c < kTile) {
                t.gains[j] -= total;
            } else if (c < 2 * kTile) {
                t.bounds[j] -= total;
            } else if (t.flag[j] == kKnown) {
                t.touched[j] += total;
            }
        }
        __syncthreads();
    }
}

// Each warp takes a risen row, lowers the columns on its list, and drops entries that can never matter again.
template <>
__device__ void BlockGroup<Sparse>::lower(int64_t count, double magic) {
    const int64_t warps = static_cast<int64_t>(size) * warps_in_block();
    for (int64_t r = static_cast<int64_t>(rank) * warps_in_block() + warp_in_block(); r < count; r += warps) {
        const Rise rise = t.rises[r];
        const double w = t.weights[rise.row];
        const int64_t begin = t.list_begin[rise.row];
        const int32_t length = t.list_length[rise.row];
        int32_t kept = 0;
        for (int32_t first = 0; first < length; first += kWarp) {
            const int32_t e = first + lane();
            bool keep = false;
            int32_t j = 0;
            float k = 0;
            if (e < length) {
                j = t.list_point[begin + e];
                k = t.list_value[begin + e];
                Taken taken;
                taken.gain = taken_by(rise, w, k, magic);
                const bool known = t.flag[j] == kSettled || t.flag[j] == kKnown;
                if (may_reach(t.estimate.error, k, rise.low))
                    taken.add(t, rise, w, k, bound_at(t, rise.row, j, k), known);
                if (taken.gain != 0) atomicAdd(&t.gains[j], -taken.gain);
                if (taken.bound != 0) atomicAdd(&t.bounds[j], -taken.bound);
                if (taken.charge != 0) atomicAdd(&t.touched[j], taken.charge);
                if (taken.touched) t.flag[j] = kKnown;
                keep = may_reach(t.estimate.error, k, rise.high) || may_reach(t.estimate.error, k, t.rounded[j]);
            }
            const unsigned mask = __ballot_sync(kAllLanes, keep);
            if (keep) {
                const int64_t at = begin + kept + __popc(mask & ((1u << lane()) - 1u));
                t.list_point[at] = j;
                t.list_value[at] = k;
            }
            kept += __popc(mask);
            __syncwarp();
        }
        if (lane() == 0) t.list_length[rise.row] = kept;
    }
    meet();  // others lowered this block's columns too
}

template <typename Matrix>
__global__ void __launch_bounds__(kThreads, 1)
    select_kernel(const CoverageTask* tasks, int count, int group_size, unsigned* arrivals, int64_t picks) {
    Space& space = *reinterpret_cast<Space*>(shared_memory());
    const int group = static_cast<int>(blockIdx.x) / group_size, groups = static_cast<int>(gridDim.x) / group_size;
    BlockGroup<Matrix> self(space, static_cast<int>(blockIdx.x) % group_size, group_size, arrivals + group);
    for (int which = group; which < count; which += groups) {
        const int* from = reinterpret_cast<const int*>(tasks + which);
        int* to = reinterpret_cast<int*>(&space.task);
        for (unsigned i = threadIdx.x; i < sizeof(CoverageTask) / sizeof(int); i += blockDim.x) to[i] = from[i];
        __syncthreads();
        self.run(picks);
    }
}

// The first estimates, not yet rounded. Dense: a block per tile of columns; sparse: a warp per column.
template <typename Matrix>
__device__ void first_estimate(const CoverageTask& t, int64_t j, double gain, double bound) {
    const bool open = !t.allowed || t.allowed[j];
    t.gains[j] = gain;
    t.bounds[j] = bound;
    t.flag[j] = open ? kOpen : kTaken;
    if (open && gain > 0) atomicMax(&t.control->largest, bits_of(gain));
    if (open && bound > 0) atomicMax(&t.control->largest_bound, bits_of(bound));
}

__global__ void __launch_bounds__(512) start_dense(const CoverageTask* tasks) {
    double* gains = reinterpret_cast<double*>(shared_memory());  // (warps, kTile), then bounds
    double* bounds = gains + warps_in_block() * kTile;
    const CoverageTask& t = tasks[blockIdx.y];
    const int64_t tile = blockIdx.x;
    if (tile * kTile >= t.columns) return;
    double gain[2] = {0, 0}, bound[2] = {0, 0};
    for (int64_t i = warp_in_block(); i < t.rows; i += warps_in_block()) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int64_t j = tile * kTile + c * kWarp + lane();
            if (j < t.columns) count_entry(t, i, j, t.gram[i * t.gram_stride + j], gain[c], bound[c]);
        }
    }
    for (int c = 0; c < 2; ++c) {
        gains[warp_in_block() * kTile + c * kWarp + lane()] = gain[c];
        bounds[warp_in_block() * kTile + c * kWarp + lane()] = bound[c];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < kTile; c += blockDim.x) {
        if (tile * kTile + c >= t.columns) continue;
        double total = 0, slack = 0;
        for (int w = 0; w < warps_in_block(); ++w) {
            total += gains[w * kTile + c];
            slack += bounds[w * kTile + c];
        }
        first_estimate<Dense>(t, tile * kTile + c, total, slack);
    }
}

__global__ void __launch_bounds__(512) start_sparse(const CoverageTask* tasks) {
    const CoverageTask& t = tasks[blockIdx.y];
    const int64_t j = static_cast<int64_t>(blockIdx.x) * warps_in_block() + warp_in_block();
    if (j >= t.columns) return;
    double gain = 0, bound = 0;
    for (int64_t e = lane(); e < Sparse::length(t, j); e += kWarp) {
        const Entry entry = Sparse::entry(t, j, e);
        count_entry(t, entry.row, j, entry.k, gain, bound);
    }
    gain = warp_sum(gain);
    bound = warp_sum(bound);
    if (lane() == 0) first_estimate<Sparse>(t, j, gain, bound);
}

__global__ void __launch_bounds__(512) prepare_control(const CoverageTask* tasks, int count, double first_gain) {
    for (int which = threadIdx.x; which < count; which += blockDim.x) {
        Control control = {};
        control.first_gain = first_gain;
        *tasks[which].control = control;
    }
}

// The number that rounds to multiples of 2^-51 of a power of two of at least `largest`: 1.5 * 2^52 of those.
__device__ double magic_of(double largest) {
    int exponent = 0;
    frexp(largest, &exponent);
    return largest > 0 ? ldexp(1.5, exponent + 1) : 0.0;
}

// Rounds the first estimates, and their bounds, to multiples that add up without rounding.
__global__ void __launch_bounds__(512) round_gains(const CoverageTask* tasks) {
    const CoverageTask& t = tasks[blockIdx.y];
    // What is charged since a column was settled is compared while it is below twice its bound.
    const double scale = 4 * double_of(t.control->largest_bound);
    const double magic = magic_of(double_of(t.control->largest)), bound_magic = magic_of(scale);
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < t.columns;
         j += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        t.gains[j] = round_to(t.gains[j], magic);
        t.bounds[j] = round_to(t.bounds[j], bound_magic);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        t.control->magic = magic;
        t.control->bound_magic = bound_magic;
        t.control->bound_scale = scale;
    }
}

template <typename Matrix>
void select_as(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, unsigned* arrivals,
               int64_t picks, int threads, size_t shared) {
    const int64_t resident = resident_blocks(select_kernel<Matrix>, queue, threads, shared);
    if (resident < 1) throw std::runtime_error("the selection kernel does not fit on this GPU");
    const int64_t groups = count < resident ? count : resident;
    int64_t size = resident / groups;
    const int64_t useful = (most_columns + kTile - 1) / kTile;
    if (size > useful) size = useful;
    if (size > kMaxGroup) size = kMaxGroup;
    fill_bytes(queue, arrivals, 0, sizeof(unsigned) * static_cast<size_t>(groups));
    launch(select_kernel<Matrix>, queue, dim3(static_cast<unsigned>(groups * size)), threads, shared, true, tasks,
           count, static_cast<int>(size), arrivals, picks);
}

// Of `count` numbers a column from each warp.
size_t sums_size(int threads, int count) {
    return sizeof(double) * kTile * static_cast<size_t>(threads / kWarp * count);
}

}  // namespace

std::string why_not(int device) {
    return why_not(select_kernel<Dense>, device);
}

void coverage_start(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, bool sparse,
                    double first_gain) {
    constexpr int kStartThreads = 256;
    const unsigned problems = static_cast<unsigned>(count);
    launch(prepare_control, queue, dim3(1), kStartThreads, 0, false, tasks, count, first_gain);
    if (sparse) {
        const int64_t per_block = kStartThreads / kWarp;
        const unsigned blocks = static_cast<unsigned>((most_columns + per_block - 1) / per_block);
        launch(start_sparse, queue, dim3(blocks, problems), kStartThreads, 0, false, tasks);
    } else {
        const unsigned blocks = static_cast<unsigned>((most_columns + kTile - 1) / kTile);
        launch(start_dense, queue, dim3(blocks, problems), kStartThreads, sums_size(kStartThreads, 2), false, tasks);
    }
    const int64_t blocks = (most_columns + kStartThreads - 1) / kStartThreads;
    launch(round_gains, queue, dim3(static_cast<unsigned>(blocks < 1024 ? blocks : 1024), problems), kStartThreads, 0,
           false, tasks);
}

void coverage_select(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, bool sparse,
                     unsigned* arrivals, int64_t picks, int threads) {
    const size_t shared = sizeof(Space) + sums_size(threads, 3);
    if (sparse) {
        select_as<Sparse>(queue, tasks, count, most_columns, arrivals, picks, threads, shared);
    } else {
        select_as<Dense>(queue, tasks, count, most_columns, arrivals, picks, threads, shared);
    }
}

}  // namespace cuda
}  // namespace difal
