// Entropy, BALD and their relatives in one read of the input.
//
// A position belongs to one thread where the classes are few, to a warp where they are many; of half precision, up to
// 32 classes and eight samples, a thread has two that lie side by side, where the layout allows. Each prediction is
// read once: its maximum, its exponentials and the mean over the samples are made from what the thread keeps: in
// registers up to 32 classes; in shared memory beyond, for probabilities, for float64 and where classes are ranked.
//
// exp and ln are float32, sums as good as float64. What that costs: let the probabilities' relative errors be d_c. An
// entropy computed as ln Z - sum_c e_c x_c / Z moves by sum_c p_c d_c (1 - ln p_c - H), of which the probabilities'
// own share is without the 1. Up to 32 classes |d_c| is at most 2^-22 of the instruction and half an ulp of its
// argument, and the entropy moves by less than 6e-7; beyond, exp is a polynomial within 2 ulp. A conversion to float64
// costs as much as eight float32 operations or more: so sums of float32 numbers are pairs of them, and what only some
// scores need is compiled in for those alone. Half precision leaves time for half of the instructions: so neighbours
// are first added up as float32, see `Grouped`.
#include <cstring>
#include <type_traits>

#include "difal/cuda_maps.h"
#include "difal/estimate.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr float kLowestLog = -690.0f;
constexpr float kSmallest = 1e-37f;  // stands for 0 under ln; 0 ln 0 comes out as 0
constexpr int kInRegisters = 32;     // classes up to here are kept in registers
constexpr int kFewClasses = 64;      // up to here a position is one thread's
constexpr int kFewSamples = 8;       // up to here their mean is summed in float32, beyond without what that loses
constexpr int kThreads = 128;
constexpr size_t kShared = 48 * 1024;
constexpr float kLog2E = 1.44269504f, kLog2ELess = 1.92596299e-8f;  // log2(e) is their sum
constexpr double kLn2 = 0.6931471805599453;

// How a type is kept in shared memory.
template <typename T>
struct Kept {
    using Type = float;
};
template <>
struct Kept<double> {
    using Type = double;
};

// A number in float32 twice over: the second is what the first lacks.
struct Parts {
    float high, low;
    __device__ double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};

// Adds a * b to a sum that is no smaller, and to `low` what that loses, which Dekker's two subtractions leave.
__device__ inline void add_smaller_product(float a, float b, float& high, float& low) {
    const float total = fmaf(a, b, high);
    low += fmaf(a, b, high - total);
    high = total;
}

// A sum in twice the precision of its terms where they are float32: Knuth's two-sum, whose errors are added up apart.
template <typename V>
struct Sum {
    V high = 0, low = 0;

    __device__ void add(V v) {
        const V total = high + v, part = total - high;
        low += (high - (total - part)) + (v - part);
        high = total;
    }
    // a * b, of which nothing is lost either.
    __device__ void add_product(V a, V b) {
        const V product = a * b;
        low += fmaf(a, b, -product);
        add(product);
    }
    __device__ double value() const { return static_cast<double>(high) + static_cast<double>(low); }
};
template <>
struct Sum<double> {
    double total = 0;
    __device__ void add(double v) { total += v; }
    __device__ void add_product(double a, double b) { total += a * b; }
    __device__ double value() const { return total; }
};

// The same for terms of one sign but for next to nothing, none near kBegin: a sum that begins there is never smaller
// than the next term, and so the error of an addition is what Dekker's two subtractions leave, of a * b as of a number.
template <int kBegin>
struct BoundedSum {
    float high = kBegin, low = 0;

    __device__ void add(float v) {
        const float total = high + v;
        low += v - (total - high);
        high = total;
    }
    __device__ void add_product(float a, float b) { add_smaller_product(a, b, high, low); }
    __device__ Parts parts() const { return {high - kBegin, low}; }
};

// Numbers, or products, of slots 0, 1, ...: so many neighbours are added up as float32, and then to a sum. Their
// roundings are allowed, for the additions that it saves.
template <int kTogether, int kBegin, int kSlots = 0>
struct Grouped {
    BoundedSum<kBegin> sum;
    float part = 0;

    __device__ void add(int64_t slot, float v) {
        static_assert(kTogether > 1, "the last one would be left out");
        put(slot, slot % kTogether == 0 ? v : part + v);
    }
    __device__ void add_product(int64_t slot, float a, float b) {
        if constexpr (kTogether == 1) {
            sum.add_product(a, b);
        } else {
            put(slot, slot % kTogether == 0 ? a * b : fmaf(a, b, part));
        }
    }
    __device__ void put(int64_t slot, float v) {
        part = v;
        if (slot % kTogether < kTogether - 1 || slot == kSlots - 1) return;  // the last one joins in `parts`
        sum.add(part);
        part = 0;
    }
    __device__ Parts parts() {
        if constexpr (kTogether > 1) sum.add(part);
        return sum.parts();
    }
};

