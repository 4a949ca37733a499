#pragma once

#include <cstdint>

namespace difal {
namespace cuda {

// Where a launcher's work goes: a device and one of its streams (a cudaStream_t as a number, 0 for the default).
struct Queue {
    int device;
    std::uintptr_t stream;
};

}  // namespace cuda
}  // namespace difal
