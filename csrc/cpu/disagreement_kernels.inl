// One tile of places, compiled once per instruction set (see difal/isa.h). Lanes are places.
//
// All arithmetic is in double. exp and ln are polynomials good to 4e-11 (exp, relative) and 2e-11 (ln,
// absolute), so a probability p carries a relative error of at most 1e-10 and an entropy, whose derivative
// along a relative change d_c of p_c is -sum_c p_c d_c (ln p_c + H), one below 2e-10 (H + 1). That is less
// than 2e-9 for any C in use, so rounding the answer to float32 (half an ulp of 6.24 = ln 512 is 2.4e-7) is
// the error that is left.
//
// A row is one prediction: the C numbers of one sample at one place. With x its logits (or
// log-probabilities),
//     e_c = exp(x_c - max x),  Z = sum e,  T = sum e_c (x_c - max x),  H = ln Z - T / Z,  p_c = e_c / Z;
// with x its probabilities, e = x and T = sum x_c ln x_c: the same formulas divide out a sum that is nearly
// one.
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

// exp(x) for x <= 0: 2^n times a minimax polynomial on |r| <= ln(2) / 2. NaN stays NaN.
inline Vd exp_negative(Vd x) {
    x = x < lowest_log ? splat(lowest_log) : x;
    const Vd shifted = x * 1.4426950408889634 + shifter;
    const Vd r = x - (shifted - shifter) * 0.6931471805599453;
    Vd y = r * 0.00019775163755429842 + 0.0013948183614540877;
    y = y * r + 0.0083335611089041944;
    y = y * r + 0.041666225421174798;
    y = y * r + 0.16666665126010685;
    y = y * r + 0.50000001045378151;
    y = y * r + 1.0000000002431193;
    y = y * r + 0.99999999996167976;
    return (Vd)((Vi)y + ((Vi)shifted << 52));
}

