// Entropy, BALD and their relatives of K predictions over C classes at P positions, in one pass over the input.
#pragma once

#include <cstdint>

namespace difal {

enum class Input : int { logits, log_probs, probs };
enum class Scalar : int { f32, f64, f16, bf16 };
// In the order of SCORES in difal_kernels/ops/disagreement/problem.py. combined: entropy + weight * bald;
// released_edald needs `single`.
enum Score : int {
    entropy,
    bald,
    expected_entropy,
    margin,
    least_confidence,
    variation_ratio,
    combined,
    balentacq,
    released_edald,
    score_count
};
constexpr int gpu_score_count = balentacq;  // csrc/cuda has those before it

constexpr int max_position_dims = 16;
constexpr int max_tile_positions = 64;

// One array of predictions. Strides are in elements.
struct Predictions {
    const void* data = nullptr;  // null: there is no such array
    Scalar type = Scalar::f32;
    int64_t sample_stride = 0, class_stride = 0;
    int64_t position_strides[max_position_dims] = {};
    double sum_tolerance = 0;  // how far the probabilities of a row may be from summing to one
};

struct DisagreementJob {
    Predictions samples, single;
    Input input = Input::logits;
    bool check_finite = true;
    double weight = 1;
    int64_t num_samples = 0, num_classes = 0;
    int position_dims = 0;
    int64_t position_sizes[max_position_dims] = {};
    float* scores[score_count] = {};  // (P,) each, in row-major order of the positions; null: not wanted
};

// Fills job.scores. Returns the first position whose input is invalid (see the .inl), or -1.
int64_t disagreement(const DisagreementJob& job, int threads);

// What an instruction set's file provides: `count` <= tile positions, whose elements begin at samples.data +
// sample_offsets[i] and single.data + single_offsets[i], to scores[.][first + i]. Returns the first invalid i
// or -1.
struct DisagreementTile {
    const DisagreementJob* job;
    const int64_t *sample_offsets, *single_offsets;
    int64_t first, count, positions;   // positions: the tile's full size, a multiple of 8
    double entropy_limit, bald_limit;  // the largest float32 that is no more than ln C, ln min(C, K)
    double* scratch;                   // 64-byte aligned, disagreement_scratch() doubles
};
int64_t disagreement_generic(const DisagreementTile& tile);
int64_t disagreement_avx2(const DisagreementTile& tile);
int64_t disagreement_avx512(const DisagreementTile& tile);

inline int64_t disagreement_scratch(const DisagreementJob& job, int64_t positions) {
    const int64_t votes = job.scores[variation_ratio] != nullptr ? job.num_samples : 0;
    const int64_t blocks = 2 + (job.scores[balentacq] != nullptr) + (job.scores[released_edald] != nullptr);
    return positions * (blocks * job.num_classes + votes);
}

}  // namespace difal
