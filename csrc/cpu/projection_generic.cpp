#define DIFAL_PROJECTION_TABLE kProjectionGeneric
#include "projection_kernels.inl"