// ln(x) for x >= smallest: the exponent, and 2 artanh((m - 1) / (m + 1)) of the mantissa m in [sqrt(1/2),
// sqrt(2)).
inline Vd ln(Vd x) {
    constexpr int64_t one = 0x3ff0000000000000, sqrt_half = 0x3fe6a09e667f3bcd;
    const Vi bits = (Vi)x + (one - sqrt_half);
    const Vd exponent = (Vd)((bits >> 52) + (Vi)(splat(shifter))) - (shifter + 1023);
    const Vd m = (Vd)((bits & 0x000fffffffffffff) + sqrt_half);
    const Vd s = (m - 1) / (m + 1), q = s * s;
    Vd y = q * (2.0 / 11) + 2.0 / 9;
    y = y * q + 2.0 / 7;
    y = y * q + 2.0 / 5;
    y = y * q + 2.0 / 3;
    y = y * q + 2.0;
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

// Reads one sample of the tile into `block`: W places side by side, then the classes, then the next W places.
// The C streams are too many and too far apart for the processor's own prefetching, so what is read next,
// `ahead` elements further, is asked for here.
template <class Element>
void read_as(const Predictions& from, int64_t sample, int64_t C, const int64_t* offsets, int64_t count, int64_t places,
             int64_t ahead, double* block) {
    const auto* data = static_cast<const typename Element::Type*>(from.data) + sample * from.sample_stride;
    const int64_t stride = from.class_stride;
    bool contiguous = count == places;
    for (int64_t i = 1; i < count; ++i) contiguous &= offsets[i] == offsets[0] + i;
    if (contiguous) {
        for (int64_t c = 0; c < C; ++c) {
            const auto* row = data + offsets[0] + c * stride;
            const uintptr_t next = reinterpret_cast<uintptr_t>(row) + ahead * sizeof *row;
            for (uintptr_t line = 0; line < places * sizeof *row; line += 64) {
                __builtin_prefetch(reinterpret_cast<const void*>(next + line));
            }
            for (int64_t b = 0; b < places / W; ++b) {
                const Vd x = Element::wide(row + b * W);
                __builtin_memcpy(block + (b * C + c) * W, &x, sizeof x);
            }
        }
        return;
    }
    for (int64_t i = 0; i < (count + W - 1) / W * W; ++i) {
        double* to = block + i / W * C * W + i % W;
        if (i < count) {
            const auto* row = data + offsets[i];
            for (int64_t c = 0; c < C; ++c) to[c * W] = Element::one(row + c * stride);
        } else {  // a lane that no one looks at
            for (int64_t c = 0; c < C; ++c) to[c * W] = 0;
        }
    }
}

void read(const Predictions& from, int64_t sample, int64_t C, const int64_t* offsets, int64_t count, int64_t places,
          int64_t ahead, double* block) {
    switch (from.type) {
        case Scalar::f32:
            return read_as<F32>(from, sample, C, offsets, count, places, ahead, block);
        case Scalar::f64:
            return read_as<F64>(from, sample, C, offsets, count, places, ahead, block);
        case Scalar::f16:
            return read_as<F16>(from, sample, C, offsets, count, places, ahead, block);
        case Scalar::bf16:
            return read_as<Bf16>(from, sample, C, offsets, count, places, ahead, block);
    }
}

// What is known of W rows: the entropy, the factor that makes probabilities of e, the two largest
// probabilities.
struct Rows {
    Vd entropy, scale, top, second, argmax;
    Vi bad;
};

// The two largest of x_0 .. x_c and the first index of the largest.
inline void rank(Vd x, int64_t c, Rows& rows) {
    rows.second = max(min(x, rows.top), rows.second);
    rows.argmax = x > rows.top ? splat(static_cast<double>(c)) : rows.argmax;
    rows.top = max(x, rows.top);
}

inline Rows unranked() {
    return {Vd{}, Vd{}, splat(-infinity), splat(-infinity), Vd{}, Vi{}};
}

// Turns W rows x of `block` into e in place. `ranks`: second and argmax are wanted.
template <bool ranks>
Rows exponentiate(Vd* x, int64_t C, Input input, double tolerance) {
    Rows rows = unranked();
    for (int64_t c = 0; c < C; ++c) {
        if (ranks)
            rank(x[c], c, rows);
        else
            rows.top = max(x[c], rows.top);
    }
    Vd Z = {}, T = {};
    for (int64_t c = 0; c < C; ++c) {
        Vd d = x[c] - rows.top;
        d = d < lowest_log ? splat(lowest_log) : d;
        x[c] = exp_negative(d);
        Z += x[c];
        T += x[c] * d;
    }
    const Vd log_Z = ln(Z);
    rows.entropy = log_Z - T / Z;
    rows.scale = 1 / Z;
    if (input == Input::log_probs) {
        const Vd log_sum = rows.top + log_Z;
        rows.bad = (log_sum > tolerance) | (log_sum < -tolerance);
    }
    if (ranks) rows.second = exp_negative(rows.second - rows.top) * rows.scale;
    rows.top = rows.scale;
    return rows;
}

// The same for W rows that are probabilities already.
template <bool ranks>
Rows accumulate(const Vd* x, int64_t C, double tolerance) {
    Rows rows = unranked();
    Vd Z = {}, T = {}, lowest = {};
    for (int64_t c = 0; c < C; ++c) {
        if (ranks) rank(x[c], c, rows);
        lowest = min(x[c], lowest);
        Z += x[c];
        T += x[c] * ln(max(x[c], splat(smallest)));
    }
    rows.entropy = ln(Z) - T / Z;
    rows.scale = 1 / Z;
    rows.bad = (lowest < 0) | (Z > 1 + tolerance) | (Z < 1 - tolerance);
    rows.top *= rows.scale;
    rows.second *= rows.scale;
    return rows;
}

Rows summarise(double* block, int64_t C, const DisagreementJob& job, double tolerance, bool ranks) {
    Vd* x = reinterpret_cast<Vd*>(block);
    Rows rows;
    if (job.input == Input::probs)
        rows = ranks ? accumulate<true>(x, C, tolerance) : accumulate<false>(x, C, tolerance);
    else
        rows = ranks ? exponentiate<true>(x, C, job.input, tolerance) : exponentiate<false>(x, C, job.input, tolerance);
    if (job.check_finite) rows.bad |= rows.entropy != rows.entropy;  // any NaN, +inf or all -inf ends up there
    return rows;
}

// Entropy and ranks of the mean of the samples, from the sum of their probabilities; `share` is 1 / K.
Rows summarise_mean(const double* sums, int64_t C, double share) {
    const Vd* x = reinterpret_cast<const Vd*>(sums);
    Rows rows = unranked();
    for (int64_t c = 0; c < C; ++c) {
        const Vd m = x[c] * share;
        rows.entropy -= m * ln(max(m, splat(smallest)));
        rank(m, c, rows);
    }
    return rows;
}

// 1 - the share of samples that vote for the favourite class.
Vd variation(const double* votes, int64_t K) {
    const Vd* vote = reinterpret_cast<const Vd*>(votes);
    Vi most = {};
    for (int64_t j = 0; j < K; ++j) {
        Vi equal = {};
        for (int64_t k = 0; k < K; ++k) equal -= vote[k] == vote[j];
        most = equal > most ? equal : most;
    }
    return 1 - __builtin_convertvector(most, Vd) / static_cast<double>(K);
}

// Keeps NaN.
inline Vd clamp(Vd x, double limit) {
    x = x < 0 ? Vd{} : x;
    return x > limit ? splat(limit) : x;
}

void store(float* scores, int64_t first, int64_t count, Vd values) {
    if (scores == nullptr) return;
    const Vf narrow = __builtin_convertvector(values, Vf);
    __builtin_memcpy(scores + first, &narrow, (count < W ? count : W) * sizeof(float));
}

}  // namespace

