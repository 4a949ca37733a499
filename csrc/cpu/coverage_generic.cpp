#define DIFAL_COVERAGE_TABLE kCoverageGeneric
#include "coverage_kernels.inl"
#include "difal/isa.h"

namespace difal {

const CoverageKernels& coverage_kernels() {
    return *by_isa(&kCoverageGeneric, &kCoverageAvx2, &kCoverageAvx512);
}

}  // namespace difal