// ln(x) = n ln 2 + y for normal x > 0: n whole, y within 2^-25, by a polynomial fitted to the largest error. Of 0, a
// subnormal number and NaN they are some numbers, which 0 and NaN are multiplied with.
struct LogParts {
    float n, y;
};

__device__ inline LogParts log_parts(float x) {
    const int32_t bits = int_of(x), exponent = (bits - 0x3F3504F3) >> 23;  // x / 2^n is from sqrt(1/2) to sqrt(2)
    const float n = float_of(exponent + 0x4B400000) - 12582912.0f;         // without a conversion
    const float f = float_of(bits - exponent * (1 << 23)) - 1.0f;
    float p = f * 8.672188967e-2f - 1.437900811e-1f;
    p = p * f + 1.497799307e-1f;
    p = p * f - 1.656442583e-1f;
    p = p * f + 1.995487511e-1f;
    p = p * f - 2.500169873e-1f;
    p = p * f + 3.333416581e-1f;
    p = p * f - 0.5f;
    return {n, fmaf(p * f, f, f)};
}

// What is known of one prediction. `second` and `argmax` of a ranking only; `top` is less by a factor 2^excess.
struct Row {
    double entropy = 0, top = -INFINITY, second = -INFINITY;
    Parts scale = {0, 0};
    float excess = 0;
    int32_t argmax = 0;
    bool bad = false;
};

template <int G>
__device__ inline double group_sum(double v) {
    return G == 1 ? v : warp_sum(v);
}
__device__ inline Parts parts_of(double v) {
    const float high = static_cast<float>(v);
    return {high, static_cast<float>(v - static_cast<double>(high))};
}
template <int G>
__device__ inline Parts group_sum(Parts v) {
    return G == 1 ? v : parts_of(warp_sum(v.value()));
}
template <int G>
__device__ inline double group_max(double v) {
    return G == 1 ? v : warp_max(v);
}

// The larger of two; NaN is left out, of float64 only as the first.
__device__ inline float larger_number(float a, float b) {
    return fmaxf(a, b);
}
__device__ inline double larger_number(double a, double b) {
    return a > b ? a : b;
}

// The largest value, and of a ranking its first index and the second largest.
template <typename V, bool kRanks>
struct Top {
    V top = -INFINITY, second = -INFINITY;
    int32_t argmax = 0;

    __device__ void see(V x, int64_t c) {
        if constexpr (kRanks) {
            if (x > top) {
                second = top;
                top = x;
                argmax = static_cast<int32_t>(c);
            } else if (x > second) {
                second = x;
            }
        } else {
            top = larger_number(x, top);
        }
    }
    __device__ void to(Row& row) const {
        row.top = top;
        row.second = second;
        row.argmax = argmax;
    }
};

// Makes one ranking, or one maximum, of those of all lanes.
template <int G, bool kRanks>
__device__ inline void merge_ranks(Row& row) {
    if constexpr (G > 1 && !kRanks) {
        row.top = warp_max(row.top);
    } else if constexpr (G > 1) {
        for (int offset = kWarp / 2; offset > 0; offset /= 2) {
            const double top = __shfl_xor_sync(kAllLanes, row.top, offset);
            const double second = __shfl_xor_sync(kAllLanes, row.second, offset);
            const int32_t argmax = __shfl_xor_sync(kAllLanes, row.argmax, offset);
            const double loser = row.top < top ? row.top : top;
            const double runner_up = row.second > second ? row.second : second;
            if (top > row.top || (top == row.top && argmax < row.argmax)) {
                row.top = top;
                row.argmax = argmax;
            }
            row.second = loser > runner_up ? loser : runner_up;
        }
    }
}

// As it is kept.
__device__ inline float kept_of(HalfFloat v) {
#if defined(__CUDACC__)
    __half_raw raw;
    raw.x = v.bits;
    return __half2float(__half(raw));
#else
    return static_cast<float>(widen(v));
#endif
}
__device__ inline float kept_of(BrainFloat v) {
#if defined(__CUDACC__)
    return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
#else
    return static_cast<float>(widen(v));
#endif
}
__device__ inline float kept_of(float v) {
    return v;
}
__device__ inline double kept_of(double v) {
    return v;
}

template <int G>
__device__ inline int64_t first_class() {
    return G == 1 ? 0 : lane();
}

