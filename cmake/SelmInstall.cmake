# Installs headers, libraries and the package find_package(selm_core COMPONENTS core|host|cuda|torch): one
# export set each, so that a consumer without torch never needs torch.

include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/selm_core")

function(selm_install target component)
  install(TARGETS ${target} EXPORT selm_core-${component}
    LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
    FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(EXPORT selm_core-${component} NAMESPACE selm:: DESTINATION "${package_dir}")
endfunction()

selm_install(selm_core_headers core)
if(SELM_WITH_HOST)
  selm_install(selm_host host)
endif()
if(SELM_HAS_CUDA)
  selm_install(selm_cuda cuda)
endif()
if(SELM_HAS_TORCH)
  selm_install(selm_torch torch)
  install(FILES "${PROJECT_SOURCE_DIR}/cmake/FindLibTorch.cmake" DESTINATION "${package_dir}")
endif()

# For build systems other than CMake. Relocatable, as the CMake package is.
function(selm_pkg_config name)
  configure_file("${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in" "${name}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${name}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
endfunction()
selm_pkg_config(selm_core)
if(SELM_WITH_HOST)
  selm_pkg_config(selm_host)
endif()
if(SELM_HAS_CUDA)
  selm_pkg_config(selm_cuda)
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/selm_core-config.cmake.in" selm_core-config.cmake
  INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file(selm_core-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/selm_core-config.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/selm_core-config-version.cmake" DESTINATION "${package_dir}")

if(SELM_BUILD_PYTHON)
  install(TARGETS selm_python_torch selm_python_numpy LIBRARY DESTINATION ".")
  install(FILES "${PROJECT_BINARY_DIR}/bindings/_build.py" DESTINATION ".")
endif()