int64_t DIFAL_DISAGREEMENT(const DisagreementTile& tile) {
    const DisagreementJob& job = *tile.job;
    const int64_t K = job.num_samples, C = job.num_classes, columns = (tile.count + W - 1) / W;
    const bool has_single = job.single.data != nullptr;
    const bool wants_ranks = job.scores[margin] != nullptr || job.scores[least_confidence] != nullptr;
    const bool wants_votes = job.scores[variation_ratio] != nullptr;
    const bool wants_mean = K > 1 && (job.scores[bald] != nullptr || job.scores[combined] != nullptr ||
                                      (!has_single && (wants_ranks || job.scores[entropy] != nullptr)));
    double* block = tile.scratch;
    double* sums = block + tile.places * C;
    double* votes = sums + tile.places * C;
    Vd sum_entropy[max_tile_places / W];
    Rows prediction[max_tile_places / W];  // of `single` if there is one, else of the mean
    Vi bad[max_tile_places / W] = {};

    for (int64_t k = 0; k < K; ++k) {
        const int64_t stride = job.samples.sample_stride, ahead = k + 1 < K ? stride : tile.places - k * stride;
        read(job.samples, k, C, tile.sample_offsets, tile.count, tile.places, ahead, block);
        for (int64_t b = 0; b < columns; ++b) {
            const Rows rows = summarise(block + b * C * W, C, job, job.samples.sum_tolerance,
                                        wants_votes || (K == 1 && wants_ranks && !has_single));
            sum_entropy[b] = k == 0 ? rows.entropy : sum_entropy[b] + rows.entropy;
            bad[b] |= rows.bad;
            if (wants_votes) __builtin_memcpy(votes + (b * K + k) * W, &rows.argmax, sizeof(Vd));
            prediction[b] = rows;  // the prediction itself where K is 1
            if (!wants_mean) continue;
            const Vd* e = reinterpret_cast<const Vd*>(block + b * C * W);
            Vd* sum = reinterpret_cast<Vd*>(sums + b * C * W);
            if (k == 0) {
                for (int64_t c = 0; c < C; ++c) sum[c] = e[c] * rows.scale;
            } else {
                for (int64_t c = 0; c < C; ++c) sum[c] += e[c] * rows.scale;
            }
        }
    }
    if (has_single) {
        read(job.single, 0, C, tile.single_offsets, tile.count, tile.places, tile.places, block);
        for (int64_t b = 0; b < columns; ++b) {
            prediction[b] = summarise(block + b * C * W, C, job, job.single.sum_tolerance, wants_ranks);
            bad[b] |= prediction[b].bad;
        }
    }
    for (int64_t b = 0; b < columns; ++b) {
        const int64_t first = tile.first + b * W, left = tile.count - b * W;
        const Vd expected = sum_entropy[b] / static_cast<double>(K);
        Vd information = expected - expected;  // 0, or NaN where the input has one
        if (wants_mean) {
            const Rows mean = summarise_mean(sums + b * C * W, C, 1.0 / static_cast<double>(K));
            information = mean.entropy - expected;
            if (!has_single) prediction[b] = mean;
        }
        const Rows& q = prediction[b];
        const Vd q_nan = q.entropy - q.entropy, samples_nan = expected - expected;  // 0 or NaN
        const Vd uncertainty = clamp(q.entropy, tile.entropy_limit);
        information = clamp(information, tile.bald_limit);
        store(job.scores[entropy], first, left, uncertainty);
        store(job.scores[bald], first, left, information);
        store(job.scores[combined], first, left, uncertainty + job.weight * information);
        store(job.scores[expected_entropy], first, left, clamp(expected, tile.entropy_limit));
        store(job.scores[margin], first, left, clamp(1 - (q.top - max(q.second, Vd{})) + q_nan, 1));
        store(job.scores[least_confidence], first, left, clamp(1 - q.top + q_nan, 1));
        if (wants_votes) {
            store(job.scores[variation_ratio], first, left, variation(votes + b * K * W, K) + samples_nan);
        }
    }
    for (int64_t i = 0; i < tile.count; ++i) {
        if (bad[i / W][i % W] != 0) return i;
    }
    return -1;
}

}  // namespace difal
