#define DIFAL_FLOAT32_TABLE kFloat32Avx512
#include "float32_kernels.inl"
