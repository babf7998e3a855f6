# One imported target for a LibTorch that is there: LibTorch::LibTorch, and LibTorch::CUDA where it has CUDA.
#
# LIBTORCH_ROOT names the folder with torch's include and lib. By default it is looked for below
# CMAKE_PREFIX_PATH (also as torch.utils.cmake_prefix_path gives it) and asked of the Python that CMake finds.
#
# torch's own TorchConfig.cmake is not used: it fails without a CUDA toolkit for a torch that has CUDA, adds
# flags for architectures that current compilers refuse, and changes variables of the caller.

if(NOT LIBTORCH_ROOT)
  foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
    foreach(root "${prefix}" "${prefix}/../.." "${prefix}/libtorch")
      if(EXISTS "${root}/include/ATen/core/Tensor.h")
        get_filename_component(LIBTORCH_ROOT "${root}" ABSOLUTE)
      endif()
    endforeach()
  endforeach()
endif()
if(NOT LIBTORCH_ROOT)
  find_package(Python 3.9 COMPONENTS Interpreter QUIET)
  if(Python_Interpreter_FOUND)
    # find_spec, not import: it takes no seconds and cannot fail in torch itself.
    execute_process(
      COMMAND "${Python_EXECUTABLE}" -c
        "import importlib.util, os; s = importlib.util.find_spec('torch'); print(os.path.dirname(s.origin) if s else '')"
      OUTPUT_VARIABLE LIBTORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
endif()

set(LibTorch_VERSION)
foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
  if(NOT LibTorch_VERSION AND EXISTS "${LIBTORCH_ROOT}/include/${header}")
    file(STRINGS "${LIBTORCH_ROOT}/include/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH)")
    string(REGEX MATCHALL "(MAJOR|MINOR|PATCH) [0-9]+" parts "${lines}")
    string(REGEX REPLACE "[A-Z]+ " "" parts "${parts}")
    string(REPLACE ";" "." LibTorch_VERSION "${parts}")
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LIBTORCH_ROOT LibTorch_VERSION VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "Set LIBTORCH_ROOT to the folder that holds torch's include and lib, or put a Python that \
has torch first in PATH.")

# Links libraries that no linker may drop, as some do by default where no symbol is referred to: kernels register
# themselves when they are loaded, and an executable names what its libraries need, because their search path is
# not its own. One option in one piece: CMake moves libraries that are named twice out of their place. The plain
# names before it give CMake the search path.
function(_libtorch_link target)
  list(TRANSFORM ARGN PREPEND "${LIBTORCH_ROOT}/lib/" OUTPUT_VARIABLE libraries)
  list(JOIN libraries "," joined)
  target_link_libraries(${target} INTERFACE
    ${libraries} "-Wl,--push-state,--no-as-needed,${joined},--pop-state")
endfunction()

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    "${LIBTORCH_ROOT}/include" "${LIBTORCH_ROOT}/include/torch/csrc/api/include")
  _libtorch_link(LibTorch::LibTorch libtorch.so libtorch_cpu.so libc10.so)
  if(LibTorch_VERSION VERSION_GREATER_EQUAL 2.13)
    target_compile_features(LibTorch::LibTorch INTERFACE cxx_std_20)
  else()
    target_compile_features(LibTorch::LibTorch INTERFACE cxx_std_17)
  endif()
  if(EXISTS "${LIBTORCH_ROOT}/lib/libtorch_cuda.so")
    add_library(LibTorch::CUDA INTERFACE IMPORTED)
    target_link_libraries(LibTorch::CUDA INTERFACE LibTorch::LibTorch)
    _libtorch_link(LibTorch::CUDA libtorch_cuda.so libc10_cuda.so)
  endif()
endif()
