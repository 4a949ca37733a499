// Which instruction set to run. Every hot kernel is one `csrc/cpu/<op>_kernels.inl`, compiled three times by
// <op>_generic.cpp, <op>_avx2.cpp and <op>_avx512.cpp (setup.py gives each its flags by that ending), each
// exporting a table of function pointers. The table is picked once, here, at run time. (int16_kernels.inl is compiled
// by int16_generic.cpp and int16_vnni.cpp; int16_tiles_generic.cpp and int16_tiles_amx.cpp are two programs.)
//
// A file compiled with wider flags must not instantiate inline functions of the standard library: the linker
// keeps one copy of each and could keep the wide one for all. So an .inl holds plain loops over raw pointers.
#pragma once

namespace difal {

enum class Isa { generic, avx2, avx512 };

// The widest set that this processor has and DIFAL_ISA (for tests) allows: generic, avx2, avx512, vnni or amx. "tiles"
// is generic with models_tiles().
Isa isa();
const char* isa_name();

// The one for isa(), of three tables or functions.
template <typename T>
T* by_isa(T* generic, T* avx2, T* avx512) {
    return isa() == Isa::avx512 ? avx512 : isa() == Isa::avx2 ? avx2 : generic;
}

// Whether isa() is avx512 and the processor multiplies 16-bit integers as well; see int16_rows.h.
bool has_vnni();

// Whether has_vnni() and it multiplies tiles of 8-bit integers as well, and lets this process do so.
bool has_amx();

// Whether 16-bit integers are laid out as for these tiles and multiplied by a scalar model of them.
bool models_tiles();

}  // namespace difal
