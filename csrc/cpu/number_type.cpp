#include "difal/number_type.h"

#include <stdexcept>

#include "difal/half.h"

namespace difal {

void widen_row(const void* row, NumberType type, int64_t count, float* out) {
    const auto each = [&](const auto* x, auto widened) {
        for (int64_t c = 0; c < count; ++c) out[c] = widened(x[c]);
    };
    switch (type) {
        case NumberType::f16:
            return each(static_cast<const uint16_t*>(row), [](uint16_t x) { return float_of_f16(x); });
        case NumberType::bf16:
            return each(static_cast<const uint16_t*>(row), [](uint16_t x) { return float_of_bf16(x); });
        case NumberType::i8:
            return each(static_cast<const int8_t*>(row), [](int8_t x) { return static_cast<float>(x); });
        case NumberType::u8:
            return each(static_cast<const uint8_t*>(row), [](uint8_t x) { return static_cast<float>(x); });
        default:
            throw std::logic_error("widen_row: the type is not narrow");
    }
}

}  // namespace difal
