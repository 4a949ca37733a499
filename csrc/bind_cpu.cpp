// The CPU module `difal_kernels._cpu`. Tensors arrive as addresses (`tensor.data_ptr()`), sizes and strides
// in elements; Python has checked them and allocated the outputs. The GIL is released around all work.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "difal/disagreement.h"
#include "difal/isa.h"

namespace py = pybind11;

namespace {

// An array of predictions from its Python description (address, type, sample stride, class stride, place
// strides, tolerance); no address, no array.
difal::Predictions predictions(const py::tuple& from) {
    difal::Predictions to;
    to.data = reinterpret_cast<const void*>(from[0].cast<uintptr_t>());
    to.type = static_cast<difal::Scalar>(from[1].cast<int>());
    to.sample_stride = from[2].cast<int64_t>();
    to.class_stride = from[3].cast<int64_t>();
    int d = 0;
    for (const auto& stride : from[4].cast<py::tuple>()) to.place_strides[d++] = stride.cast<int64_t>();
    to.sum_tolerance = from[5].cast<double>();
    return to;
}

int64_t disagreement(const py::tuple& samples, const py::tuple& single, int input, bool check_finite,
                     double weight, int64_t num_samples, int64_t num_classes, const py::tuple& place_sizes,
                     const py::tuple& scores, int threads) {
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
        job.scores[i] = reinterpret_cast<float*>(scores[i].cast<uintptr_t>());
    }
    py::gil_scoped_release release;
    return difal::disagreement(job, threads);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of difal_kernels; use the functions of difal_kernels instead.";
    m.def("disagreement", &disagreement, "Fills the wanted scores; the first invalid place, or -1.");
    m.def("isa", &difal::isa_name, "The instruction set that the kernels run with.");
}
