#include "difal/int16_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "difal/coverage_kernels.h"
#include "difal/isa.h"
#include "int16_kernels.h"

namespace difal {
namespace {

constexpr float kMost = 32767.0f;
// Of q over a group, rounded: rounding adds sqrt(32) / 2 to the norm, and 46340^2 < 2^31.
constexpr float kMostGroup = 46336.0f;
constexpr float kSmallest = 1e-30f, kLargest = 1e30f;  // squared norms of groups

const Int16Kernels& int16_kernels() {
    return has_vnni() ? kInt16Vnni : kInt16Generic;
}

int64_t padded(int64_t dimension) {
    return (dimension + kInt16Group - 1) / kInt16Group * kInt16Group;
}

}  // namespace

bool has_fast_int16() {
    return has_vnni();
}

double prepare_int16_rows(const RowsJob& job, int32_t* out) {
    const Int16Kernels& kernels = int16_kernels();
    const int64_t d = job.dimension, numbers = padded(d), pairs = numbers / 2;
    const int64_t bytes = d * (job.is_double ? sizeof(double) : sizeof(float));
    std::vector<float> row(numbers);
    std::vector<int32_t> q(kInt16Rows * pairs);
    double worst = 0;
    for (int64_t begin = 0; begin < job.rows; begin += kInt16Rows) {
        float steps[kInt16Rows] = {};
        const int64_t count = std::min(kInt16Rows, job.rows - begin);
        for (int64_t r = 0; r < count; ++r) {
            RowsJob one = job;
            one.features = static_cast<const char*>(job.features) + (begin + r) * bytes;
            one.rows = 1;
            one.out = row.data();
            one.scale = job.scale ? job.scale + begin + r : nullptr;
            prepare_rows(one);
            float largest, group;
            kernels.measure(row.data(), numbers, &largest, &group);
            int16_t* numbers_out = reinterpret_cast<int16_t*>(q.data() + r * pairs);
            if (largest == 0) {
                std::fill_n(q.data() + r * pairs, pairs, 0);
            } else if (kSmallest < group && group < kLargest) {
                steps[r] = 1.00001f * std::max(largest / kMost, std::sqrt(group) / kMostGroup);
                double squared;
                const double error = kernels.quantize(row.data(), numbers, steps[r], numbers_out, &squared);
                worst = std::max(worst, 1.000001 * std::sqrt(error / squared));
            } else {
                std::fill_n(q.data() + r * pairs, pairs, 0);
                worst = std::numeric_limits<double>::infinity();
            }
        }
        if (!out) continue;
        std::fill(q.begin() + count * pairs, q.end(), 0);
        int32_t* block = out + begin / kInt16Rows * int16_block_size(d);
        coverage_kernels().transpose(reinterpret_cast<const float*>(q.data()), pairs, kInt16Rows, pairs,
                                     reinterpret_cast<float*>(block), kInt16Rows);
        std::memcpy(block + pairs * kInt16Rows, steps, sizeof steps);
    }
    return worst;
}

void multiply_int16_rows(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t dimension,
                         float* out, int64_t stride) {
    int16_kernels().multiply(a, a_rows, b, b_rows, padded(dimension) / 2, out, stride);
}

}  // namespace difal
