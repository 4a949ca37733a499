#define DIFAL_FLOAT32_TABLE kFloat32Generic
#include "float32_kernels.inl"
