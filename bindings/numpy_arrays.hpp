#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "selm/host/arrays.hpp"
#include "selm/host/error.hpp"

/// @file
/// NumPy arrays in and out of the Eigen functions. No dtype is ever converted, except int32 labels.

namespace selm::python {

namespace py = pybind11;

using Shape = std::vector<py::ssize_t>;

/// Contiguous and aligned; a copy where the caller's array is not.
template <typename T>
using NumpyArray = py::array_t<T, py::array::c_style | py::array::forcecast |
                                      py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

inline Shape shape_of(const py::array& array) {
  return Shape(array.shape(), array.shape() + array.ndim());
}

inline std::string text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

template <typename T>
bool has_dtype(const py::array& array) {
  return py::isinstance<py::array_t<T>>(array);
}

inline std::string dtype_name(const py::array& array) {
  return py::str(array.dtype());
}

/// A Python argument, together with the names that an error needs.
struct Argument {
  const char* operation;
  const char* name;
  py::handle value;

  Error error(ErrorCode code, const std::string& expected, const std::string& got) const {
    return Error(code, operation, name, expected, got);
  }

  bool given() const { return !value.is_none(); }

  py::array array() const {
    if (!py::isinstance<py::array>(value)) {
      throw error(ErrorCode::type, "to be a numpy.ndarray", Py_TYPE(value.ptr())->tp_name);
    }
    if (py::hasattr(value, "mask")) {  // numpy.ma: its data holds what the mask hides
      throw error(
          ErrorCode::type, "to be a numpy.ndarray without a mask",
          fmt::format("{} (pass .compressed() or .filled(value))", Py_TYPE(value.ptr())->tp_name));
    }
    return py::reinterpret_borrow<py::array>(value);
  }

  /// The argument's data as T, which is what `expected` says.
  template <typename T>
  NumpyArray<T> as(const std::string& expected) const {
    const py::array raw = array();
    if (!has_dtype<T>(raw)) {
      throw error(ErrorCode::type, expected, dtype_name(raw));
    }
    return NumpyArray<T>::ensure(raw);
  }
};

/// The storage type is that of a call's first array; the others must have it too.
template <typename T>
NumpyArray<T> same_dtype(const Argument& argument, const char* first) {
  const char* name = sizeof(T) == sizeof(float) ? "float32" : "float64";
  return argument.as<T>(fmt::format("to be {} (same as '{}')", name, first));
}

/// One value per pair.
template <typename T>
NumpyArray<T> per_pair(const Argument& argument, const char* first = "policy_chosen_logps") {
  NumpyArray<T> array = same_dtype<T>(argument, first);
  if (array.ndim() != 1) {
    throw argument.error(
        ErrorCode::value, "to have shape (batch,)",
        text(shape_of(array)) + (array.ndim() == 2 ? " (reduce per-token values first)" : ""));
  }
  return array;
}

/// None for an argument that is not given.
template <typename T>
std::optional<NumpyArray<T>> optional_per_pair(const Argument& argument) {
  return argument.given() ? std::optional(per_pair<T>(argument)) : std::nullopt;
}

/// int64: numbers of tokens or of prompts.
inline NumpyArray<std::int64_t> required_lengths(const Argument& argument) {
  NumpyArray<std::int64_t> array = argument.as<std::int64_t>("to be int64");
  if (array.ndim() != 1) {
    throw argument.error(ErrorCode::value, "to have shape (batch,)", text(shape_of(array)));
  }
  return array;
}

inline std::optional<NumpyArray<std::int64_t>> optional_lengths(const Argument& argument) {
  return argument.given() ? std::optional(required_lengths(argument)) : std::nullopt;
}

/// Throws unless the argument's array has the shape of `first`: nothing is broadcast.
inline void require_shape(const Argument& argument, const py::array& array, const char* first,
                          const Shape& shape) {
  if (shape_of(array) != shape) {
    throw argument.error(ErrorCode::value,
                         fmt::format("to have shape {} (same as '{}')", text(shape), first),
                         text(shape_of(array)));
  }
}

/// An array of the same dtype and shape as `first`.
template <typename T>
NumpyArray<T> like(const Argument& argument, const char* first, const Shape& shape) {
  NumpyArray<T> array = same_dtype<T>(argument, first);
  require_shape(argument, array, first, shape);
  return array;
}

/// Token ids, int64 or int32.
inline NumpyArray<std::int64_t> labels(const Argument& argument) {
  const py::array raw = argument.array();
  if (!has_dtype<std::int64_t>(raw) && !has_dtype<std::int32_t>(raw)) {
    throw argument.error(ErrorCode::type, "to be int64 or int32", dtype_name(raw));
  }
  return NumpyArray<std::int64_t>::ensure(raw);
}

inline constexpr const char* half_precision_remedy =
    ": values of half precision are too coarse, whole sequences lose up to a nat; compute and pass "
    "them in float32";

/// Calls `function(T())` with the storage type of a call's first array, float or double.
template <typename Function>
auto with_storage_of(const Argument& first, Function&& function) {
  const py::array array = first.array();
  if (has_dtype<float>(array)) {
    return function(float{});
  }
  if (has_dtype<double>(array)) {
    return function(double{});
  }
  const bool is_half = dtype_name(array) == "float16";
  throw first.error(ErrorCode::type, "to be float32 or float64",
                    dtype_name(array) + (is_half ? half_precision_remedy : ""));
}

template <typename Function>
auto without_gil(Function&& function) {
  const py::gil_scoped_release released;
  return function();
}

/// All values of an array, whatever its shape.
template <typename T>
Eigen::Map<const Array1<T>> flat(const NumpyArray<T>& array) {
  return {array.data(), array.size()};
}

template <typename T>
OptionalArray1Ref<T> flat(const std::optional<NumpyArray<T>>& array) {
  return array ? OptionalArray1Ref<T>(flat(*array)) : std::nullopt;
}

/// The array as rows of its last dimension.
template <typename T>
Eigen::Map<const Array2<T>> rows(const NumpyArray<T>& array) {
  py::ssize_t count = 1;
  for (py::ssize_t i = 0; i + 1 < array.ndim(); ++i) {
    count *= array.shape(i);
  }
  return {array.data(), count, array.shape(array.ndim() - 1)};
}

/// A NumPy array that owns `values`.
template <typename Values>
py::array to_numpy(Values&& values, const Shape& shape) {
  using Owned = std::decay_t<Values>;
  auto owned = std::make_unique<Owned>(std::forward<Values>(values));
  const auto* data = owned->data();
  const py::capsule owner(owned.release(), [](void* p) { delete static_cast<Owned*>(p); });
  return py::array_t<typename Owned::Scalar>(shape, data, owner);
}

/// One value per pair.
template <typename T>
py::array to_numpy(Array1<T>&& values) {
  const Shape shape{values.size()};
  return to_numpy(std::move(values), shape);
}

/// selm::Error becomes the built-in exception of its kind.
inline void register_error_translator() {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      std::rethrow_exception(std::move(pointer));
    } catch (const Error& error) {
      switch (error.code()) {
        case ErrorCode::type:
          return PyErr_SetString(PyExc_TypeError, error.what());
        case ErrorCode::value:
          return PyErr_SetString(PyExc_ValueError, error.what());
        case ErrorCode::index:
          return PyErr_SetString(PyExc_IndexError, error.what());
        case ErrorCode::not_implemented:
          return PyErr_SetString(PyExc_NotImplementedError, error.what());
      }
    }
  });
}

}  // namespace selm::python
