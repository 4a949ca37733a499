// The part of `difal_kernels._cpu` about maps: disagreement, hypercolumns and projections; see bind.h.
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bind.h"
#include "difal/disagreement.h"
#include "difal/hypercolumns.h"
#include "difal/projection.h"

namespace {

using difal::address;

// address, dtype (a value of difal::Float), (C, H, W), strides of (B, C, H, W)
using Map = std::tuple<std::uintptr_t, int, std::array<int64_t, 3>, std::array<int64_t, 4>>;

difal::FeatureMap feature_map(const Map& map) {
    const auto& [data, type, size, stride] = map;
    return {address<const void>(data),
            static_cast<difal::Float>(type),
            size[0],
            size[1],
            size[2],
            stride[0],
            stride[1],
            stride[2],
            stride[3]};
}

void hypercolumns(const std::vector<Map>& maps, int64_t height, int64_t width, std::uintptr_t points,
                  std::uintptr_t image, int64_t count, bool normalize, int out_type, std::uintptr_t out,
                  std::uintptr_t squared_norms, int threads) {
    std::vector<difal::FeatureMap> views;
    int64_t channels = 0;
    for (const Map& map : maps) {
        views.push_back(feature_map(map));
        channels += views.back().channels;
    }
    const difal::HypercolumnJob job{views.data(),
                                    static_cast<int64_t>(views.size()),
                                    channels,
                                    height,
                                    width,
                                    address<const int64_t>(points),
                                    address<const int64_t>(image),
                                    count,
                                    normalize,
                                    static_cast<difal::Float>(out_type),
                                    address<void>(out),
                                    address<double>(squared_norms)};
    py::gil_scoped_release release;
    difal::hypercolumns(job, threads);
}

void gram_maps(const Map& map, int64_t image, bool self_only, std::uintptr_t gram, int threads) {
    const difal::FeatureMap view = feature_map(map);
    py::gil_scoped_release release;
    difal::gram_maps(view, image, self_only, address<double>(gram), threads);
}

// Each of `maps`: address of the values, address of the Gram maps, H, W.
void resize_projected(const std::vector<std::tuple<std::uintptr_t, std::uintptr_t, int64_t, int64_t>>& maps,
                      int64_t height, int64_t width, int64_t row_begin, int64_t row_end, int64_t channels, bool wide,
                      bool normalize, std::uintptr_t bias, std::uintptr_t out, std::uintptr_t norms, int threads) {
    std::vector<difal::ProjectedMap> views;
    for (const auto& [values, gram, h, w] : maps) {
        views.push_back({address<const void>(values), address<const double>(gram), h, w});
    }
    const difal::ResizeJob job{views.data(),
                               static_cast<int64_t>(views.size()),
                               height,
                               width,
                               row_begin,
                               row_end,
                               channels,
                               wide,
                               normalize,
                               address<const void>(bias),
                               address<void>(out),
                               address<double>(norms)};
    py::gil_scoped_release release;
    difal::resize_projected(job, threads);
}

// An array of predictions from its Python description (address, type, sample stride, class stride, place
// strides, tolerance); no address, no array.
difal::Predictions predictions(const py::tuple& from) {
    difal::Predictions to;
    to.data = address<const void>(from[0].cast<std::uintptr_t>());
    to.type = static_cast<difal::Scalar>(from[1].cast<int>());
    to.sample_stride = from[2].cast<int64_t>();
    to.class_stride = from[3].cast<int64_t>();
    int d = 0;
    for (const auto& stride : from[4].cast<py::tuple>()) to.place_strides[d++] = stride.cast<int64_t>();
    to.sum_tolerance = from[5].cast<double>();
    return to;
}

int64_t disagreement(const py::tuple& samples, const py::tuple& single, int input, bool check_finite, double weight,
                     int64_t num_samples, int64_t num_classes, const py::tuple& place_sizes, const py::tuple& scores,
                     int threads) {
    difal::DisagreementJob job;
    if (place_sizes.size() > difal::max_place_dims) {
        throw std::invalid_argument("at most " + std::to_string(difal::max_place_dims) + " place dimensions");
    }
    job.samples = predictions(samples);
    job.single = predictions(single);
    job.input = static_cast<difal::Input>(input);
    job.check_finite = check_finite;
    job.weight = weight;
    job.num_samples = num_samples;
    job.num_classes = num_classes;
    for (const auto& size : place_sizes) job.place_sizes[job.place_dims++] = size.cast<int64_t>();
    for (int i = 0; i < difal::score_count; ++i) {
        job.scores[i] = address<float>(scores[i].cast<std::uintptr_t>());
    }
    py::gil_scoped_release release;
    return difal::disagreement(job, threads);
}

}  // namespace

void bind_maps(py::module_& m) {
    m.def("disagreement", &disagreement, "Fills the wanted scores; the first invalid place, or -1.");
    m.def("hypercolumns", &hypercolumns);
    m.def("gram_maps", &gram_maps);
    m.def("resize_projected", &resize_projected);
}
