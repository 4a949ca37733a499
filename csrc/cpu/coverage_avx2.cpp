#define DIFAL_COVERAGE_TABLE kCoverageAvx2
#include "coverage_kernels.inl"
