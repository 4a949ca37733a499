// What the kernels need of CUDA, in one place. nvcc takes it from the toolkit; the tests compile the same .cu files
// with a C++ compiler, where tests/gpu/emulator/cuda_emulator.h runs every thread of a launch as a fibre.
//
// Kernels use no static __shared__ arrays and no <<<>>>: shared memory is `shared_memory()`, launches are `launch()`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include "difal/cuda_queue.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "cuda_emulator.h"
#endif

namespace difal {
namespace cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

#if defined(__CUDACC__)

__device__ inline char* shared_memory() {
    extern __shared__ __align__(16) char difal_shared[];
    return difal_shared;
}

__device__ inline void wait_a_little() {
    __nanosleep(20);
}

__device__ inline double warp_sum(double v) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kAllLanes, v, offset);
    return v;
}

// What to do about an error.
inline const char* cure(cudaError_t status) {
    switch (status) {
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorInvalidKernelImage:
            return "the extension was built for other GPUs; reinstall with DIFAL_CUDA=1 DIFAL_CUDA_ARCHS=native";
        case cudaErrorInsufficientDriver:
        case cudaErrorUnsupportedPtxVersion:
            return "the driver is older than the CUDA toolkit that built the extension; update the driver, or "
                   "reinstall "
                   "with an older toolkit on the PATH";
        case cudaErrorMemoryAllocation:
            return "free memory on the GPU, or give a lower `memory_limit`";
        case cudaErrorCooperativeLaunchTooLarge:
            return "something limits how much of the GPU this process may use, such as MPS; give it all";
        default:
            return "if an earlier launch is to blame, CUDA_LAUNCH_BLOCKING=1 shows which";
    }
}

inline std::string message(cudaError_t status, const char* what) {
    return std::string(what) + ": " + cudaGetErrorString(status) + " (" + cure(status) + ")";
}

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // else the next launch would report this one's
    throw std::runtime_error(message(status, what));
}

// Why this kernel cannot run on this device, or nothing.
template <typename... P>
std::string why_not(void (*kernel)(P...), int device) {
    const auto describe = [](cudaError_t status, const char* what) {
        cudaGetLastError();
        return message(status, what);
    };
    cudaError_t status = cudaSetDevice(device);
    if (status != cudaSuccess) return describe(status, "cudaSetDevice");
    int cooperative = 0;
    status = cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
    if (status != cudaSuccess) return describe(status, "cudaDeviceGetAttribute");
    if (cooperative == 0) return "this GPU has no cooperative launch";
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
    return status == cudaSuccess ? "" : describe(status, "cudaFuncGetAttributes");
}

template <typename... P, typename... A>
void launch(void (*kernel)(P...), Queue queue, dim3 grid, int threads, size_t shared, bool cooperative, A... args) {
    check(cudaSetDevice(queue.device), "cudaSetDevice");
    std::tuple<P...> values(args...);
    const cudaStream_t stream = reinterpret_cast<cudaStream_t>(queue.stream);
    const auto go = [&](auto&... value) {
        void* addresses[] = {&value...};
        const void* function = reinterpret_cast<const void*>(kernel);
        if (shared > 48 * 1024) {
            check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
                  "cudaFuncSetAttribute");
        }
        if (cooperative) {
            check(cudaLaunchCooperativeKernel(function, grid, dim3(threads), addresses, shared, stream),
                  "cudaLaunchCooperativeKernel");
        } else {
            check(cudaLaunchKernel(function, grid, dim3(threads), addresses, shared, stream), "cudaLaunchKernel");
        }
    };
    std::apply(go, values);
}

// How many blocks of a kernel the whole device can hold at once.
template <typename... P>
int resident_blocks(void (*kernel)(P...), Queue queue, int threads, size_t shared) {
    int per_sm = 0, sms = 0;
    check(cudaSetDevice(queue.device), "cudaSetDevice");
    check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, queue.device), "cudaDeviceGetAttribute");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, shared),
          "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    return per_sm * sms;
}

inline void fill_bytes(Queue queue, void* at, int value, size_t bytes) {
    check(cudaSetDevice(queue.device), "cudaSetDevice");
    check(cudaMemsetAsync(at, value, bytes, reinterpret_cast<cudaStream_t>(queue.stream)), "cudaMemsetAsync");
}

#endif

// A float64's bits and back, and less than any gain.
__device__ inline double no_gain() {
#if defined(__CUDACC__)
    return __longlong_as_double(0xfff0000000000000ll);
#else
    return -INFINITY;
#endif
}

__device__ inline double double_of(unsigned long long bits) {
#if defined(__CUDACC__)
    return __longlong_as_double(static_cast<long long>(bits));
#else
    return emulator::from_word<double>(bits);
#endif
}

__device__ inline unsigned long long bits_of(double v) {
#if defined(__CUDACC__)
    return static_cast<unsigned long long>(__double_as_longlong(v));
#else
    return emulator::to_word(v);
#endif
}

// A float32's bits and back.
__device__ inline int32_t int_of(float v) {
#if defined(__CUDACC__)
    return __float_as_int(v);
#else
    return static_cast<int32_t>(emulator::to_word(v));
#endif
}
__device__ inline float float_of(int32_t bits) {
#if defined(__CUDACC__)
    return __int_as_float(bits);
#else
    return emulator::from_word<float>(static_cast<uint32_t>(bits));
#endif
}

// 2^x within 2^-22 of it, exactly 1 for 0; 0 in place of what is below 2^-126. 1 / x within 2^-23 of it. The larger
// of two numbers, or NaN if one is.
#if defined(__CUDACC__)
__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ inline float max_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#endif

// The indices of a thread.
__device__ inline int lane() {
    return static_cast<int>(threadIdx.x) % kWarp;
}
__device__ inline int warp_in_block() {
    return static_cast<int>(threadIdx.x) / kWarp;
}
__device__ inline int warps_in_block() {
    return static_cast<int>(blockDim.x) / kWarp;
}

__device__ inline double warp_max(double v) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const double other = __shfl_xor_sync(kAllLanes, v, offset);
        v = other > v ? other : v;
    }
    return v;
}

__device__ inline int64_t warp_min(int64_t v) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        const int64_t other = __shfl_xor_sync(kAllLanes, v, offset);
        v = other < v ? other : v;
    }
    return v;
}

// The same over a block of at most 32 warps; `space` holds one number per warp and may be used again after the call.
// Sums are in a fixed order: lanes as a tree, then warps as a tree.
__device__ inline double block_sum(double v, double* space) {
    v = warp_sum(v);
    if (lane() == 0) space[warp_in_block()] = v;
    __syncthreads();
    v = warp_sum(lane() < warps_in_block() ? space[lane()] : 0.0);
    __syncthreads();
    return v;
}

__device__ inline double block_max(double v, double* space) {
    v = warp_max(v);
    if (lane() == 0) space[warp_in_block()] = v;
    __syncthreads();
    v = warp_max(lane() < warps_in_block() ? space[lane()] : space[0]);
    __syncthreads();
    return v;
}

__device__ inline int64_t block_min(int64_t v, int64_t* space) {
    v = warp_min(v);
    if (lane() == 0) space[warp_in_block()] = v;
    __syncthreads();
    v = warp_min(lane() < warps_in_block() ? space[lane()] : space[0]);
    __syncthreads();
    return v;
}

}  // namespace cuda
}  // namespace difal
