#define DIFAL_HYPERCOLUMNS_TABLE kHypercolumnsAvx512
#include "hypercolumns_kernels.inl"
