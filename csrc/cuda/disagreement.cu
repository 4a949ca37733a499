// Entropy, BALD and their relatives in one read of the input.
//
// A position belongs to one thread where the classes are few, to a warp where they are many. Each prediction goes to
// shared memory once, as the position's own column, so that its maximum, its exponentials and the mean over the samples
// cost no second read.
//
// exp and ln are float32, sums as good as float64: the relative error of a probability stays below 3e-7, which moves an
// entropy, whose derivative along a relative change d_c of p_c is -sum_c p_c d_c (ln p_c + H), by less than 5e-7 for
// any C. A conversion to float64 costs as much as eight float32 operations or more: so sums of float32 numbers are
// pairs of them, and what only some scores need is compiled in for those alone.
#include "difal/cuda_maps.h"
#include "difal/estimate.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr float kLowestLog = -690.0f;
constexpr float kSmallest = 1e-37f;  // stands for 0 under ln; 0 ln 0 comes out as 0
constexpr int kFewClasses = 64;      // up to here a position is one thread's
constexpr size_t kShared = 48 * 1024;

// How a type is kept in shared memory.
template <typename T>
struct Kept {
    using Type = float;
};
template <>
struct Kept<double> {
    using Type = double;
};

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

// What is known of one prediction. `second` and `argmax` of a ranking only.
struct Row {
    double entropy, scale, top, second;
    int32_t argmax;
    bool bad;
};

template <int G>
__device__ inline double group_sum(double v) {
    return G == 1 ? v : warp_sum(v);
}
template <int G>
__device__ inline double group_max(double v) {
    return G == 1 ? v : warp_max(v);
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
            top = x > top ? x : top;
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

__device__ inline Row unranked() {
    return {0, 0, -INFINITY, -INFINITY, 0, false};
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

// The position's own numbers in shared memory: slot s of this thread, for class s * G + lane.
template <typename V>
struct Column {
    V* at;
    __device__ V& operator[](int64_t slot) const { return at[slot * blockDim.x]; }
};

template <int G>
__device__ inline int64_t first_class() {
    return G == 1 ? 0 : lane();
}

// Reads one prediction into `values` as e, with p = e * scale.
template <typename T, int G, bool kRanks>
__device__ Row summarise(const Predictions& from, int64_t offset, int64_t C, Input input, bool check_finite,
                         Column<typename Kept<T>::Type> values) {
    using V = typename Kept<T>::Type;
    const T* data = static_cast<const T*>(from.data) + offset;
    Row row = unranked();
    Top<V, kRanks> top;
#pragma unroll 4
    for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
        const V x = kept_of(data[c * from.class_stride]);
        values[s] = x;
        top.see(x, c);
    }
    top.to(row);
    merge_ranks<G, kRanks>(row);
    if (input == Input::probs) {
        Sum<double> total;  // of what may be anything
        Sum<V> terms;
        V lowest = 0;
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
            const V x = values[s];
            lowest = x < lowest ? x : lowest;
            total.add(x);
            terms.add_product(x,
                              static_cast<V>(logf(x > static_cast<V>(kSmallest) ? static_cast<float>(x) : kSmallest)));
        }
        const double Z = group_sum<G>(total.value()), sum = group_sum<G>(terms.value());
        const double least = -group_max<G>(-static_cast<double>(lowest));
        row.entropy = log(Z) - sum / Z;
        row.scale = 1 / Z;
        row.bad = least < 0 || (Z > 1 + from.sum_tolerance && Z < INFINITY) || Z < 1 - from.sum_tolerance;
        row.top *= row.scale;
        row.second *= row.scale;
    } else {
        const V most = static_cast<V>(row.top);
        Sum<float> total, terms;
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
            float d = static_cast<float>(values[s] - most);
            d = d < kLowestLog ? kLowestLog : d;
            const float e = d == d ? exp_minus(-d) : d;
            values[s] = e;
            total.add(e);
            terms.add_product(e, d);
        }
        const double Z = group_sum<G>(total.value()), sum = group_sum<G>(terms.value());
        const double log_Z = log(Z);
        row.entropy = log_Z - sum / Z;
        row.scale = 1 / Z;
        if (input == Input::log_probs) {
            const double log_sum = row.top + log_Z;
            row.bad = log_sum > from.sum_tolerance || log_sum < -from.sum_tolerance;
        }
        if constexpr (kRanks)
            row.second =
                row.second > row.top + static_cast<double>(kLowestLog) ? exp(row.second - row.top) * row.scale : 0;
        row.top = row.scale;
    }
    if (check_finite && row.entropy != row.entropy) row.bad = true;  // any NaN, +inf or all -inf ends up there
    return row;
}

// Keeps NaN.
__device__ inline double clamp(double x, double limit) {
    x = x < 0 ? 0 : x;
    return x > limit ? limit : x;
}

__device__ inline void store(float* scores, int64_t position, double value) {
    if (scores) scores[position] = static_cast<float>(value);
}

