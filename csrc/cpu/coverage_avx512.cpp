#define DIFAL_COVERAGE_TABLE kCoverageAvx512
#include "coverage_kernels.inl"
