// The CPU module `difal_kernels._cpu`. Tensors arrive as addresses (`tensor.data_ptr()`), sizes and strides
// in elements; Python has checked them and allocated the outputs. The GIL is released around all work.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "difal/hypercolumns.h"
#include "difal/isa.h"
#include "difal/projection.h"

namespace py = pybind11;

namespace {

// address, dtype (a value of difal::Float), (C, H, W), strides of (B, C, H, W)
using Map = std::tuple<uintptr_t, int, std::array<int64_t, 3>, std::array<int64_t, 4>>;

template <typename T>
T* at(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

difal::FeatureMap feature_map(const Map& map) {
    const auto& [address, type, size, stride] = map;
    return {at<const void>(address),
            static_cast<difal::Float>(type),
            size[0],
            size[1],
            size[2],
            stride[0],
            stride[1],
            stride[2],
            stride[3]};
}

void hypercolumns(const std::vector<Map>& maps, int64_t height, int64_t width, uintptr_t points,
                  uintptr_t image, int64_t count, bool normalize, int out_type, uintptr_t out,
                  uintptr_t squared_norms, int threads) {
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
                                    at<const int64_t>(points),
                                    at<const int64_t>(image),
                                    count,
                                    normalize,
                                    static_cast<difal::Float>(out_type),
                                    at<void>(out),
                                    at<double>(squared_norms)};
    py::gil_scoped_release release;
    difal::hypercolumns(job, threads);
}

void gram_maps(const Map& map, int64_t image, bool self_only, uintptr_t gram, int threads) {
    const difal::FeatureMap view = feature_map(map);
    py::gil_scoped_release release;
    difal::gram_maps(view, image, self_only, at<double>(gram), threads);
}

// Each of `maps`: address of the values, address of the Gram maps, H, W.
void resize_projected(const std::vector<std::tuple<uintptr_t, uintptr_t, int64_t, int64_t>>& maps,
                      int64_t height, int64_t width, int64_t row_begin, int64_t row_end, int64_t channels,
                      bool wide, bool normalize, uintptr_t bias, uintptr_t out, uintptr_t norms,
                      int threads) {
    std::vector<difal::ProjectedMap> views;
    for (const auto& [values, gram, h, w] : maps) {
        views.push_back({at<const void>(values), at<const double>(gram), h, w});
    }
    const difal::ResizeJob job{views.data(),  static_cast<int64_t>(views.size()),
                               height,        width,
                               row_begin,     row_end,
                               channels,      wide,
                               normalize,     at<const void>(bias),
                               at<void>(out), at<double>(norms)};
    py::gil_scoped_release release;
    difal::resize_projected(job, threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of difal_kernels; use the functions of difal_kernels instead.";
    m.def("isa", &difal::isa_name, "The instruction set that the kernels run with.");
    m.def("hypercolumns", &hypercolumns);
    m.def("gram_maps", &gram_maps);
    m.def("resize_projected", &resize_projected);
}
