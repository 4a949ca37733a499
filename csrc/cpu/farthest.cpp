#include "difal/farthest.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <deque>
#include <limits>
#include <vector>

#include "difal/coverage_kernels.h"
#include "difal/threads.h"
#include "distance_bounds.h"
#include "float32_kernels.h"

namespace difal {
namespace {

constexpr int64_t kSpan = 1024;    // points per task of a pass over all of them
constexpr int64_t kTile = 64;      // points per task of catching up
constexpr int64_t kColumns = 256;  // centres per product; a multiple of 16
constexpr int64_t kMaxLive = 512;  // points among which picks are made without looking at the others
constexpr int64_t kSample = 256;   // narrow rows that tell where the origin is best
constexpr int64_t kWidened = 8;    // narrow rows that are widened together for distances
constexpr std::array<int32_t, kWidened> kFirst = {0, 1, 2, 3, 4, 5, 6, 7};
constexpr int64_t kMinWidth = 256, kMaxWidth = 4096, kWidthShare = 64;  // contenders per round
constexpr double kTie = 2e-12;  // of the largest squared distance: closer is a tie, to the lowest index
constexpr double kFar = std::numeric_limits<double>::infinity();
constexpr int32_t kNobody = std::numeric_limits<int32_t>::max();

struct Entry {
    double squared;
    int32_t point;
    bool operator<(const Entry& other) const {  // the farther first
        return squared != other.squared ? squared > other.squared : point < other.point;
    }
};

// Points that are not looked at: the largest of their squared distances, which may be old ones, and the lowest of those
// that are tied with it.
struct Rest {
    double most = -1;
    int32_t lowest = kNobody;

    template <typename Entries>
    void add(Entries begin, Entries end) {
        for (auto e = begin; e != end; ++e) most = std::max(most, e->squared);
        const double reach = most - 2 * kTie * most;  // below what is tied with any distance of `most` or more
        for (auto e = begin; e != end; ++e) {
            if (e->squared >= most || e->squared >= reach) lowest = std::min(lowest, e->point);
        }
    }
};

struct TileScratch {
    BoundRows rows;
    std::vector<const void*> addresses;
    std::vector<float> wide;  // rows of narrow features
    std::vector<float> products;
    std::vector<int32_t> found;
};

TileScratch& tile_scratch() {
    thread_local TileScratch buffers;
    buffers.addresses.resize(kTile);
    buffers.products.resize(kTile * kColumns);
    buffers.found.resize(kColumns);
    return buffers;
}

DistanceBounds bounds_of(const void* x, int64_t rows, int64_t d, NumberType type) {
    if (!is_narrow(type)) return DistanceBounds(x, rows, d, type == NumberType::f64);
    const int64_t count = std::min(rows, kSample);
    std::vector<float> some(count * d);
    for (int64_t r = 0; r < count; ++r) {
        const int64_t at = r * rows / count * d;
        widen_row(static_cast<const char*>(x) + at * size_of(type), type, d, some.data() + r * d);
    }
    return DistanceBounds(some.data(), count, d, false);
}

int64_t tasks(int64_t count, int64_t per_task) {
    return (count + per_task - 1) / per_task;
}

}  // namespace

struct Farthest::State {
    int64_t rows, dimension;
    NumberType type;
    const void* features;
    const uint8_t* allowed;
    ThreadPool pool;
    DistanceBounds low;
    std::vector<double> squared;  // to the nearest of the centres that the point has seen; 0 once picked
    std::vector<int32_t> seen;    // how many of the centres those are, the first ones
    std::vector<uint8_t> picked;
    std::vector<const void*> centres;            // float64 or float32
    std::deque<std::vector<float>> own_centres;  // those that were narrow
    BoundRows bound_centres;
    float slack = 0;  // the largest of the centres that have a bound
    int64_t width;    // contenders of the next round
    std::vector<Entry> order;
    std::vector<float> between;  // products of the live points
    std::atomic<int64_t> reads{0}, bounds{0};

    State(int64_t n, int64_t d, NumberType t, const void* x, const uint8_t* open, int threads)
        : rows(n),
          dimension(d),
          type(t),
          features(x),
          allowed(open),
          pool(threads),
          low(bounds_of(x, n, d, t)),
          squared(n, kFar),
          seen(n, 0),
          picked(n, 0),
          width(least_width()) {}

