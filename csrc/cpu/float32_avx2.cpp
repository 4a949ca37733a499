#define DIFAL_FLOAT32_TABLE kFloat32Avx2
#include "float32_kernels.inl"
