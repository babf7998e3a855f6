# Decides what this build contains: SELM_HAS_CUDA, SELM_HAS_TORCH, and the packages of selm::host.

find_package(Python 3.9 COMPONENTS Interpreter QUIET)
if(Python_Interpreter_FOUND)
  # Eigen and fmt from the PyPI packages cmeel-eigen and cmeel-fmt, after what the system offers. All of sys.path
  # is searched: in an environment with --system-site-packages they may lie below another one.
  execute_process(COMMAND "${Python_EXECUTABLE}" -c
      "import os, sys; print(';'.join(p for d in sys.path if os.path.isdir(p := os.path.join(d, 'cmeel.prefix'))))"
    OUTPUT_VARIABLE cmeel_prefixes OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  list(APPEND CMAKE_PREFIX_PATH ${cmeel_prefixes})
endif()

function(selm_require variable value why)
  message(STATUS "selm_core: ${variable}=${value} (${why})")
  if("${${variable}}" STREQUAL "ON" AND NOT value)
    message(FATAL_ERROR "selm_core: ${variable}=ON, but ${why}.")
  endif()
endfunction()

if(SELM_WITH_HOST)
  find_package(Eigen3 3.4 CONFIG QUIET)
  find_package(fmt CONFIG QUIET)
  if(NOT TARGET Eigen3::Eigen OR NOT TARGET fmt::fmt-header-only)
    message(FATAL_ERROR "selm_core: selm::host needs Eigen (>= 3.4) and fmt. Install them "
      "(pip install cmeel-eigen cmeel-fmt, or apt-get install libeigen3-dev libfmt-dev), name them in "
      "CMAKE_PREFIX_PATH, or configure with -DSELM_WITH_HOST=OFF.")
  endif()
elseif(SELM_BUILD_TESTS OR SELM_BUILD_PYTHON OR SELM_WITH_TORCH STREQUAL "ON")
  message(FATAL_ERROR "selm_core: the tests, the Python modules and the LibTorch operators use selm::host; "
    "configure with -DSELM_WITH_HOST=ON.")
endif()

set(SELM_HAS_CUDA OFF)
if(SELM_WITH_CUDA STREQUAL "OFF")
  set(cuda_why "asked for")
else()
  # Named before the compiler is tried: the default of older CMake is an architecture that nvcc 13 dropped.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(SELM_HAS_CUDA ON)
    set(cuda_why "nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
  else()
    set(cuda_why "no CUDA compiler found; set CUDACXX to name one")
  endif()
endif()
selm_require(SELM_WITH_CUDA ${SELM_HAS_CUDA} "${cuda_why}")

set(SELM_HAS_TORCH OFF)
if(SELM_WITH_TORCH STREQUAL "OFF")
  set(torch_why "asked for")
elseif(NOT SELM_WITH_HOST)
  set(torch_why "it needs selm::host")
else()
  find_package(LibTorch QUIET)
  if(LibTorch_FOUND)
    set(SELM_HAS_TORCH ON)
    set(torch_why "torch ${LibTorch_VERSION} in ${LIBTORCH_ROOT}")
  else()
    set(torch_why "no torch found; install it with pip, or set LIBTORCH_ROOT to the folder that holds its include and lib")
  endif()
endif()
if(SELM_BUILD_PYTHON AND NOT SELM_HAS_TORCH)
  message(FATAL_ERROR "selm_core: the Python package is built against torch, and ${Python_EXECUTABLE} has none "
    "(${torch_why}). Install torch and the requirements of requirements/build.txt in this environment, then "
    "run: pip install --no-build-isolation .")
endif()
selm_require(SELM_WITH_TORCH ${SELM_HAS_TORCH} "${torch_why}")