// A number less the largest one of its prediction, `most`, or so many powers of two; `rest` is what rounding took.
struct Exponent {
    float rounded, rest;
};

template <typename V>
struct NaturalExponents {
    static constexpr bool kHasRest = true;
    V most;

    __device__ Exponent of(V x) const {
        const V difference = x - most;
        const auto rounded = static_cast<float>(difference);
        if (rounded < kLowestLog) return {kLowestLog, 0};
        if constexpr (std::is_same_v<V, double>) {
            return {rounded, static_cast<float>(difference - static_cast<double>(rounded))};
        } else {
            const float part = difference - x;  // Knuth's two-sum
            return {rounded, (x - (difference - part)) - (most + part)};
        }
    }
    __device__ float excess() const { return 0; }
};

// The difference as it is rounded, whose product with log2(e) is not.
template <typename T>
struct BinaryExponents {
    static constexpr bool kHasRest = true;
    float most;

    __device__ Exponent of(float x) const {
        const float difference = max_or_nan(x - most, kLowestLog), product = difference * kLog2E;
        return {product, fmaf(difference, kLog2ELess, fmaf(difference, kLog2E, -product))};
    }
    __device__ float excess() const { return 0; }
};

// Where a position keeps its numbers: a prediction, and the mean of all. `each` calls f(slot, class) for those of this
// thread; slot s is of class s * kLanes + lane.

// In shared memory, as the thread's own column: no two lanes share a bank.
template <typename T, int G, bool kRanked, bool kManySamples>
struct InShared {
    using Data = T;
    using Type = typename Kept<T>::Type;
    using Best = Top<Type, kRanked>;
    static constexpr bool kRanks = kRanked;
    static constexpr bool kMany = kManySamples;
    static constexpr int kLanes = G, kPositions = 1;
    static constexpr bool kTakesProbs = true;
    // A mean is taken over its sum.
    static constexpr bool kNormalises = true;
    // See `Grouped`.
    static constexpr int kTermsTogether = 2, kProductsTogether = 1, kMeansTogether = 1, kSlots = 0;
    static constexpr int kBlocks = 8;   // of a multiprocessor: registers for no more
    static constexpr double kUnit = 1;  // what exponents are multiples of
    Type* values;
    float *means, *losses;

    __device__ void begin(char* shared, int64_t slots) {
        values = reinterpret_cast<Type*>(shared) + threadIdx.x;
        means = reinterpret_cast<float*>(shared + slots * blockDim.x * sizeof(Type)) + threadIdx.x;
        losses = means + slots * blockDim.x;
    }

    __device__ Type& value(int64_t slot) const { return values[slot * blockDim.x]; }
    __device__ float& mean(int64_t slot) const { return means[slot * blockDim.x]; }
    __device__ float& lost(int64_t slot) const { return losses[slot * blockDim.x]; }

    template <typename F>
    __device__ void each(int64_t C, F f) const {
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) f(s, c);
    }
    __device__ void read(const T* data, int64_t stride, int64_t C, Best& best) const {
#pragma unroll 4
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
            const Type x = kept_of(data[c * stride]);
            value(s) = x;
            best.see(x, c);
        }
    }
    using Exponents = NaturalExponents<Type>;
    __device__ static float power(float exponent) { return exponent == exponent ? exp_minus(-exponent) : exponent; }
};

// Half precision, in one multiply-add, since the product with `most` is small, and that it is rounded is the same for
// all classes: the largest number's exponent is `excess` in place of 0.
struct FusedExponents {
    static constexpr bool kHasRest = false;
    float most, factor, shift;

    __device__ FusedExponents(float top, float by) : most(top), factor(by), shift(-top * by) {}
    __device__ Exponent of(float x) const { return {max_or_nan(fmaf(x, factor, shift), kLowestLog * kLog2E), 0}; }
    __device__ float excess() const { return fmaf(most, factor, shift); }
};
template <>
struct BinaryExponents<HalfFloat> : FusedExponents {
    __device__ explicit BinaryExponents(float top) : FusedExponents(top, kLog2E) {}
};
template <>
struct BinaryExponents<BrainFloat> : FusedExponents {
    // Numbers near 2^15 are 128 apart or more: any other than the largest comes out as 0, times whatever.
    __device__ explicit BinaryExponents(float top) : FusedExponents(top, fabsf(top) < 0x1p15f ? kLog2E : 1) {}
};

// Two numbers that lie side by side, and the larger of each; NaN is left out.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
    T first, second;
};

