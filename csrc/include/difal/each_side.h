// Marks functions that the GPU's threads share with the CPU.
#pragma once

#if defined(__CUDACC__)
#define DIFAL_EACH_SIDE __host__ __device__
#else
#define DIFAL_EACH_SIDE
#endif
