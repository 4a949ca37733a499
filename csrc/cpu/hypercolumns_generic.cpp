#define DIFAL_HYPERCOLUMNS_TABLE kHypercolumnsGeneric
#include "hypercolumns_kernels.inl"
