// The types of number that features come in, and how narrow ones are widened.
#pragma once

#include <cstdint>

namespace difal {

// As NUMBER_TYPES in Python. Narrow types, all but the first two, are widened to float32, which holds them exactly.
enum class NumberType : int32_t { f32, f64, f16, bf16, i8, u8 };

inline bool is_narrow(NumberType type) {
    return type != NumberType::f32 && type != NumberType::f64;
}

inline int64_t size_of(NumberType type) {
    switch (type) {
        case NumberType::f64:
            return 8;
        case NumberType::f32:
            return 4;
        case NumberType::f16:
        case NumberType::bf16:
            return 2;
        default:
            return 1;
    }
}

// `count` numbers of a narrow type as float32.
void widen_row(const void* row, NumberType type, int64_t count, float* out);

}  // namespace difal
