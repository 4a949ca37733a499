#define DIFAL_DISAGREEMENT disagreement_avx512
#include "disagreement_kernels.inl"
