#define DIFAL_DISAGREEMENT disagreement_avx2
#include "disagreement_kernels.inl"
