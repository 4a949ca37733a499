// Rows of features on their way into a GEMM: float32, centred, in units of the bandwidth, or of norm 1 for the cosine.
#pragma once

#include <cstdint>

namespace difal {

struct RowsJob {
    const void* features = nullptr;  // (rows, dimension) contiguous
    bool is_double = false;          // features and center: float64, else float32
    int64_t rows = 0;
    int64_t dimension = 0;
    const void* center = nullptr;  // (dimension,); null: each row is divided by its norm instead, zero rows stay zero
    double bandwidth = 1;          // divides what is left after `center` was taken off; unused without a center
    float* out = nullptr;          // (rows, dimension) contiguous
    float* sq_norms = nullptr;     // (rows,) squared norms of out, the s_i of ErrorModel; 0 without a center; or null
};

void prepare_rows(const RowsJob& job);

}  // namespace difal
