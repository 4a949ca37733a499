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
    double* sums = reinterpret_cast<double*>(&space + 1);  // (warps, kTile)
    __syncthreads();
    for (int64_t tile = rank; tile < tiles(); tile += size) {
        double taken[2] = {0, 0};
        bool settled[2], touched[2] = {false, false}, here[2];
        for (int c = 0; c < 2; ++c) {
            const int64_t j = tile * kTile + c * kWarp + lane();
            here[c] = j < t.columns;
            settled[c] = here[c] && t.flag[j] == kSettled;
        }
#pragma unroll 4
        for (int64_t r = warp_in_block(); r < count; r += warps_in_block()) {
            const Rise rise = t.rises[r];
            const float* line = t.gram + rise.row * t.gram_stride + tile * kTile + lane();
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                if (!here[c]) continue;
                const float k = line[c * kWarp];
                taken[c] += taken_by(rise, k, magic);
                if (settled[c] && may_reach(t.estimate.error, k, rise.low))
                    touched[c] |= k + bound_at(t, rise.row, tile * kTile + c * kWarp + lane(), k) > rise.low;
            }
        }
        for (int c = 0; c < 2; ++c) {
            sums[warp_in_block() * kTile + c * kWarp + lane()] = taken[c];
            if (touched[c]) t.flag[tile * kTile + c * kWarp + lane()] = kOpen;
        }
        __syncthreads();
        for (int c = threadIdx.x; c < kTile; c += blockDim.x) {
            if (tile * kTile + c >= t.columns) continue;
            double total = 0;  // exact, so in any order
            for (int w = 0; w < warps_in_block(); ++w) total += sums[w * kTile + c];
            t.gains[tile * kTile + c] -= total;
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
                const double taken = taken_by(rise, k, magic);
                if (taken != 0) atomicAdd(&t.gains[j], -taken);
                if (t.flag[j] == kSettled && may_reach(t.estimate.error, k, rise.low)) t.flag[j] = kOpen;
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
    t.scanned[j] = 0;
    t.flag[j] = open ? kOpen : kTaken;
    if (open && gain > 0) atomicMax(&t.control->largest, bits_of(gain));
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

// Rounds the first estimates to multiples of a power of two, of which the largest gain has at most 2^51.
__global__ void __launch_bounds__(512) round_gains(const CoverageTask* tasks) {
    const CoverageTask& t = tasks[blockIdx.y];
    const double largest = double_of(t.control->largest);
    int exponent = 0;
    frexp(largest, &exponent);
    const double magic = largest > 0 ? ldexp(1.5, exponent + 1) : 0.0;  // 1.5 * 2^52 units of 2^(exponent - 51)
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; j < t.columns;
         j += static_cast<int64_t>(gridDim.x) * blockDim.x) {
        t.gains[j] = round_to(t.gains[j], magic);
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) t.control->magic = magic;
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

size_t sums_size(int threads) {
    return sizeof(double) * kTile * static_cast<size_t>(threads / kWarp);
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
        launch(start_dense, queue, dim3(blocks, problems), kStartThreads, 2 * sums_size(kStartThreads), false, tasks);
    }
    const int64_t blocks = (most_columns + kStartThreads - 1) / kStartThreads;
    launch(round_gains, queue, dim3(static_cast<unsigned>(blocks < 1024 ? blocks : 1024), problems), kStartThreads, 0,
           false, tasks);
}

void coverage_select(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, bool sparse,
                     unsigned* arrivals, int64_t picks, int threads) {
    const size_t shared = sizeof(Space) + sums_size(threads);
    if (sparse) {
        select_as<Sparse>(queue, tasks, count, most_columns, arrivals, picks, threads, shared);
    } else {
        select_as<Dense>(queue, tasks, count, most_columns, arrivals, picks, threads, shared);
    }
}

}  // namespace cuda
}  // namespace difal
