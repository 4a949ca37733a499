// Jobs on maps and predictions from their Python descriptions: the same for the CPU and the GPU.
#pragma once

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

namespace difal {

// address, dtype (a value of difal::Float), (C, H, W), strides of (B, C, H, W)
using Map = std::tuple<std::uintptr_t, int, std::array<int64_t, 3>, std::array<int64_t, 4>>;

inline FeatureMap feature_map(const Map& map) {
    const auto& [data, type, size, stride] = map;
    return {address<const void>(data),
            static_cast<Float>(type),
            size[0],
            size[1],
            size[2],
            stride[0],
            stride[1],
            stride[2],
            stride[3]};
}

// `views` holds the maps and must outlive the job.
inline HypercolumnJob hypercolumn_job(std::vector<FeatureMap>& views, const std::vector<Map>& maps, int64_t height,
                                      int64_t width, std::uintptr_t points, std::uintptr_t image, int64_t count,
                                      bool normalize, int out_type, std::uintptr_t out, std::uintptr_t squared_norms) {
    int64_t channels = 0;
    for (const Map& map : maps) {
        views.push_back(feature_map(map));
        channels += views.back().channels;
    }
    return {views.data(),
            static_cast<int64_t>(views.size()),
            channels,
            height,
            width,
            address<const int64_t>(points),
            address<const int64_t>(image),
            count,
            normalize,
            static_cast<Float>(out_type),
            address<void>(out),
            address<double>(squared_norms)};
}

// An array of predictions from its Python description (address, type, sample stride, class stride, position
// strides, tolerance); no address, no array.
inline Predictions predictions(const py::tuple& from) {
    Predictions to;
    to.data = address<const void>(from[0].cast<std::uintptr_t>());
    to.type = static_cast<Scalar>(from[1].cast<int>());
    to.sample_stride = from[2].cast<int64_t>();
    to.class_stride = from[3].cast<int64_t>();
    int d = 0;
    for (const auto& stride : from[4].cast<py::tuple>()) to.position_strides[d++] = stride.cast<int64_t>();
    to.sum_tolerance = from[5].cast<double>();
    return to;
}

// All but where the scores go.
inline DisagreementJob disagreement_job(const py::tuple& samples, const py::tuple& single, int input, bool check_finite,
                                        double weight, int64_t num_samples, int64_t num_classes,
                                        const std::vector<int64_t>& position_sizes) {
    DisagreementJob job;
    if (position_sizes.size() > max_position_dims) {
        throw std::invalid_argument("at most " + std::to_string(max_position_dims) + " position dimensions");
    }
    job.samples = predictions(samples);
    job.single = predictions(single);
    job.input = static_cast<Input>(input);
    job.check_finite = check_finite;
    job.weight = weight;
    job.num_samples = num_samples;
    job.num_classes = num_classes;
    for (int64_t size : position_sizes) job.position_sizes[job.position_dims++] = size;
    return job;
}

}  // namespace difal
