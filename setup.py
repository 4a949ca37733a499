"""Native extensions only; everything else is in pyproject.toml. Needs a C++17 compiler, never torch."""

import os
import platform
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

ROOT = Path(__file__).parent
# By the ending of a source's name. The variant to run is picked at run time, so the binary stays portable.
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mfma", "-mf16c", "-mprefer-vector-width=512"),
    ],
}
IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
# DIFAL_SANITIZE names one of these; csrc/sanitize/run.py builds and runs the tests with it.
SANITIZERS = {
    "address": "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-fsanitize=thread",
}
NO_COMPILER = """
difal-kernels: no working C++17 compiler was found ({error}).
Install one and run the same command again:
  Debian, Ubuntu   apt-get install g++
  Fedora, RHEL     dnf install gcc-c++
  macOS            xcode-select --install
"""
PROBE = '#include <string_view>\nint main() { return std::string_view{"17"}.size() == 2 ? 0 : 1; }\n'


class BuildNative(build_ext):
    """Compiles each source with the flags that its name asks for, after checking for a compiler."""

    def build_extensions(self):
        self.check_compiler()
        compile_one = self.compiler._compile

        def compile_with_isa_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):
            isa = "_" + Path(src).stem.rpartition("_")[2]
            flags = ISA_FLAGS.get(isa, []) if IS_X86 else []
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = compile_with_isa_flags
        super().build_extensions()

    def check_compiler(self):
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "difal_probe.cpp"
        probe.write_text(PROBE)
        try:
            self.compiler.compile([str(probe)], output_dir=str(folder), extra_postargs=["-std=c++17"])
        except (CCompilerError, CompileError, ExecError, PlatformError, OSError) as error:
            raise SystemExit(NO_COMPILER.format(error=error)) from None


def cpu_extension():
    """`difal_kernels._cpu`: csrc/bind_cpu.cpp and every csrc/cpu/*.cpp."""
    flags = ["-O3", "-Wall", "-Wextra", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
    link = ["-pthread"]
    sanitizer = os.environ.get("DIFAL_SANITIZE")
    if sanitizer:
        if sanitizer not in SANITIZERS:
            raise SystemExit(f"DIFAL_SANITIZE must be one of {', '.join(SANITIZERS)}, got {sanitizer!r}")
        flags += ["-O1", "-g", "-fno-omit-frame-pointer", "-D_GLIBCXX_ASSERTIONS", *SANITIZERS[sanitizer].split()]
        link += SANITIZERS[sanitizer].split()
    return Pybind11Extension(
        "difal_kernels._cpu",
        ["csrc/bind_cpu.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp"))],
        include_dirs=["csrc/include"],
        depends=sorted(str(p.relative_to(ROOT)) for end in ("*.h", "*.inl") for p in (ROOT / "csrc").rglob(end)),
        cxx_std=17,
        extra_compile_args=flags + os.environ.get("DIFAL_CXXFLAGS", "").split(),
        extra_link_args=link + os.environ.get("DIFAL_LDFLAGS", "").split(),
    )


setup(ext_modules=[cpu_extension()], cmdclass={"build_ext": BuildNative})
