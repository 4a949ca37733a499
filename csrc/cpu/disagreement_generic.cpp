#define DIFAL_DISAGREEMENT disagreement_generic
#include "disagreement_kernels.inl"