template <bool kAligned, typename T>
__device__ inline Pair<T> load_pair(const T* address) {
    if constexpr (kAligned) {
#if !defined(__CUDACC__)
        if (reinterpret_cast<uintptr_t>(address) % sizeof(Pair<T>))
            throw std::logic_error("a pair that is not aligned");
#endif
        return *reinterpret_cast<const Pair<T>*>(address);
    } else {
        return {address[0], address[1]};
    }
}

template <bool kOneWord, typename T>
__device__ inline void keep(Pair<T> pair, float& first, float& second) {
#if defined(__CUDACC__)
    if constexpr (kOneWord && std::is_same_v<T, BrainFloat>) {
        unsigned bits;  // else the compiler takes the second out before it puts it back
        memcpy(&bits, &pair, sizeof(bits));
        first = __uint_as_float(bits << 16);
        second = __uint_as_float(bits & 0xffff0000u);
        return;
    }
#endif
    first = kept_of(pair.first);
    second = kept_of(pair.second);
}

template <typename T>
__device__ inline Pair<T> larger_of(Pair<T> a, Pair<T> b) {
#if defined(__CUDACC__)
    using Packed = std::conditional_t<std::is_same_v<T, HalfFloat>, __half2, __nv_bfloat162>;
    Packed one, other;
    memcpy(&one, &a, sizeof(a));
    memcpy(&other, &b, sizeof(b));
    one = __hmax2(one, other);
    memcpy(&a, &one, sizeof(a));
    return a;
#else
    const auto larger = [](T x, T y) { return kept_of(x) > kept_of(y) || kept_of(y) != kept_of(y) ? x : y; };
    return {larger(a.first, b.first), larger(a.second, b.second)};
#endif
}

// How the input lies, and how many positions a thread then has: anyhow; the classes of a position side by side, so that
// addresses are constants away from its first; the positions of the last dimension side by side; and so that two can be
// read at once.
struct Strided {
    static constexpr int kPositions = 1;
};
struct ClassesContiguous {
    static constexpr int kPositions = 1;
};
struct PositionsContiguous {
    static constexpr int kPositions = 2;
};
struct PositionsAligned {
    static constexpr int kPositions = 2;
};

// In registers: more than kBelow classes and at most kMost, so that only the last few need a comparison.
template <typename T, int kBelow, int kMost, bool kManySamples, typename Layout>
struct InRegisters {
    using Data = T;
    using Type = float;
    using Best = Top<Type, false>;
    static constexpr bool kRanks = false;
    static constexpr bool kMany = kManySamples;
    static constexpr int kLanes = 1, kPositions = Layout::kPositions;
    static constexpr bool kTakesProbs = false;
    // A mean is taken over its sum.
    static constexpr bool kNormalises = false;
    // Half precision is read at twice the pace.
    static constexpr bool kHalf = sizeof(T) == 2;
    static constexpr int kTermsTogether = kHalf ? 4 : 2, kProductsTogether = kHalf ? 4 : 1;
    static constexpr int kMeansTogether = kHalf ? 2 : 1;
    static constexpr int kSlots = kMost;
    static constexpr int kBlocks = 0;  // as many as the compiler thinks best
    static constexpr double kUnit = kLn2;
    using Exponents = BinaryExponents<T>;
    float values[kMost], means[kMost], losses[kMany ? kMost : 1];

    __device__ void begin(char*, int64_t) {}

    __device__ float& value(int slot) { return values[slot]; }
    __device__ float& mean(int slot) { return means[slot]; }
    __device__ float& lost(int slot) { return losses[slot]; }

    template <typename F>
    __device__ static void each(int64_t C, F f) {
        const int classes = static_cast<int>(C);
#pragma unroll
        for (int s = 0; s < kMost; ++s)
            if (s <= kBelow || s < classes) f(s, s);
    }
    // All loads are on their way before the first number is looked at.
    __device__ void read(const T* data, int64_t stride, int64_t C, Best& best) {
        T raw[kMost];
        each(C, [&](int s, int) { raw[s] = data[s * (std::is_same_v<Layout, ClassesContiguous> ? 1 : stride)]; });
        best.top = kept_of(raw[0]);
        each(C, [&](int s, int) {
            values[s] = kept_of(raw[s]);
            best.top = larger_number(values[s], best.top);
        });
    }
    __device__ static void read(InRegisters (&places)[2], const T* data, int64_t stride, int64_t C, Best (&best)[2]) {
        constexpr bool kAligned = std::is_same_v<Layout, PositionsAligned>;
        Pair<T> raw[kMost];
        each(C, [&](int s, int) { raw[s] = load_pair<kAligned>(data + s * stride); });
        Pair<T> most = raw[0];
        each(C, [&](int s, int) {
            keep<kAligned>(raw[s], places[0].values[s], places[1].values[s]);
            most = larger_of(most, raw[s]);
        });
        keep<true>(most, best[0].top, best[1].top);
    }
    __device__ static float power(float exponent) { return exp2_approx(exponent); }
};

