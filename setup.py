"""Native extensions only; everything else is in pyproject.toml. Needs a C++17 compiler, never torch.

Environment:
    DIFAL_CUDA          auto (default): the GPU kernels are built where there is a GPU and nvcc; 1: always, and without
                        nvcc that is an error; 0: never.
    DIFAL_CUDA_ARCHS    what they are built for: "native" (default where there is a GPU), "all" (default elsewhere), or
                        compute capabilities, "80;90".
    CUDA_HOME           where the CUDA toolkit is; by default found by nvcc on the PATH.
    DIFAL_NVCCFLAGS, DIFAL_CXXFLAGS, DIFAL_LDFLAGS      more flags.
"""

import ctypes
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, PlatformError

ROOT = Path(__file__).parent
# By the ending of a source's name. The variant to run is picked at run time, so the binary stays portable.
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"]
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": AVX512,
    "_vnni": [*AVX512, "-mavx512vnni"],
    "_amx": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
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
NO_NVCC = """
difal-kernels: DIFAL_CUDA=1, but no nvcc was found. Put the CUDA toolkit's bin folder on the PATH or its place in
CUDA_HOME, or set DIFAL_CUDA=0 to build without GPU kernels.
"""
CUDA_ARCHS = ("80", "86", "89", "90", "100", "120")
# A warning that another compiler has is no reason to build nothing; bench/compile_cuda.py takes it for an error.
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror=switch,-fvisibility=hidden"]
PROBE = '#include <string_view>\nint main() { return std::string_view{"17"}.size() == 2 ? 0 : 1; }\n'


class BuildNative(build_ext):
    """Compiles each source with the flags that its name asks for, after checking for a compiler."""

    def build_extensions(self):
        self.check_compiler()
        compile_one = self.compiler._compile
        isa_flags = {isa: flags for isa, flags in ISA_FLAGS.items() if IS_X86 and self.knows(flags)}
        self.compiler.src_extensions.append(".cu")

        def compile_with_isa_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):
            if src.endswith(".cu"):
                self.spawn([str(find_nvcc()), *nvcc_flags(), "-Icsrc/include", "-Icsrc/cuda", "-c", src, "-o", obj])
                return
            isa = "_" + Path(src).stem.rpartition("_")[2]
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *isa_flags.get(isa, [])], pp_opts)

        self.compiler._compile = compile_with_isa_flags
        super().build_extensions()

    def check_compiler(self):
        try:
            self.probe([])
        except (CCompilerError, CompileError, ExecError, PlatformError, OSError) as error:
            raise SystemExit(NO_COMPILER.format(error=error)) from None

    def knows(self, flags):
        """Whether the compiler takes these flags; sources whose names ask for others are compiled without them."""
        try:
            self.probe(flags)
        except Exception:  # which class it is depends on where the compiler object comes from
            return False
        return True

    def probe(self, flags):
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "difal_probe.cpp"
        source.write_text(PROBE)
        self.compiler.compile([str(source)], output_dir=str(folder), extra_postargs=["-std=c++17", *flags])


def cpu_extension():
    """`difal_kernels._cpu`: csrc/bind_cpu*.cpp and every csrc/cpu/*.cpp."""
    flags = ["-O3", "-Wall", "-Wextra", "-Werror=switch", "-pthread"]
    flags += ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
    link = ["-pthread"]
    sanitizer = os.environ.get("DIFAL_SANITIZE")
    if sanitizer:
        if sanitizer not in SANITIZERS:
            raise SystemExit(f"DIFAL_SANITIZE must be one of {', '.join(SANITIZERS)}, got {sanitizer!r}")
        flags += ["-O1", "-g", "-fno-omit-frame-pointer", "-D_GLIBCXX_ASSERTIONS", *SANITIZERS[sanitizer].split()]
        link += SANITIZERS[sanitizer].split()
    return Pybind11Extension(
        "difal_kernels._cpu",
        sorted(
            str(p.relative_to(ROOT)) for files in ("bind_cpu*.cpp", "cpu/*.cpp") for p in (ROOT / "csrc").glob(files)
        ),
        include_dirs=["csrc/include"],
        depends=sorted(str(p.relative_to(ROOT)) for end in ("*.h", "*.inl") for p in (ROOT / "csrc").rglob(end)),
        cxx_std=17,
        extra_compile_args=flags + os.environ.get("DIFAL_CXXFLAGS", "").split(),
        extra_link_args=link + os.environ.get("DIFAL_LDFLAGS", "").split(),
    )


def cuda_extension():
    """`difal_kernels._cuda`: csrc/bind_cuda.cpp and every csrc/cuda/*.cu, with the CUDA runtime linked in."""
    home = toolkit()
    folders = [*home.glob("targets/*/lib"), home / "lib64", home / "lib"]
    return Pybind11Extension(
        "difal_kernels._cuda",
        ["csrc/bind_cuda.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cuda").glob("*.cu"))],
        include_dirs=["csrc/include"],
        library_dirs=[str(folder) for folder in folders if folder.is_dir()],
        libraries=["cudart_static", "dl", "rt", "pthread"],
        depends=sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h")),
        cxx_std=17,
        extra_compile_args=["-O3", "-Wall", "-Wextra", *os.environ.get("DIFAL_CXXFLAGS", "").split()],
        extra_link_args=os.environ.get("DIFAL_LDFLAGS", "").split(),
    )


def find_nvcc():
    """The compiler of CUDA_HOME, else the one on the PATH, else None."""
    home = os.environ.get("CUDA_HOME")
    found = Path(home) / "bin/nvcc" if home else shutil.which("nvcc")
    return Path(found) if found and Path(found).exists() else None


def toolkit():
    """Where the CUDA toolkit lies. nvcc on the PATH may be a script that starts another, so nvcc itself is asked."""
    said = subprocess.run([find_nvcc(), "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=True)
    return Path(re.search(r"^#\$ TOP=(.+)$", said.stderr, re.MULTILINE)[1].strip()).resolve()


def has_gpu():
    """Whether NVIDIA's driver is here and knows a device."""
    try:
        driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False


def nvcc_flags():
    archs = os.environ.get("DIFAL_CUDA_ARCHS") or ("native" if has_gpu() else "all")
    extra = os.environ.get("DIFAL_NVCCFLAGS", "").split()
    if archs == "native":
        return [*NVCC_FLAGS, "-arch=native", *extra]
    wanted = CUDA_ARCHS if archs == "all" else archs.replace(",", ";").split(";")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in wanted]
    newest = max(wanted, key=lambda a: int(a.rstrip("af")))  # its PTX runs on what comes after
    return [*NVCC_FLAGS, *targets, f"-gencode=arch=compute_{newest},code=compute_{newest}", "--threads=0", *extra]


def extensions():
    wanted = os.environ.get("DIFAL_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"difal-kernels: DIFAL_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "1" and find_nvcc() is None:
        raise SystemExit(NO_NVCC)
    if wanted == "1" or (wanted == "auto" and find_nvcc() is not None and has_gpu()):
        return [cpu_extension(), cuda_extension()]
    return [cpu_extension()]


ParallelCompile("DIFAL_JOBS", default=1).install()  # files compiled at a time; 0: as many as there are cores
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildNative})