template <typename T, int G, bool kRanks>
__global__ void __launch_bounds__(128)
    disagreement_kernel(DisagreementJob job, ScoreLimits limits, int64_t positions, unsigned long long* first_bad) {
    using V = typename Kept<T>::Type;
    const int64_t K = job.num_samples, C = job.num_classes, slots = (C + G - 1) / G;
    V* shared = reinterpret_cast<V*>(shared_memory());
    const Column<V> values{shared + threadIdx.x};
    const Column<float> sums{reinterpret_cast<float*>(shared + slots * blockDim.x) + threadIdx.x};
    int32_t* votes = reinterpret_cast<int32_t*>(sums.at - threadIdx.x + slots * blockDim.x);  // (K, groups)
    const int groups = static_cast<int>(blockDim.x) / G, group = static_cast<int>(threadIdx.x) / G;
    const int64_t position = static_cast<int64_t>(blockIdx.x) * groups + group;
    if (position >= positions) return;
    int64_t sample_offset = 0, single_offset = 0;
    for (int64_t d = job.position_dims - 1, rest = position; d >= 0; --d) {
        const int64_t index = rest % job.position_sizes[d];
        rest /= job.position_sizes[d];
        sample_offset += index * job.samples.position_strides[d];
        single_offset += index * job.single.position_strides[d];
    }
    const bool has_single = job.single.data != nullptr, wants_votes = kRanks && job.scores[variation_ratio] != nullptr;
    const bool wants_mean = K > 1;
    Row prediction = unranked();  // of `single` if there is one, else of the mean
    double expected = 0;
    bool bad = false;
    for (int64_t k = 0; k < K; ++k) {
        const Row row = summarise<T, G, kRanks>(job.samples, sample_offset + k * job.samples.sample_stride, C,
                                                job.input, job.check_finite, values);
        expected += row.entropy;
        bad |= row.bad;
        if (wants_votes) votes[k * groups + group] = row.argmax;
        prediction = row;
        if (!wants_mean) continue;
        const float scale = static_cast<float>(row.scale);
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
            const float p = static_cast<float>(values[s]) * scale;
            sums[s] = k == 0 ? p : sums[s] + p;
        }
    }
    expected /= static_cast<double>(K);
    double information = expected - expected;  // 0, or NaN where the input has one
    if (wants_mean) {
        Row mean = unranked();
        Top<float, kRanks> top;
        Sum<float> terms;
        const float share = 1.0f / static_cast<float>(K);
        for (int64_t c = first_class<G>(), s = 0; c < C; c += G, ++s) {
            const float m = sums[s] * share;
            terms.add_product(m, logf(m > kSmallest ? m : kSmallest));
            top.see(m, c);
        }
        top.to(mean);
        mean.entropy = -group_sum<G>(terms.value());
        merge_ranks<G, kRanks>(mean);
        information = mean.entropy - expected;
        prediction = mean;
    }
    if (has_single) {
        prediction = summarise<T, G, kRanks>(job.single, single_offset, C, job.input, job.check_finite, values);
        bad |= prediction.bad;
    }
    double most = 0;
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
    const Row& q = prediction;
    const double q_nan = q.entropy - q.entropy;  // 0 or NaN
    const double uncertainty = clamp(q.entropy, limits.entropy);
    information = clamp(information, limits.bald);
    [[maybe_unused]] const double second = q.second > 0 ? q.second : 0;
    store(job.scores[entropy], position, uncertainty);
    store(job.scores[bald], position, information);
    store(job.scores[combined], position, uncertainty + job.weight * information);
    store(job.scores[expected_entropy], position, clamp(expected, limits.entropy));
    store(job.scores[least_confidence], position, clamp(1 - q.top + q_nan, 1));
    if constexpr (kRanks) {
        store(job.scores[margin], position, clamp(1 - (q.top - second) + q_nan, 1));
        store(job.scores[variation_ratio], position, 1 - most / static_cast<double>(K) + (expected - expected));
    }
    if (bad) atomicMin(first_bad, static_cast<unsigned long long>(position));
}

// Shared memory of a block, and how many threads it can have: 0 if none.
size_t shared_size(int64_t K, int64_t C, bool votes, int threads, int G, size_t value_size) {
    const int64_t slots = (C + G - 1) / G;
    return static_cast<size_t>(slots * threads) * (value_size + sizeof(float)) +
           (votes ? static_cast<size_t>(K * threads / G) * sizeof(int32_t) : 0);
}

int most_threads(int64_t K, int64_t C, bool votes, int G, size_t value_size) {
    int threads = 128;
    while (threads >= kWarp && shared_size(K, C, votes, threads, G, value_size) > kShared) threads /= 2;
    return threads >= kWarp ? threads : 0;
}

template <typename T, int G, bool kRanks>
void launch_as(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
               unsigned long long* first_bad) {
    constexpr size_t kValue = sizeof(typename Kept<T>::Type);
    const bool votes = job.scores[variation_ratio] != nullptr;
    const int threads = most_threads(job.num_samples, job.num_classes, votes, G, kValue);
    if (threads == 0) throw std::runtime_error("too many classes or samples for shared memory");
    const int64_t per_block = threads / G;
    launch(disagreement_kernel<T, G, kRanks>, queue,
           dim3(static_cast<unsigned>((positions + per_block - 1) / per_block)), threads,
           shared_size(job.num_samples, job.num_classes, votes, threads, G, kValue), false, job, limits, positions,
           first_bad);
}

bool one_thread_each(const DisagreementJob& job) {
    const bool votes = job.scores[variation_ratio] != nullptr;
    return job.num_classes <= kFewClasses && most_threads(job.num_samples, job.num_classes, votes, 1, 8) > 0;
}

template <typename T, bool kRanks>
void launch_ranks(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                  unsigned long long* first_bad) {
    if (one_thread_each(job)) {
        launch_as<T, 1, kRanks>(queue, job, limits, positions, first_bad);
    } else {
        launch_as<T, kWarp, kRanks>(queue, job, limits, positions, first_bad);
    }
}

template <typename T>
void launch_type(Queue queue, const DisagreementJob& job, const ScoreLimits& limits, int64_t positions,
                 unsigned long long* first_bad) {
    if (job.scores[margin] || job.scores[variation_ratio]) {
        launch_ranks<T, true>(queue, job, limits, positions, first_bad);
    } else {
        launch_ranks<T, false>(queue, job, limits, positions, first_bad);
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