// Makes of a prediction that was read into `places` e, with p = e * scale.
template <typename Places>
__device__ Row summarise(const Predictions& from, int64_t C, Input input, bool check_finite, Places& places,
                         const typename Places::Best& best) {
    using V = typename Places::Type;
    constexpr int G = Places::kLanes;
    constexpr bool kRanks = Places::kRanks;
    Row row;
    best.to(row);
    merge_ranks<G, kRanks>(row);
    if (Places::kTakesProbs && input == Input::probs) {
        Sum<double> total;  // of what may be anything
        Sum<V> terms;
        V lowest = 0;
        places.each(C, [&](auto s, auto) {
            const V x = places.value(s);
            lowest = x < lowest ? x : lowest;
            total.add(x);
            terms.add_product(x,
                              static_cast<V>(logf(x > static_cast<V>(kSmallest) ? static_cast<float>(x) : kSmallest)));
        });
        const double Z = group_sum<G>(total.value()), sum = group_sum<G>(terms.value());
        const double least = -group_max<G>(-static_cast<double>(lowest));
        const double scale = 1 / Z;
        row.entropy = log(Z) - sum / Z;
        row.scale = parts_of(scale);
        row.bad = least < 0 || (Z > 1 + from.sum_tolerance && Z < INFINITY) || Z < 1 - from.sum_tolerance;
        row.top *= scale;
        row.second *= scale;
    } else {
        const auto top = static_cast<V>(row.top);
        const typename Places::Exponents exponents{top};
        Grouped<Places::kTermsTogether, 8, Places::kSlots> total;
        Grouped<Places::kProductsTogether, -4, Places::kSlots> terms;
        places.each(C, [&](auto s, auto) {
            const Exponent exponent = exponents.of(places.value(s));
            float e = Places::power(exponent.rounded);
            if constexpr (Places::Exponents::kHasRest) {
                const float more = e * exponent.rest;
                terms.sum.low += more;
                e = fmaf(more, static_cast<float>(Places::kUnit), e);
            }
            places.value(s) = e;
            terms.add_product(s, e, exponent.rounded);
            total.add(s, e);
        });
        row.excess = exponents.excess();
        const Parts Z = group_sum<G>(total.parts()), sum = group_sum<G>(terms.parts());
        const float near_Z = Z.high + Z.low, near = reciprocal_approx(near_Z);
        const float more = times(near, fmaf(-Z.low, near, fmaf(-Z.high, near, 1)));  // 1 / Z is near + more: Newton's
        const LogParts ln = log_parts(near_Z);
        const float less = fmaf(sum.low, near, times(sum.high, more));
        const double product = static_cast<double>(sum.high) * static_cast<double>(near);  // NaN where a number was
        row.scale = {near, more};
        const double whole = static_cast<double>(ln.n) * (kLn2 / Places::kUnit) - product;
        row.entropy =
            fma(whole, Places::kUnit, static_cast<double>(fmaf(-static_cast<float>(Places::kUnit), less, ln.y)));
        if (input == Input::log_probs) {
            const V log_Z = static_cast<V>(ln.n) * static_cast<V>(kLn2) + static_cast<V>(ln.y);
            const V log_sum = top + (log_Z - static_cast<V>(row.excess) * static_cast<V>(Places::kUnit));
            row.bad = fabs(log_sum) > static_cast<V>(from.sum_tolerance) && row.entropy == row.entropy;
        }
        if constexpr (kRanks)
            row.second =  // a difference, as top + kLowestLog is top where that is beyond 1e19
                row.second - row.top > static_cast<double>(kLowestLog) ? exp(row.second - row.top) * row.scale.value()
                                                                       : 0;
        row.top = row.scale.value();
    }
    if (check_finite && row.entropy != row.entropy) row.bad = true;  // any NaN, +inf or all -inf ends up there
    return row;
}

// One prediction of each position, from `offset` on.
template <int kPositions, typename Places>
__device__ void summarise(const Predictions& from, int64_t offset, int64_t C, Input input, bool check_finite,
                          Places (&places)[kPositions], Row (&rows)[kPositions]) {
    typename Places::Best best[kPositions];
    const auto* data = static_cast<const typename Places::Data*>(from.data) + offset;
    if constexpr (kPositions == 2) {
        Places::read(places, data, from.class_stride, C, best);
    } else {
        places[0].read(data, from.class_stride, C, best[0]);
    }
#pragma unroll
    for (int i = 0; i < kPositions; ++i) rows[i] = summarise(from, C, input, check_finite, places[i], best[i]);
}

