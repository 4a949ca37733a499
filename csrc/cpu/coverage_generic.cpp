#define DIFAL_COVERAGE_TABLE kCoverageGeneric
#include "coverage_kernels.inl"
#include "difal/isa.h"

namespace difal {

const CoverageKernels& coverage_kernels() {
    switch (isa()) {
        case Isa::avx512:
            return kCoverageAvx512;
        case Isa::avx2:
            return kCoverageAvx2;
        default:
            return kCoverageGeneric;
    }
}

}  // namespace difal
