// Balanced entropy: differential entropies of Beta distributions. Part of disagreement_kernels.inl.
//
// With G(x) = x + ln Gamma(x) + (1 - x) psi(x), the entropy of a Gamma(x, 1) variable, that of Beta(a, b) is
//     h(a, b) = G(a) + G(b) - G(a + b) - psi(a + b),
// in which, unlike in its usual form, nothing of the size of a ln a cancels: G(x) is about ln(x) / 2. What stands
// under 1 / balent may be near 0, so exp and ln are exact here.
#pragma once

#include "disagreement_math.inl"

namespace difal {
namespace {

// B_2k / 2k and B_2k / (2k - 1), of the Bernoulli numbers B_2 .. B_12.
constexpr double psi_terms[] = {1. / 12, -1. / 120, 1. / 252, -1. / 240, 1. / 132, -691. / 32760};
constexpr double entropy_terms[] = {1. / 6, -1. / 90, 1. / 210, -1. / 210, 5. / 594, -691. / 30030};

struct GammaTerms {
    Vd entropy, psi;
};

// G(x) and psi(x) for x >= 1e-16, by Stirling's series at y = x or, below 8, at y = x + 8 and from there back by
//     ln Gamma(x) = ln Gamma(y) - ln P,  psi(x) = psi(y) - P' / P,  P = x (x + 1) .. (x + 7).
// The first term left out is below 1e-13.
inline GammaTerms gamma_terms(Vd x) {
    const Vi low = x < 8;
    const Vd y = low ? x + 8 : x;
    const Vd r = 1 / y, q = r * r, log_y = ln<true>(y);
    Vd psi_series = {}, entropy_series = {};
    for (int i = 5; i >= 0; --i) {
        psi_series = psi_series * q + psi_terms[i];
        entropy_series = entropy_series * q + entropy_terms[i];
    }
    constexpr double half_log_2_pi_e = 1.4189385332046727;
    Vd psi = log_y - 0.5 * r - q * psi_series;
    Vd entropy = 0.5 * log_y + half_log_2_pi_e + r * (entropy_series - 0.5) - q * psi_series;
    Vd product = splat(1), slope = {};
    for (int i = 0; i < 8; ++i) {
        slope = slope * (x + i) + product;
        product *= x + i;
    }
    const Vd back = slope / product;
    entropy = low ? entropy + 8 * (psi - 1) - (1 - x) * back - ln<true>(product) : entropy;
    psi = low ? psi - back : psi;
    return {entropy, psi};
}

// BalEntAcq, as balentacq() in reference.py has it, from the sums of the samples' probabilities and of their squared
// distances from the mean; `share` is 1 / K.
inline Vd balanced(const double* sums, const double* squares, int64_t C, double share) {
    constexpr double least_mean = 1e-9, least_strength = 1e-6, most_strength = 1e8;
    const Vd *sum = reinterpret_cast<const Vd*>(sums), *square = reinterpret_cast<const Vd*>(squares);
    Vd truth = {}, label = {};
    for (int64_t c = 0; c < C; ++c) {
        const Vd mean = sum[c] * share, variance = square[c] * share;
        const Vd inside = min(max(mean, splat(least_mean)), splat(1 - least_mean));
        const Vd strength = inside * (1 - inside) / variance - 1;  // inf where no sample differs
        const Vd n = min(max(strength, splat(least_strength)), splat(most_strength));
        const GammaTerms all = gamma_terms(n + 1);
        const Vd h =
            gamma_terms(inside * n + 1).entropy + gamma_terms((1 - inside) * n).entropy - all.entropy - all.psi;
        truth += mean * h;
        label -= mean * ln<true>(max(mean, splat(smallest)));
    }
    constexpr double ln_2 = 0.6931471805599453;
    const Vd balent = (truth + label) / (label + ln_2);
    return balent >= 0 ? 1 / balent : balent;
}

}  // namespace
}  // namespace difal
