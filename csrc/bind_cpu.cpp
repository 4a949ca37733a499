// The CPU module `difal_kernels._cpu`. Tensors arrive as addresses (`tensor.data_ptr()`), sizes and strides in
// elements; Python has checked them and allocated the outputs. The GIL is released around all work.
#include <pybind11/pybind11.h>

#include "difal/isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of difal_kernels; use the functions of difal_kernels instead.";
    m.def("isa", &difal::isa_name, "The instruction set that the kernels run with.");
}
