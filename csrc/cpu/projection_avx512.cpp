#define DIFAL_PROJECTION_TABLE kProjectionAvx512
#include "projection_kernels.inl"
