// Disagreement and hypercolumns on a GPU. Addresses in the jobs are device memory.
#pragma once

#include <cstdint>

#include "difal/cuda_queue.h"
#include "difal/disagreement.h"
#include "difal/hypercolumns.h"

namespace difal {
namespace cuda {

// The limits of scores: the largest float32 that is no more than ln C, and ln min(C, K).
struct ScoreLimits {
    double entropy, bald;
};

// Whether the scores of a job can be computed here: its classes and samples must fit in shared memory.
bool disagreement_fits(int64_t num_samples, int64_t num_classes, bool votes);

// Fills job.scores; `samples` and `single` are of one type. *first_bad, set to -1 (the largest number) by the caller,
// becomes the first position whose input is invalid.
void disagreement(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, unsigned long long* first_bad);

constexpr int kMaxMaps = 24;

// `job.maps` is host memory, at most kMaxMaps.
void hypercolumns(Queue queue, const HypercolumnJob& job);

}  // namespace cuda
}  // namespace difal
