#pragma once

/// @file
/// The one place of the version. CMake and the Python package read it from here.

/// The version, major.minor.patch.
#define SELM_VERSION "0.1.0"