// Keeps NaN.
__device__ inline double clamp(double x, double limit) {
    x = x < 0 ? 0 : x;
    return x > limit ? limit : x;
}

__device__ inline void store(float* scores, int64_t position, double value) {
    if (scores) scores[position] = static_cast<float>(value);
}

// Of a sample in the mean.
struct Share {
    double exact;
    float near;
};

// A thread, or a warp, has a position or two neighbours of the last dimension, and `units` is how many have some: where
// the positions of a row are odd, its last two pairs share one.
template <typename Places>
__global__ void __launch_bounds__(kThreads, Places::kBlocks)
    disagreement_kernel(DisagreementJob job, ScoreLimits limits, Share share, int64_t units,
                        unsigned long long* first_bad) {
    constexpr int G = Places::kLanes, kPositions = Places::kPositions;
    constexpr bool kRanks = Places::kRanks, kMany = Places::kMany;
    const int64_t K = job.num_samples, C = job.num_classes, slots = (C + G - 1) / G;
    Places places[kPositions];
    for (Places& own : places) own.begin(shared_memory(), slots);
    const int groups = static_cast<int>(blockDim.x) / G, group = static_cast<int>(threadIdx.x) / G;
    int64_t rest = static_cast<int64_t>(blockIdx.x) * groups + group;
    if (rest >= units) return;
    int64_t position = rest, sample_offset = 0, single_offset = 0;
#pragma unroll 1
    for (int64_t last = job.position_dims - 1, d = last; d >= 0; --d) {
        const int64_t width = job.position_sizes[d];
        const bool has_pairs = kPositions == 2 && d == last;
        int64_t index = rest;
        if (d > 0) {  // a division costs as much as the scores of five classes
            const int64_t size = has_pairs ? (width + 1) / 2 : width;
            rest /= size;
            index -= rest * size;
        }
        if (has_pairs) {
            index = 2 * index < width - 2 ? 2 * index : width - 2;
            position = (d > 0 ? rest * width : 0) + index;
        }
        sample_offset += index * job.samples.position_strides[d];
        single_offset += index * job.single.position_strides[d];
    }
    const bool has_single = job.single.data != nullptr, wants_votes = kRanks && job.scores[variation_ratio] != nullptr;
    [[maybe_unused]] int32_t* votes = nullptr;  // (K, groups)
    if constexpr (kRanks)
        votes = reinterpret_cast<int32_t*>(
            shared_memory() + slots * blockDim.x * (sizeof(typename Places::Type) + (kMany ? 2 : 1) * sizeof(float)));
    const bool wants_mean = kMany || K > 1;
    // Of each position; in the end a row is that of `single` if there is one, else of the mean.
    Row rows[kPositions];
    double expected[kPositions] = {}, information[kPositions];
    bool bad[kPositions] = {};
    // A sum that begins beyond any of its terms shows what an addition loses; BoundedSum says how.
    const float beginning = kMany ? 2 * share.near : 0;
    if (wants_mean)
        for (Places& own : places)
            own.each(C, [&](auto s, auto) {
                own.mean(s) = beginning;
                if constexpr (kMany) own.lost(s) = 0;
            });
    for (int64_t k = 0; k < K; ++k) {
        summarise(job.samples, sample_offset + k * job.samples.sample_stride, C, job.input, job.check_finite, places,
                  rows);
#pragma unroll
        for (int i = 0; i < kPositions; ++i) {
            Places& own = places[i];
            const Row& row = rows[i];
            expected[i] += row.entropy;
            bad[i] |= row.bad;
            if constexpr (kRanks) {
                if (wants_votes) votes[k * groups + group] = row.argmax;
            }
            if (!wants_mean) continue;
            const float scale = kMany ? static_cast<float>(row.scale.value() * share.exact)
                                      : (row.scale.high + row.scale.low) * share.near;
            own.each(C, [&](auto s, auto) {
                const float e = static_cast<float>(own.value(s));
                if constexpr (kMany) {
                    add_smaller_product(e, scale, own.mean(s), own.lost(s));
                } else {
                    own.mean(s) = fmaf(e, scale, own.mean(s));
                }
            });
        }
    }
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
        Places& own = places[i];
        expected[i] = times(expected[i], share.exact);
        information[i] = expected[i] - expected[i];  // 0, or NaN where the input has one
        if (!wants_mean) continue;
        Row mean;
        Top<float, kRanks> top;
        Grouped<Places::kMeansTogether, -1, Places::kSlots> terms;
        [[maybe_unused]] Grouped<2, 2> total;
        own.each(C, [&](auto s, auto c) {
            float m = own.mean(s);
            if constexpr (kMany) m = (m - beginning) + own.lost(s);
            if constexpr (Places::kNormalises) total.add(s, m);
            const LogParts ln = log_parts(Places::kTakesProbs ? fmaxf(m, kSmallest) : m);
            terms.add_product(s, m, fmaf(ln.n, static_cast<float>(kLn2), ln.y));
            top.see(m, c);
        });
        top.to(mean);
        const double sum = group_sum<G>(terms.parts()).value();
        mean.entropy = -sum;
        if constexpr (Places::kNormalises)  // the sum is nearly 1
            mean.entropy += (group_sum<G>(total.parts()).value() - 1) * (1 + sum);
        merge_ranks<G, kRanks>(mean);
        information[i] = mean.entropy - expected[i];
        rows[i] = mean;
    }
    if (has_single) {
        summarise(job.single, single_offset, C, job.input, job.check_finite, places, rows);
        for (int i = 0; i < kPositions; ++i) bad[i] |= rows[i].bad;
    }
    double most = 0;
    if constexpr (kRanks)
        if (wants_votes) {
            if (G > 1) __syncwarp();
            for (int64_t j = first_class<G>(); j < K; j += G) {
                int64_t equal = 0;
                for (int64_t k = 0; k < K; ++k) equal += votes[k * groups + group] == votes[j * groups + group];
                most = static_cast<double>(equal) > most ? static_cast<double>(equal) : most;
            }
            most = group_max<G>(most);
        }
    if (G > 1 && lane() != 0) return;
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
        const Row& q = rows[i];
        const int64_t at = position + i;
        const double q_nan = q.entropy - q.entropy;  // 0 or NaN
        const double uncertainty = clamp(q.entropy, limits.entropy), gained = clamp(information[i], limits.bald);
        const double top = q.top * static_cast<double>(Places::power(q.excess));
        [[maybe_unused]] const double second = q.second > 0 ? q.second : 0;
        store(job.scores[entropy], at, uncertainty);
        store(job.scores[bald], at, gained);
        store(job.scores[combined], at, uncertainty + job.weight * gained);
        store(job.scores[expected_entropy], at, clamp(expected[i], limits.entropy));
        store(job.scores[least_confidence], at, clamp(1 - top + q_nan, 1));
        if constexpr (kRanks) {
            store(job.scores[margin], at, clamp(1 - (top - second) + q_nan, 1));
            store(job.scores[variation_ratio], at, 1 - most / static_cast<double>(K) + (expected[i] - expected[i]));
        }
        if (bad[i]) atomicMin(first_bad, static_cast<unsigned long long>(at));
    }
}

