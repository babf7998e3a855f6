#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

// The promises of docs/numerics.md.

namespace selm::test {

/// Distance from |x| to the next number of type T.
template <typename T>
double ulp(double x) {
  const T magnitude = static_cast<T>(std::fabs(x));
  return static_cast<double>(std::nextafter(magnitude, std::numeric_limits<T>::infinity())) -
         static_cast<double>(magnitude);
}

template <typename T>
bool is_representable(double x) {
  return static_cast<double>(static_cast<T>(x)) == x || std::isnan(x);
}

/// Whether `got` keeps the promise for pair quantities. `scale` is |exact| times its condition
/// number. double: 8u * scale. float: 2 ulp, and what the double arithmetic inside may lose. Both:
/// 2^-1064, for factors that underflow. Not a number and infinities must be met exactly.
template <typename T>
bool keeps_promise(T got, double exact, double scale) {
  if (std::isnan(exact)) {
    return std::isnan(got);
  }
  if (std::isinf(static_cast<T>(exact))) {
    return got == static_cast<T>(exact);
  }
  constexpr double u = std::numeric_limits<double>::epsilon() / 2;
  double bound = 8 * u * std::max(std::fabs(exact), scale) + 0x1p-1064;
  if (sizeof(T) == sizeof(float)) {
    bound += 2 * ulp<T>(exact);
  }
  return std::fabs(static_cast<double>(got) - exact) <= bound;
}

}  // namespace selm::test
