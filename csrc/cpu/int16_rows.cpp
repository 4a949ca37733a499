#include "difal/int16_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "difal/coverage_kernels.h"
#include "difal/isa.h"
#include "int16_kernels.h"
#include "int16_tiles.h"

namespace difal {
namespace {

constexpr float kMaxEntry = 32767.0f;
// Of q over a group, rounded: rounding adds sqrt(32) / 2 to the norm, and 46340^2 < 2^31.
constexpr float kMaxGroup = 46336.0f;
// Squared norms of groups; the product of two steps, kSmallest / kMaxGroup^2 at least, must be a normal float32.
constexpr float kSmallest = 1e-28f, kLargest = 1e30f, kSmallestStep = 1.1e-19f;
constexpr int64_t kMinTileDimension = 64;  // shorter rows leave tiles mostly empty

const Int16Kernels& int16_kernels() {
    return has_vnni() ? kInt16Vnni : kInt16Generic;
}

const Int16TileKernels& tile_kernels() {
    return has_amx() ? kInt16TilesAmx : kInt16TilesGeneric;
}

int64_t padded(int64_t dimension) {
    const int64_t multiple = int16_in_tiles(dimension) ? kTileNumbers : kInt16Group;
    return (dimension + multiple - 1) / multiple * multiple;
}

// One row of the job as float32; `row` is longer, and what is beyond the row stays as it is.
void prepare_row(const RowsJob& job, int64_t r, float* row) {
    RowsJob one = job;
    one.features = static_cast<const char*>(job.features) +
                   r * job.dimension * static_cast<int64_t>(job.is_double ? sizeof(double) : sizeof(float));
    one.rows = 1;
    one.out = row;
    one.sq_norms = job.sq_norms ? job.sq_norms + r : nullptr;
    prepare_rows(one);
}

// out[c * 16 + r] = word c of row r, for 16 contiguous rows of `words` 32-bit words.
void turn_words(const void* rows, int64_t words, int32_t* out) {
    coverage_kernels().float32.transpose(static_cast<const float*>(rows), words, kInt16Rows, words,
                                         reinterpret_cast<float*>(out), kInt16Rows);
}

// The step of a row; 0 for a row of zeros, negative where its norm is beyond float32.
float step_of(const float* row, int64_t numbers, bool is_for_tiles) {
    float largest, group;
    int16_kernels().measure(row, numbers, &largest, &group);
    if (largest == 0) return 0;
    if (!(kSmallest < group && group < kLargest)) return -1;
    const float step = 1.00001f * std::max(largest / kMaxEntry, is_for_tiles ? 0.0f : std::sqrt(group) / kMaxGroup);
    return step < kSmallestStep ? -1 : step;
}

// How far rounding to that step moves the row, relative to its norm.
double rounding_of(const float* row, int64_t numbers, float step) {
    if (step < 0) return std::numeric_limits<double>::infinity();
    if (step == 0) return 0;
    double squared;
    const double error = int16_kernels().rounding(row, numbers, step, &squared);
    // Compiled once more by itself, the same arithmetic may round what lies half-way between two integers, within
    // 2^-8 of a step, to the other one.
    return 1.02 * std::sqrt(error / squared);
}

}  // namespace

bool int16_in_tiles(int64_t dimension) {
    return (has_amx() || models_tiles()) && kMinTileDimension <= dimension && dimension <= kMaxTileNumbers;
}

int64_t int16_block_size(int64_t dimension) {
    return kInt16Rows * (padded(dimension) / 2 + 1);
}

int64_t int16_roundings(int64_t dimension) {
    return int16_in_tiles(dimension) ? 2 : padded(dimension) / kInt16Group;
}

double int16_rounding(const RowsJob& job) {
    const int64_t numbers = padded(job.dimension);
    std::vector<float> row(numbers);
    double worst = 0;
    for (int64_t r = 0; r < job.rows; ++r) {
        prepare_row(job, r, row.data());
        worst = std::max(worst,
                         rounding_of(row.data(), numbers, step_of(row.data(), numbers, int16_in_tiles(job.dimension))));
    }
    return worst;
}

void prepare_int16_rows(const RowsJob& job, int32_t* out, double* rounding) {
    const int64_t numbers = padded(job.dimension), pairs = numbers / 2;
    std::vector<float> row(numbers);
    std::vector<int16_t> q(kInt16Rows * numbers);
    const bool is_for_tiles = int16_in_tiles(job.dimension);
    std::vector<uint8_t> bytes(is_for_tiles ? 2 * kInt16Rows * numbers : 0);
    uint8_t *hi = bytes.data(), *lo = hi + bytes.size() / 2;
    for (int64_t begin = 0; begin < job.rows; begin += kInt16Rows, out += int16_block_size(job.dimension)) {
        float steps[kInt16Rows] = {};
        for (int64_t r = 0; r < kInt16Rows; ++r) {
            int16_t* own = q.data() + r * numbers;
            if (begin + r < job.rows) {
                prepare_row(job, begin + r, row.data());
                const float step = step_of(row.data(), numbers, int16_in_tiles(job.dimension));
                if (rounding) rounding[begin + r] = rounding_of(row.data(), numbers, step);
                steps[r] = std::max(step, 0.0f);
            }
            if (steps[r] > 0) {
                int16_kernels().quantize(row.data(), numbers, steps[r], own);
            } else {
                std::fill_n(own, numbers, int16_t{0});
            }
        }
        if (is_for_tiles) {
            for (int64_t r = 0; r < kInt16Rows; ++r) {
                tile_kernels().split(q.data() + r * numbers, numbers, hi + r * numbers, lo + r * numbers);
            }
            turn_words(hi, numbers / 4, out);
            turn_words(lo, numbers / 4, out + numbers / 4 * kInt16Rows);
        } else {
            turn_words(q.data(), pairs, out);
        }
        std::memcpy(out + pairs * kInt16Rows, steps, sizeof steps);
    }
}

void multiply_int16_rows(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t dimension,
                         float* out, int64_t stride) {
    if (int16_in_tiles(dimension)) {
        tile_kernels().multiply(a, a_rows, b, b_rows, padded(dimension), out, stride);
    } else {
        int16_kernels().multiply(a, a_rows, b, b_rows, padded(dimension) / 2, out, stride);
    }
}

}  // namespace difal
