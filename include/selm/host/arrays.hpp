#pragma once

#include <fmt/format.h>

#include <Eigen/Core>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "selm/host/error.hpp"
#include "selm/host/values.hpp"

/// @file
/// The arrays of the Eigen functions and the checks of their shapes. Arguments are taken as
/// `Eigen::Ref`: arrays, maps and segments are read in place, strided ones and expressions are
/// evaluated first. The first argument decides between float and double; a mix does not compile.

namespace selm {

/// One value per pair, response or row.
template <typename T>
using Array1 = Eigen::Array<T, Eigen::Dynamic, 1>;

/// Row-major.
template <typename T>
using Array2 = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// An `Array1` argument that is read in place.
template <typename T>
using Array1Ref = Eigen::Ref<const Array1<T>>;

/// An `Array2` argument that is read in place; its rows may lie apart.
template <typename T>
using Array2Ref = Eigen::Ref<const Array2<T>, 0, Eigen::OuterStride<>>;

/// An `Array1Ref` that may be left out.
template <typename T>
using OptionalArray1Ref = std::optional<Array1Ref<T>>;

/// Storage type of an Eigen expression. In a signature it keeps later arguments out of template
/// deduction, so that they convert to `Eigen::Ref` as those of an ordinary function do.
template <typename Derived>
using ScalarOf = typename Derived::Scalar;

namespace detail {

/// No broadcasting, ever: a [batch, 1] array in place of [batch] would make batch^2 losses.
inline void check_same_size(std::string_view operation, std::string_view argument,
                            std::int64_t size, std::string_view other, std::int64_t other_size) {
  if (size != other_size) {
    throw Error(ErrorCode::value, operation, argument,
                fmt::format("to have shape [{}] (same as '{}')", other_size, other),
                fmt::format("[{}]", size));
  }
}

inline std::string shape_text(Eigen::Index rows, Eigen::Index columns) {
  return fmt::format("[{}, {}]", rows, columns);
}

/// The same for arrays of two dimensions, whatever their types.
template <typename T, typename Other>
void check_same_shape(std::string_view operation, std::string_view argument,
                      const Array2Ref<T>& values, std::string_view other,
                      const Array2Ref<Other>& other_values) {
  if (values.rows() != other_values.rows() || values.cols() != other_values.cols()) {
    throw Error(ErrorCode::value, operation, argument,
                fmt::format("to have shape {} (same as '{}')",
                            shape_text(other_values.rows(), other_values.cols()), other),
                shape_text(values.rows(), values.cols()));
  }
}

template <typename T>
void check_logps(std::string_view operation, std::string_view argument, const Array1Ref<T>& logps) {
  static_assert(
      std::is_same_v<T, float> || std::is_same_v<T, double>,
      "log-probabilities are float or double: sums over tokens do not fit half precision");
  selm::check_logps(operation, argument, logps.data(), logps.size());
}

}  // namespace detail

}  // namespace selm
