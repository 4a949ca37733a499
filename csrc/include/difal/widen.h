// Reads any of the four float types as float64. `static` for the reason given in half.h.
#pragma once

#include "difal/half.h"

namespace difal {

struct HalfFloat {
    uint16_t bits;
};
struct BrainFloat {
    uint16_t bits;
};

DIFAL_EACH_SIDE static inline double widen(HalfFloat v) {
    return float_of_f16(v.bits);
}
DIFAL_EACH_SIDE static inline double widen(BrainFloat v) {
    return float_of_bf16(v.bits);
}
DIFAL_EACH_SIDE static inline double widen(float v) {
    return v;
}
DIFAL_EACH_SIDE static inline double widen(double v) {
    return v;
}

}  // namespace difal
