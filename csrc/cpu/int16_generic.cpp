#define DIFAL_INT16_TABLE kInt16Generic
#include "int16_kernels.inl"