    int64_t least_width() const { return std::clamp(rows / kWidthShare, kMinWidth, kMaxWidth); }

    // Point i as float64 or float32: where it is, or in `room` where it must be widened.
    const void* row(int64_t i, float* room) const {
        const void* at = static_cast<const char*>(features) + i * dimension * size_of(type);
        if (!is_narrow(type)) return at;
        widen_row(at, type, dimension, room);
        return room;
    }

    // The same, for as long as this lives.
    const void* centre(int64_t i) {
        if (!is_narrow(type)) return row(i, nullptr);
        own_centres.emplace_back(dimension);
        return row(i, own_centres.back().data());
    }

    // Of `points`, float64 or float32, that with this index.
    const void* label(const void* points, int64_t index) const {
        const int64_t size = size_of(type == NumberType::f64 ? NumberType::f64 : NumberType::f32);
        return static_cast<const char*>(points) + index * dimension * size;
    }

    // out[r] = |x_{index[r]} - y|^2, y as centres are
    void distances(const int32_t* index, int64_t count, const void* y, double* out) {
        const CoverageKernels& simd = coverage_kernels();
        if (type == NumberType::f64) {
            simd.distances_f64(static_cast<const double*>(features), dimension, index, count,
                               static_cast<const double*>(y), out);
        } else if (type == NumberType::f32) {
            simd.distances_f32(static_cast<const float*>(features), dimension, index, count,
                               static_cast<const float*>(y), out);
        } else {
            thread_local std::vector<float> room;
            room.resize(kWidened * dimension);
            for (int64_t begin = 0; begin < count; begin += kWidened) {
                const int64_t some = std::min(kWidened, count - begin);
                for (int64_t r = 0; r < some; ++r) row(index[begin + r], room.data() + r * dimension);
                simd.distances_f32(room.data(), dimension, kFirst.data(), some, static_cast<const float*>(y),
                                   out + begin);
            }
        }
        reads.fetch_add(count, std::memory_order_relaxed);
    }

    void add_centres(const std::vector<const void*>& added) {
        const int64_t before = static_cast<int64_t>(centres.size());
        centres.insert(centres.end(), added.begin(), added.end());
        const int64_t begin = before / 16 * 16;  // where the last block begins, which may not be full
        low.prepare(centres.data() + begin, static_cast<int64_t>(centres.size()) - begin, bound_centres, begin);
        for (size_t c = before; c < centres.size(); ++c) {
            if (std::isinf(bound_centres.slack[c])) {
                bound_centres.squared[c] = -std::numeric_limits<float>::infinity();  // below any distance
            } else {
                slack = std::max(slack, bound_centres.slack[c]);
            }
        }
        if (before == 0) see_first();
    }

    void see_first() {
        pool.parallel_for(tasks(rows, kSpan), [&](int64_t span) {
            const int64_t begin = span * kSpan, end = std::min(rows, begin + kSpan);
            std::vector<int32_t> index(end - begin);
            for (int64_t i = begin; i < end; ++i) index[i - begin] = static_cast<int32_t>(i);
            distances(index.data(), end - begin, centres[0], squared.data() + begin);
            std::fill(seen.begin() + begin, seen.begin() + end, 1);
        });
    }

    // Lowers the squared distance of point i to what the centres from `first` on allow, of which there are `count` in
    // `products`, its products with them.
    void lower(int64_t i, float own, float own_slack, int64_t first, int64_t count, const float* products,
               std::vector<int32_t>& found) {
        const Float32Kernels& simd = float32_kernels();
        const float share = 1 - std::max(slack, own_slack);
        const float* norms = bound_centres.squared.data() + first;
        const bool has_bound = !std::isinf(own_slack);
        // The bound of centre c is share (own + norms[c]) - 2 products[c].
        const auto reach = [&] {
            if (!has_bound || squared[i] == kFar) return std::numeric_limits<float>::infinity();
            const double exact = squared[i] - static_cast<double>(share) * static_cast<double>(own);
            const float up = std::nextafter(static_cast<float>(exact), std::numeric_limits<float>::infinity());
            const float least = std::numeric_limits<float>::min();  // smaller ones may be flushed to zero
            return -least < up && up < least ? least : up;
        };
        const float s = has_bound ? share : 1.0f;
        if (squared[i] == 0 || !(simd.least(products, norms, count, s) < reach())) return;
        const int64_t near = simd.below(products, norms, count, s, reach(), found.data());
        const auto bound = [&](int32_t c) { return s * norms[c] - 2 * products[c]; };
        // The nearest first, most likely: then few others are left.
        std::iter_swap(found.begin(), std::min_element(found.begin(), found.begin() + near,
                                                       [&](int32_t a, int32_t b) { return bound(a) < bound(b); }));
        const int32_t point = static_cast<int32_t>(i);
        for (int64_t f = 0; f < near; ++f) {
            if (f && !(bound(found[f]) < reach())) continue;
            double exact;
            distances(&point, 1, centres[first + found[f]], &exact);
            squared[i] = std::min(squared[i], exact);
        }
    }