// Shared memory of a block, and how many threads it can have: 0 if none.
size_t shared_size(int64_t K, int64_t C, bool votes, int threads, int G, size_t value_size) {
    const int64_t slots = (C + G - 1) / G;
    return static_cast<size_t>(slots * threads) * (value_size + (K > kFewSamples ? 2 : 1) * sizeof(float)) +
           (votes ? static_cast<size_t>(K * threads / G) * sizeof(int32_t) : 0);
}

int most_threads(int64_t K, int64_t C, bool votes, int G, size_t value_size) {
    int threads = kThreads;
    while (threads >= kWarp && shared_size(K, C, votes, threads, G, value_size) > kShared) threads /= 2;
    return threads >= kWarp ? threads : 0;
}

template <typename Places>
void launch_as(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
               unsigned long long* first_bad, int threads, size_t shared) {
    const int64_t per_block = threads / Places::kLanes;
    int64_t units = positions;
    if constexpr (Places::kPositions == 2) {
        const int64_t width = job.position_sizes[job.position_dims - 1];
        units = positions / width * ((width + 1) / 2);
    }
    launch(disagreement_kernel<Places>, queue, dim3(static_cast<unsigned>((units + per_block - 1) / per_block)),
           threads, shared, false, job, limits,
           Share{1 / static_cast<double>(job.num_samples), 1 / static_cast<float>(job.num_samples)}, units, first_bad);
}

template <typename F>
bool of_both(const DisagreementJob& job, F holds) {
    return holds(job.samples) && (!job.single.data || holds(job.single));
}

bool classes_contiguous(const DisagreementJob& job) {
    return of_both(job, [](const Predictions& from) { return from.class_stride == 1; });
}

// Of the last dimension.
bool positions_contiguous(const DisagreementJob& job) {
    const int last = job.position_dims - 1;
    return last >= 0 && job.position_sizes[last] > 1 &&
           of_both(job, [&](const Predictions& from) { return from.position_strides[last] == 1; });
}

