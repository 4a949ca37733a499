// What the files that bind share. Tensors arrive as addresses (`tensor.data_ptr()`), sizes and strides in elements;
// Python has checked them and allocated the outputs. The GIL is released around all work.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace py = pybind11;

namespace difal {

template <typename T>
T* address(std::uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

}  // namespace difal

// Disagreement, hypercolumns and projections, into `_cpu`.
void bind_cpu_maps(py::module_& m);