    // Lets these points meet all centres that they have not seen. Reorders them.
    void catch_up(std::vector<int32_t>& points) {
        const int64_t total = static_cast<int64_t>(centres.size());
        const auto stale = std::partition(points.begin(), points.end(), [&](int32_t i) { return seen[i] < total; });
        std::sort(points.begin(), stale,
                  [&](int32_t a, int32_t b) { return seen[a] != seen[b] ? seen[a] < seen[b] : a < b; });
        const int64_t count = stale - points.begin();
        pool.parallel_for(tasks(count, kTile), [&](int64_t tile) {
            const int32_t* index = points.data() + tile * kTile;
            const int64_t height = std::min(kTile, count - tile * kTile);
            TileScratch& s = tile_scratch();
            if (is_narrow(type)) s.wide.resize(kTile * dimension);
            for (int64_t r = 0; r < height; ++r) s.addresses[r] = row(index[r], s.wide.data() + r * dimension);
            low.prepare(s.addresses.data(), height, s.rows);
            int64_t bounded = 0;
            for (int64_t c = seen[index[0]] / 16 * 16; c < total; c += kColumns) {
                const int64_t columns = std::min(kColumns, total - c);
                low.multiply(s.rows, height, bound_centres, c, columns, s.products.data(), kColumns);
                for (int64_t r = 0; r < height; ++r) {
                    const int64_t skip = std::max<int64_t>(0, seen[index[r]] - c);
                    if (skip >= columns) continue;
                    lower(index[r], s.rows.squared[r], s.rows.slack[r], c + skip, columns - skip,
                          s.products.data() + r * kColumns + skip, s.found);
                    bounded += columns - skip;
                }
            }
            for (int64_t r = 0; r < height; ++r) seen[index[r]] = static_cast<int32_t>(total);
            bounds.fetch_add(bounded, std::memory_order_relaxed);
        });
    }

    // The `width` farthest of `order` by what is known of them; the others are left to `rest`.
    void split(int64_t most, Rest& rest) {
        if (static_cast<int64_t>(order.size()) <= most) return;
        std::nth_element(order.begin(), order.begin() + most, order.end());
        rest.add(order.begin() + most, order.end());
        order.resize(most);
    }

    // Brings those of `order` up to date.
    void refresh() {
        std::vector<int32_t> points;
        for (const Entry& e : order) points.push_back(e.point);
        catch_up(points);
        for (Entry& e : order) e.squared = squared[e.point];
    }

    // Up to `limit` picks; possibly none, but then more are tried the next time.
    int64_t round(int64_t limit, int64_t* picks, double* distances_out) {
        order.clear();
        for (int64_t j = 0; j < rows; ++j) {
            if (!picked[j] && (!allowed || allowed[j])) order.push_back({squared[j], static_cast<int32_t>(j)});
        }
        Rest rest;
        split(width, rest);
        refresh();
        order.erase(std::remove_if(order.begin(), order.end(), [&](const Entry& e) { return e.squared < rest.most; }),
                    order.end());
        split(std::min(kMaxLive, limit + kTile), rest);
        const int64_t done = order.empty() ? 0 : pick_live(rest, limit, picks, distances_out);
        if (done == 0) width = std::min(2 * width, rows);
        if (4 * done > width) width = std::max(width / 2, least_width());
        return done;
    }

