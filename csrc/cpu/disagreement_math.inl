// Doubles by the lane: exp, ln, and reading elements of any type. Part of disagreement_kernels.inl.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "difal/disagreement.h"

namespace difal {
namespace {

#if defined(__AVX512F__)
constexpr int W = 8;
#elif defined(__AVX2__)
constexpr int W = 4;
#else
constexpr int W = 2;
#endif

typedef double Vd __attribute__((vector_size(W * 8)));
typedef int64_t Vi __attribute__((vector_size(W * 8)));
typedef float Vf __attribute__((vector_size(W * 4)));

constexpr double infinity = __builtin_inf();
constexpr double lowest_log = -690.0;  // exp of it is 1e-300: added to a sum it is nothing, and it is no denormal
constexpr double smallest = 1e-300;    // stands for 0 under ln; 0 ln 0 comes out as 0
constexpr double shifter = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the integer in the low bits

template <class T>
inline T load(const void* from) {
    T value;
    __builtin_memcpy(&value, from, sizeof(T));
    return value;
}

inline Vd splat(double value) {
    return value - Vd{};
}
inline Vd max(Vd a, Vd b) {
    return a > b ? a : b;
}  // b where a is NaN
inline Vd min(Vd a, Vd b) {
    return a < b ? a : b;
}

constexpr double minimax[] = {0.99999999996167976,   1.0000000002431193,    0.50000001045378151,
                              0.16666665126010685,   0.041666225421174798,  0.0083335611089041944,
                              0.0013948183614540877, 0.00019775163755429842};
constexpr double taylor[] = {1,         1,          1. / 2,      1. / 6,       1. / 24,       1. / 120,      1. / 720,
                             1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600};

// exp(x) for lowest_log <= x <= 0: 2^n times a polynomial on |r| <= ln(2) / 2, good to 4e-11 or, if `exact`, to the
// last places of a double. NaN stays NaN.
template <bool exact = false>
inline Vd exp_negative(Vd x) {
    constexpr int degree = exact ? 12 : 7;
    constexpr const double* polynomial = exact ? taylor : minimax;
    const Vd shifted = x * 1.4426950408889634 + shifter;
    const Vd r = x - (shifted - shifter) * 0.6931471805599453;
    Vd y = splat(polynomial[degree]);
    for (int i = degree - 1; i >= 0; --i) y = y * r + polynomial[i];
    return (Vd)((Vi)y + ((Vi)shifted << 52));
}

// ln(x) for x >= smallest: the exponent, and 2 artanh((m - 1) / (m + 1)) of the mantissa m in [sqrt(1/2),
// sqrt(2)). Good to 2e-11 or, if `exact`, to the last places of a double.
template <bool exact = false>
inline Vd ln(Vd x) {
    constexpr int64_t one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd;
    const Vi bits = (Vi)x + (one - sqrt_half);
    const Vd exponent = (Vd)((bits >> 52) + (Vi)(splat(shifter))) - (shifter + 1023);
    const Vd m = (Vd)((bits & 0x000fffffffffffff) + sqrt_half);
    const Vd s = (m - 1) / (m + 1), q = s * s;
    constexpr int last = exact ? 19 : 11;
    Vd y = splat(2.0 / last);
    for (int odd = last - 2; odd > 0; odd -= 2) y = y * q + 2.0 / odd;
    const Vd result = exponent * 0.6931471805599453 + s * y;
    return x == x ? result : x;  // the bits of a NaN are no number
}

// Elements of each type as doubles: W that lie side by side, and one. Halves are widened as integers.
#if defined(__AVX512F__)
inline __m128i load_halves(const uint16_t* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline Vf wide_bfloat(const uint16_t* p) {
    return (Vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p)), 16);
}
inline Vf wide_half(const uint16_t* p) {
    return (Vf)_mm256_cvtph_ps(load_halves(p));
}
#elif defined(__AVX2__)
inline __m128i load_halves(const uint16_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
}
inline Vf wide_bfloat(const uint16_t* p) {
    return (Vf)_mm_slli_epi32(_mm_cvtepu16_epi32(load_halves(p)), 16);
}
inline Vf wide_half(const uint16_t* p) {
    return (Vf)_mm_cvtph_ps(load_halves(p));
}
#else
inline float float_of_bits(uint32_t bits) {
    return load<float>(&bits);
}
inline float float_of_half(uint16_t half) {
    const uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
    const float scaled = float_of_bits(magnitude) * 0x1p112f;           // exact, for subnormal numbers too
    const uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000 : 0;  // infinities and NaN
    return float_of_bits(load<uint32_t>(&scaled) | special | sign);
}
inline Vf wide_bfloat(const uint16_t* p) {
    return Vf{float_of_bits(uint32_t{p[0]} << 16), float_of_bits(uint32_t{p[1]} << 16)};
}
inline Vf wide_half(const uint16_t* p) {
    return Vf{float_of_half(p[0]), float_of_half(p[1])};
}
#endif

struct F32 {
    typedef float Type;
    static Vd wide(const Type* p) { return __builtin_convertvector(load<Vf>(p), Vd); }
    static double one(const Type* p) { return *p; }
};
struct F64 {
    typedef double Type;
    static Vd wide(const Type* p) { return load<Vd>(p); }
    static double one(const Type* p) { return *p; }
};
struct F16 {
    typedef uint16_t Type;
    static Vd wide(const Type* p) { return __builtin_convertvector(wide_half(p), Vd); }
    static double one(const Type* p) {
#if defined(__AVX2__)
        return _cvtsh_ss(*p);
#else
        return float_of_half(*p);
#endif
    }
};
struct Bf16 {
    typedef uint16_t Type;
    static Vd wide(const Type* p) { return __builtin_convertvector(wide_bfloat(p), Vd); }
    static double one(const Type* p) {
        const uint32_t bits = static_cast<uint32_t>(*p) << 16;
        return load<float>(&bits);
    }
};

}  // namespace
}  // namespace difal
