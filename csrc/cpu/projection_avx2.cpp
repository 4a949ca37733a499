#define DIFAL_PROJECTION_TABLE kProjectionAvx2
#include "projection_kernels.inl"
