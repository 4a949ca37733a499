#define DIFAL_INT16_TABLE kInt16Vnni
#include "int16_kernels.inl"
