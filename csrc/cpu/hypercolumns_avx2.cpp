#define DIFAL_HYPERCOLUMNS_TABLE kHypercolumnsAvx2
#include "hypercolumns_kernels.inl"
