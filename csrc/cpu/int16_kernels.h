// The inner loops of int16_rows.cpp, one table for processors with VNNI and one for all others.
#pragma once

#include <cstdint>

namespace difal {

struct Int16Kernels {
    // Of n numbers, a multiple of kInt16Group: the largest magnitude, and the largest squared norm of a group. NaN if
    // any number is.
    void (*measure)(const float* a, int64_t n, float* largest, float* group);

    // q = round(a / step).
    void (*quantize)(const float* a, int64_t n, float step, int16_t* q);

    // |q step - a|^2 for that q, and |a|^2 in *squared.
    double (*rounding)(const float* a, int64_t n, float step, double* squared);

    // multiply_int16_rows.
    void (*multiply)(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t pairs, float* out,
                     int64_t stride);
};

extern const Int16Kernels kInt16Generic;
extern const Int16Kernels kInt16Vnni;  // the generic code again where the target is not x86

}  // namespace difal
