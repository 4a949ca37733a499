// One tile of positions, compiled once per instruction set (see difal/isa.h). Lanes are positions.
//
// All arithmetic is in double. exp and ln are polynomials good to 4e-11 (exp, relative) and 2e-11 (ln,
// absolute), so a probability p carries a relative error of at most 1e-10 and an entropy, whose derivative
// along a relative change d_c of p_c is -sum_c p_c d_c (ln p_c + H), one below 2e-10 (H + 1). That is less
// than 2e-9 for any C in use, so rounding the answer to float32 (half an ulp of 6.24 = ln 512 is 2.4e-7) is
// the error that is left.
//
// A row is one prediction: the C numbers of one sample at one position. With x its logits (or
// log-probabilities),
//     e_c = exp(x_c - max x),  Z = sum e,  T = sum e_c (x_c - max x),  H = ln Z - T / Z,  p_c = e_c / Z;
// with x its probabilities, e = x and T = sum x_c ln x_c: the same formulas divide out a sum that is nearly
// one.
#include "disagreement_beta.inl"
#include "disagreement_math.inl"

namespace difal {
namespace {

// Reads one sample of the tile into `block`: W positions side by side, then the classes, then the next W positions.
// The C streams are too many and too far apart for the processor's own prefetching, so what is read next,
// `ahead` elements further, is asked for here.
template <class Element>
void read_as(const Predictions& from, int64_t sample, int64_t C, const int64_t* offsets, int64_t count,
             int64_t positions, int64_t ahead, double* block) {
    const auto* data = static_cast<const typename Element::Type*>(from.data) + sample * from.sample_stride;
    const int64_t stride = from.class_stride;
    bool contiguous = count == positions;
    for (int64_t i = 1; i < count; ++i) contiguous &= offsets[i] == offsets[0] + i;
    if (contiguous) {
        for (int64_t c = 0; c < C; ++c) {
            const auto* row = data + offsets[0] + c * stride;
            const uintptr_t next = reinterpret_cast<uintptr_t>(row) + ahead * sizeof *row;
            for (uintptr_t line = 0; line < positions * sizeof *row; line += 64) {
                __builtin_prefetch(reinterpret_cast<const void*>(next + line));
            }
            for (int64_t b = 0; b < positions / W; ++b) {
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

void read(const Predictions& from, int64_t sample, int64_t C, const int64_t* offsets, int64_t count, int64_t positions,
          int64_t ahead, double* block) {
    switch (from.type) {
        case Scalar::f32:
            return read_as<F32>(from, sample, C, offsets, count, positions, ahead, block);
        case Scalar::f64:
            return read_as<F64>(from, sample, C, offsets, count, positions, ahead, block);
        case Scalar::f16:
            return read_as<F16>(from, sample, C, offsets, count, positions, ahead, block);
        case Scalar::bf16:
            return read_as<Bf16>(from, sample, C, offsets, count, positions, ahead, block);
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

// Turns W rows x of `block` into e in place. `ranks`: second and argmax are wanted; `exact`: exp is.
template <bool ranks, bool exact>
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
        const Vd d = max(splat(lowest_log), x[c] - rows.top);  // keeps NaN
        x[c] = exp_negative<exact>(d);
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
    if (ranks) rows.second = exp_negative(max(rows.second - rows.top, splat(lowest_log))) * rows.scale;
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
    rows.bad = (lowest < 0) | ((Z > 1 + tolerance) & (Z < infinity)) | (Z < 1 - tolerance);
    rows.top *= rows.scale;
    rows.second *= rows.scale;
    return rows;
}

Rows summarise(double* block, int64_t C, const DisagreementJob& job, double tolerance, bool ranks) {
    Vd* x = reinterpret_cast<Vd*>(block);
    Rows rows;
    if (job.input == Input::probs)
        rows = ranks ? accumulate<true>(x, C, tolerance) : accumulate<false>(x, C, tolerance);
    else if (job.scores[balentacq] != nullptr)
        rows = exponentiate<true, true>(x, C, job.input, tolerance);
    else
        rows = ranks ? exponentiate<true, false>(x, C, job.input, tolerance)
                     : exponentiate<false, false>(x, C, job.input, tolerance);
    if (job.check_finite) rows.bad |= rows.entropy != rows.entropy;  // any NaN, +inf or all -inf ends up there
    return rows;
}

// Entropy, and if asked for ranks, of the mean of the samples, from the sum of their probabilities; `share` is 1 / K.
template <bool ranks>
Rows summarise_mean(const double* sums, int64_t C, double share) {
    const Vd* x = reinterpret_cast<const Vd*>(sums);
    Rows rows = unranked();
    for (int64_t c = 0; c < C; ++c) {
        const Vd m = x[c] * share;
        rows.entropy -= m * ln(max(m, splat(smallest)));
        if (ranks) rank(m, c, rows);
    }
    return rows;
}

// The sum of W predictions' probabilities, and what balanced() needs beyond it; `k` predictions came before.
void add_probabilities(const Vd* e, Vd scale, int64_t k, int64_t C, Vd* sum, Vd* square) {
    if (k == 0) {
        for (int64_t c = 0; c < C; ++c) sum[c] = e[c] * scale;
    } else {
        for (int64_t c = 0; c < C; ++c) sum[c] += e[c] * scale;
    }
    if (square == nullptr) return;
    // Youngs and Cramer's update of the squared distances from the mean: nothing of the mean's size cancels.
    const double n = static_cast<double>(k + 1), share = k == 0 ? 0 : 1 / (n * static_cast<double>(k));
    for (int64_t c = 0; c < C; ++c) {
        const Vd distance = e[c] * scale * n - sum[c], before = k == 0 ? Vd{} : square[c];
        square[c] = before + distance * distance * share;
    }
}

// The released code's entropy, and a sample's share in its "information": a probability p stands where ln p is
// expected, so that exp(p) is scored, which sums to no one.
Vd released_entropy(const Vd* x, Vd scale, int64_t C) {
    Vd sum = {};
    for (int64_t c = 0; c < C; ++c) sum -= x[c] * scale * ln(x[c] * scale + 1e-8);
    return sum;
}

Vd add_released(const Vd* e, Vd scale, int64_t k, int64_t C, Vd* sum) {
    constexpr double e_1 = 2.718281828459045;
    Vd entropy = {};
    for (int64_t c = 0; c < C; ++c) {
        const Vd r = exp_negative(e[c] * scale - 1) * e_1;
        entropy -= r * ln(r + 1e-8);
        sum[c] = k == 0 ? r : sum[c] + r;
    }
    return entropy;
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
    const double share = 1.0 / static_cast<double>(K);
    const bool has_single = job.single.data != nullptr;
    const bool wants_ranks = job.scores[margin] != nullptr || job.scores[least_confidence] != nullptr;
    const bool wants_votes = job.scores[variation_ratio] != nullptr;
    const bool wants_mean = K > 1 && (job.scores[bald] != nullptr || job.scores[combined] != nullptr ||
                                      (!has_single && (wants_ranks || job.scores[entropy] != nullptr)));
    const bool wants_balanced = job.scores[balentacq] != nullptr;
    const bool wants_released = job.scores[released_edald] != nullptr;
    double* block = tile.scratch;
    double* sums = block + tile.positions * C;
    double* votes = sums + tile.positions * C;
    double* squares = votes + (wants_votes ? tile.positions * K : 0);
    double* released_sums = squares + (wants_balanced ? tile.positions * C : 0);
    Vd sum_entropy[max_tile_positions / W];
    Rows prediction[max_tile_positions / W];  // of `single` if there is one, else of the mean
    Vd released[max_tile_positions / W];      // sum of the samples' released entropies
    Vd released_single[max_tile_positions / W];
    Vi bad[max_tile_positions / W] = {};

    for (int64_t k = 0; k < K; ++k) {
        const int64_t stride = job.samples.sample_stride, ahead = k + 1 < K ? stride : tile.positions - k * stride;
        read(job.samples, k, C, tile.sample_offsets, tile.count, tile.positions, ahead, block);
        for (int64_t b = 0; b < columns; ++b) {
            const Rows rows = summarise(block + b * C * W, C, job, job.samples.sum_tolerance,
                                        wants_votes || (K == 1 && wants_ranks && !has_single));
            sum_entropy[b] = k == 0 ? rows.entropy : sum_entropy[b] + rows.entropy;
            bad[b] |= rows.bad;
            if (wants_votes) __builtin_memcpy(votes + (b * K + k) * W, &rows.argmax, sizeof(Vd));
            prediction[b] = rows;  // the prediction itself where K is 1
            const Vd* e = reinterpret_cast<const Vd*>(block + b * C * W);
            if (wants_mean || wants_balanced) {
                add_probabilities(e, rows.scale, k, C, reinterpret_cast<Vd*>(sums + b * C * W),
                                  wants_balanced ? reinterpret_cast<Vd*>(squares + b * C * W) : nullptr);
            }
            if (wants_released) {
                const Vd one = add_released(e, rows.scale, k, C, reinterpret_cast<Vd*>(released_sums + b * C * W));
                released[b] = k == 0 ? one : released[b] + one;
            }
        }
    }
    if (has_single) {
        read(job.single, 0, C, tile.single_offsets, tile.count, tile.positions, tile.positions, block);
        for (int64_t b = 0; b < columns; ++b) {
            prediction[b] = summarise(block + b * C * W, C, job, job.single.sum_tolerance, wants_ranks);
            bad[b] |= prediction[b].bad;
            if (wants_released) {
                const Vd* e = reinterpret_cast<const Vd*>(block + b * C * W);
                released_single[b] = released_entropy(e, prediction[b].scale, C);
            }
        }
    }
    for (int64_t b = 0; b < columns; ++b) {
        const int64_t first = tile.first + b * W, left = tile.count - b * W;
        const Vd expected = sum_entropy[b] / static_cast<double>(K);
        Vd information = expected - expected;  // 0, or NaN where the input has one
        if (wants_mean) {
            const double* sum = sums + b * C * W;
            const Rows mean = wants_ranks ? summarise_mean<true>(sum, C, share) : summarise_mean<false>(sum, C, share);
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
        if (wants_balanced) {
            store(job.scores[balentacq], first, left, balanced(sums + b * C * W, squares + b * C * W, C, share));
        }
        if (wants_released) {
            const Vd* sum = reinterpret_cast<const Vd*>(released_sums + b * C * W);
            const Vd gain = released_entropy(sum, splat(share), C) - released[b] * share;
            const Vd kept = gain < 1e-9 ? splat(1e-9) : gain;  // keeps NaN
            store(job.scores[released_edald], first, left, released_single[b] + job.weight * kept);
        }
    }
    for (int64_t i = 0; i < tile.count; ++i) {
        if (bad[i / W][i % W] != 0) return i;
    }
    return -1;
}

}  // namespace difal
