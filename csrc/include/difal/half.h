// float16 and bfloat16 to float32 and back, rounding to nearest even, in integer arithmetic that vectorises
// on every instruction set. `static`, so that each file keeps the copy compiled with its own flags (see
// isa.h).
#pragma once

#include <cstdint>

#include "difal/each_side.h"

namespace difal {

DIFAL_EACH_SIDE static inline float float_of_bits(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

DIFAL_EACH_SIDE static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return bits;
}

DIFAL_EACH_SIDE static inline float float_of_bf16(uint16_t b) {
    return float_of_bits(static_cast<uint32_t>(b) << 16);
}

DIFAL_EACH_SIDE static inline uint16_t bf16_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(value == value ? rounded : (bits >> 16) | 0x40u);
}

DIFAL_EACH_SIDE static inline float float_of_f16(uint16_t h) {
    const uint32_t magnitude = h & 0x7fffu;
    const uint32_t shifted = (magnitude << 13) + (112u << 23);  // exponent bias 15 -> 127
    const float normal = float_of_bits(magnitude >= 0x7c00u ? shifted + (112u << 23) : shifted);
    const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
    const float value = magnitude < 0x400u ? subnormal : normal;
    return float_of_bits(bits_of_float(value) | (static_cast<uint32_t>(h & 0x8000u) << 16));
}

DIFAL_EACH_SIDE static inline uint16_t f16_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
    const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return static_cast<uint16_t>((magnitude >= 0x477ff000u ? special : finite) | ((bits >> 16) & 0x8000u));
}

}  // namespace difal
