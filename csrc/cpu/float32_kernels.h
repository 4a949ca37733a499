// The inner loops of distance_bounds.cpp, one table per instruction set (see difal/isa.h).
#pragma once

#include <cstdint>

namespace difal {

struct Float32Kernels {
    // out[i * stride + j] = the inner product of row i of a and row j of b. Rows lie in blocks of 16, which begin at
    // multiples of 64 bytes: the first number of all rows of a block, then the second, and so on.
    void (*multiply)(const float* a, int64_t a_rows, const float* b, int64_t b_rows, int64_t dimension, float* out,
                     int64_t stride);

    // The least of share * s[j] - 2 * g[j], for n > 0 numbers.
    float (*least)(const float* g, const float* s, int64_t n, float share);

    // Writes the j where that is below `reach`, ascending; returns how many.
    int64_t (*below)(const float* g, const float* s, int64_t n, float share, float reach, int32_t* found);
};

extern const Float32Kernels kFloat32Generic;
extern const Float32Kernels kFloat32Avx2;  // the generic code again where the target is not x86
extern const Float32Kernels kFloat32Avx512;

const Float32Kernels& float32_kernels();

}  // namespace difal