// Whether each two of these can be read at once, `size` bytes.
bool positions_aligned(const DisagreementJob& job, int64_t size) {
    const int last = job.position_dims - 1;
    return job.position_sizes[last] % 2 == 0 && of_both(job, [&](const Predictions& from) {
               bool even = from.class_stride % 2 == 0 && from.sample_stride % 2 == 0;
               for (int d = 0; d < last; ++d) even = even && from.position_strides[d] % 2 == 0;
               return even && reinterpret_cast<uintptr_t>(from.data) % size == 0;
           });
}

template <typename T, int G, bool kRanks, bool kMany>
void launch_in_shared(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                      unsigned long long* first_bad) {
    constexpr size_t kValue = sizeof(typename Kept<T>::Type);
    const bool votes = job.scores[variation_ratio] != nullptr;
    const int threads = most_threads(job.num_samples, job.num_classes, votes, G, kValue);
    if (threads == 0) throw std::runtime_error("too many classes or samples for shared memory");
    launch_as<InShared<T, G, kRanks, kMany>>(queue, job, limits, positions, first_bad, threads,
                                             shared_size(job.num_samples, job.num_classes, votes, threads, G, kValue));
}

// The smallest of the sizes that holds all classes.
template <typename T, bool kMany, int kBelow, int kMost, int... kMore>
void launch_in_registers(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                         unsigned long long* first_bad) {
    if constexpr (sizeof...(kMore) > 0) {
        if (job.num_classes > kMost)
            return launch_in_registers<T, kMany, kMost, kMore...>(queue, job, limits, positions, first_bad);
    }
    const auto launch_layout = [&](auto layout) {
        launch_as<InRegisters<T, kBelow, kMost, kMany, decltype(layout)>>(queue, job, limits, positions, first_bad,
                                                                          kThreads, 0);
    };
    if constexpr (!kMany) {
        if (classes_contiguous(job)) return launch_layout(ClassesContiguous());
        if constexpr (sizeof(T) == 2) {
            if (positions_contiguous(job))
                return positions_aligned(job, sizeof(Pair<T>)) ? launch_layout(PositionsAligned())
                                                               : launch_layout(PositionsContiguous());
        }
    }
    launch_layout(Strided());
}

bool one_thread_each(const DisagreementJob& job) {
    const bool votes = job.scores[variation_ratio] != nullptr;
    return job.num_classes <= kFewClasses && most_threads(job.num_samples, job.num_classes, votes, 1, 8) > 0;
}

template <typename T, bool kRanks, bool kMany>
void launch_ranks(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                  unsigned long long* first_bad) {
    if constexpr (!kRanks && sizeof(T) <= sizeof(float)) {
        if (job.num_classes <= kInRegisters && job.input != Input::probs)
            return launch_in_registers<T, kMany, 0, 4, 8, 12, 16, 20, 24, kInRegisters>(queue, job, limits, positions,
                                                                                        first_bad);
    }
    if (one_thread_each(job)) {
        launch_in_shared<T, 1, kRanks, kMany>(queue, job, limits, positions, first_bad);
    } else {
        launch_in_shared<T, kWarp, kRanks, kMany>(queue, job, limits, positions, first_bad);
    }
}

template <typename T>
void launch_type(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                 unsigned long long* first_bad) {
    const bool ranks = job.scores[margin] || job.scores[variation_ratio], many = job.num_samples > kFewSamples;
    if (ranks) {
        (many ? launch_ranks<T, true, true> : launch_ranks<T, true, false>)(queue, job, limits, positions, first_bad);
    } else {
        (many ? launch_ranks<T, false, true> : launch_ranks<T, false, false>)(queue, job, limits, positions, first_bad);
    }
}

}  // namespace

bool disagreement_fits(int64_t num_samples, int64_t num_classes, bool votes) {
    return most_threads(num_samples, num_classes, votes, kWarp, 8) > 0;
}

void disagreement(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, unsigned long long* first_bad) {
    int64_t positions = 1;
    for (int d = 0; d < job.position_dims; ++d) positions *= job.position_sizes[d];
    if (positions == 0) return;
    switch (job.samples.type) {
        case Scalar::f32:
            return launch_type<float>(queue, job, limits, positions, first_bad);
        case Scalar::f64:
            return launch_type<double>(queue, job, limits, positions, first_bad);
        case Scalar::f16:
            return launch_type<HalfFloat>(queue, job, limits, positions, first_bad);
        default:
            return launch_type<BrainFloat>(queue, job, limits, positions, first_bad);
    }
}

}  // namespace cuda
}  // namespace difal