    // Picks from `order` alone, as long as nobody of the rest can be farther.
    int64_t pick_live(const Rest& rest, int64_t limit, int64_t* picks, double* distances_out) {
        std::sort(order.begin(), order.end(), [](const Entry& a, const Entry& b) { return a.point < b.point; });
        const int64_t live = static_cast<int64_t>(order.size());
        std::vector<const void*> addresses, added;
        std::vector<float> wide(is_narrow(type) ? live * dimension : 0);
        for (int64_t r = 0; r < live; ++r) addresses.push_back(row(order[r].point, wide.data() + r * dimension));
        BoundRows own;
        low.prepare(addresses.data(), live, own);
        between.resize(live * live);
        pool.parallel_for(tasks(live, kTile), [&](int64_t tile) {
            low.multiply(own, live, own, tile * kTile, std::min(kTile, live - tile * kTile),
                         between.data() + tile * kTile, live);
        });
        float worst = 0;
        for (int64_t r = 0; r < live; ++r) worst = std::max(worst, own.slack[r]);
        const double share = std::isinf(worst) ? 0 : 1 - worst;
        while (static_cast<int64_t>(added.size()) < limit) {
            double best = -1;
            for (const Entry& e : order) best = std::max(best, e.squared);
            const double reach = best == kFar ? kFar : best - kTie * best;
            int64_t j = 0;
            while (j < live && order[j].squared < reach) ++j;
            if (best < 0 || !(reach > rest.most || (best >= rest.most && order[j].point < rest.lowest))) break;
            const int32_t point = order[j].point;
            picks[added.size()] = point;
            distances_out[added.size()] = std::sqrt(order[j].squared);
            added.push_back(centre(point));
            picked[point] = 1;
            order[j].squared = -1;
            for (int64_t r = 0; r < live; ++r) {
                Entry& e = order[r];
                const double sum = static_cast<double>(own.squared[r]) + static_cast<double>(own.squared[j]);
                if (e.squared <= 0 ||
                    (share > 0 && share * sum - 2.0 * static_cast<double>(between[j * live + r]) >= e.squared))
                    continue;
                double exact;
                distances(&e.point, 1, addresses[j], &exact);
                e.squared = std::min(e.squared, exact);
            }
        }
        if (added.empty()) return 0;
        add_centres(added);
        const int32_t total = static_cast<int32_t>(centres.size());
        for (const Entry& e : order) {
            squared[e.point] = std::max(e.squared, 0.0);
            seen[e.point] = total;
        }
        return static_cast<int64_t>(added.size());
    }
};

Farthest::Farthest(int64_t rows, int64_t dimension, NumberType type, const void* features, const uint8_t* allowed,
                   int threads)
    : state_(new State(rows, dimension, type, features, allowed, threads)) {}
Farthest::~Farthest() = default;

void Farthest::cover(const void* points, int64_t count) {
    std::vector<const void*> added;
    for (int64_t l = 0; l < count; ++l) added.push_back(state_->label(points, l));
    if (count > 0) state_->add_centres(added);
}

void Farthest::select(int64_t count, int64_t* picks, double* distances) {
    State& s = *state_;
    int64_t done = 0;
    if (count > 0 && s.centres.empty()) {  // all are as far, and the lowest is picked
        int64_t j = 0;
        while (s.allowed && !s.allowed[j]) ++j;
        picks[done] = j;
        distances[done++] = kFar;
        s.picked[j] = 1;
        s.add_centres({s.centre(j)});
    }
    while (done < count) done += s.round(count - done, picks + done, distances + done);
}

double Farthest::radius() {
    State& s = *state_;
    if (s.centres.empty()) return kFar;
    for (int64_t width = s.least_width();; width = std::min(2 * width, s.rows)) {
        s.order.clear();
        for (int64_t i = 0; i < s.rows; ++i) s.order.push_back({s.squared[i], static_cast<int32_t>(i)});
        Rest rest;
        s.split(width, rest);
        s.refresh();
        double most = 0;
        for (const Entry& e : s.order) most = std::max(most, e.squared);
        if (most >= rest.most) return std::sqrt(most);
    }
}

int64_t Farthest::reads() const {
    return state_->reads.load(std::memory_order_relaxed);
}

int64_t Farthest::bounds() const {
    return state_->bounds.load(std::memory_order_relaxed);
}

}  // namespace difal
