#include "difal/disagreement.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>

#include "difal/isa.h"
#include "difal/threads.h"

namespace difal {
namespace {

using TileFunction = int64_t (*)(const DisagreementTile&);

TileFunction tile_function() {
    return by_isa(disagreement_generic, disagreement_avx2, disagreement_avx512);
}

// Wide enough to read runs of some cache lines, small enough for its two C x positions blocks to stay in L1 or
// L2.
int64_t tile_positions(int64_t classes) {
    return classes <= 128 ? max_tile_positions : classes <= 1024 ? 32 : 8;
}

// The largest float32 that is no more than ln(n).
double log_rounded_down(int64_t n) {
    const double exact = std::log(static_cast<double>(n));
    const float rounded = static_cast<float>(exact);
    return rounded > exact ? std::nextafter(rounded, 0.0f) : rounded;
}

// Walks the positions in row-major order, keeping the offset of the current one in both arrays.
class Walk {
  public:
    Walk(const DisagreementJob& job, int64_t position) : job_(job) {
        for (int d = job.position_dims - 1; d >= 0; --d) {
            index_[d] = position % job.position_sizes[d];
            position /= job.position_sizes[d];
            samples += index_[d] * job.samples.position_strides[d];
            single += index_[d] * job.single.position_strides[d];
        }
    }

    void next() {
        for (int d = job_.position_dims - 1; d >= 0; --d) {
            samples += job_.samples.position_strides[d];
            single += job_.single.position_strides[d];
            if (++index_[d] < job_.position_sizes[d]) return;
            samples -= job_.position_sizes[d] * job_.samples.position_strides[d];
            single -= job_.position_sizes[d] * job_.single.position_strides[d];
            index_[d] = 0;
        }
    }

    int64_t samples = 0, single = 0;

  private:
    const DisagreementJob& job_;
    int64_t index_[max_position_dims] = {};
};

}  // namespace

int64_t disagreement(const DisagreementJob& job, int threads) {
    int64_t total = 1;
    for (int d = 0; d < job.position_dims; ++d) total *= job.position_sizes[d];
    const int64_t positions = tile_positions(job.num_classes);
    const int64_t per_task = std::max<int64_t>(positions, 2048);
    const int64_t tasks = (total + per_task - 1) / per_task;
    const TileFunction run_tile = tile_function();
    const double entropy_limit = log_rounded_down(job.num_classes);
    const double bald_limit = log_rounded_down(std::min(job.num_classes, job.num_samples));
    std::atomic<int64_t> first_bad{total};

    ThreadPool pool(static_cast<int>(std::min<int64_t>(threads, tasks)));
    pool.parallel_for(tasks, [&](int64_t task) {
        const int64_t begin = task * per_task, end = std::min(total, begin + per_task);
        std::unique_ptr<int64_t[]> offsets(new int64_t[2 * positions]);
        std::unique_ptr<double[]> memory(new double[disagreement_scratch(job, positions) + 8]);
        const uintptr_t address = reinterpret_cast<uintptr_t>(memory.get());
        double* scratch = reinterpret_cast<double*>((address + 63) / 64 * 64);
        Walk walk(job, begin);
        for (int64_t first = begin; first < end; first += positions) {
            const int64_t count = std::min(positions, end - first);
            for (int64_t i = 0; i < count; ++i, walk.next()) {
                offsets[i] = walk.samples;
                offsets[positions + i] = walk.single;
            }
            const int64_t bad = run_tile({&job, offsets.get(), offsets.get() + positions, first, count, positions,
                                          entropy_limit, bald_limit, scratch});
            if (bad < 0) continue;
            int64_t seen = first_bad.load();
            while (first + bad < seen && !first_bad.compare_exchange_weak(seen, first + bad)) {
            }
        }
    });
    return first_bad.load() < total ? first_bad.load() : -1;
}

}  // namespace difal
