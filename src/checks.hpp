#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

#include <sstream>
#include <string>

#include "selm/host/error.hpp"

/// @file
/// Checks of shape, type and device, shared by every operator and every device. They never read a
/// value, so they never wait for a device, and they work on meta and symbolic tensors.

namespace selm::ops::check {

/// Runs torch-free code and raises its errors as the c10 errors that Python maps to built-ins.
template <typename Function>
auto translated(Function function) -> decltype(function()) {
  try {
    return function();
  } catch (const Error& error) {
    switch (error.code()) {
      case ErrorCode::type:
        TORCH_CHECK_TYPE(false, error.what());
      case ErrorCode::value:
        TORCH_CHECK_VALUE(false, error.what());
      case ErrorCode::index:
        TORCH_CHECK_INDEX(false, error.what());
      case ErrorCode::not_implemented:
        TORCH_CHECK_NOT_IMPLEMENTED(false, error.what());
    }
    throw;
  }
}

inline std::string dtype_name(at::ScalarType type) {
  return std::string(c10::getDtypeNames(type).first);
}

inline std::string shape(const at::Tensor& tensor) {
  std::ostringstream text;
  text << tensor.sym_sizes();
  return text.str();
}

/// "[4] (float32, cuda:0)"
inline std::string describe(const at::Tensor& tensor) {
  return shape(tensor) + " (" + dtype_name(tensor.scalar_type()) + ", " + tensor.device().str() +
         ")";
}

/// A tensor argument together with the names that an error needs.
struct Argument {
  const char* op;
  const char* name;
  const at::Tensor& value;

  std::string expected(const std::string& what) const {
    return std::string("selm::") + op + ": expected '" + name + "' " + what;
  }
};

inline void strided(const Argument& a) {
  TORCH_CHECK_VALUE(a.value.defined(), a.expected("to be a tensor, got an undefined one"));
  TORCH_CHECK_NOT_IMPLEMENTED(a.value.layout() == at::kStrided && !a.value.is_nested(),
                              a.expected("to be a dense tensor, got layout "), a.value.layout(),
                              a.value.is_nested() ? " (nested)" : "");
  TORCH_CHECK_NOT_IMPLEMENTED(a.value.is_cpu() || a.value.is_cuda() || a.value.is_meta(),
                              a.expected("to be on the CPU or a CUDA device, got "),
                              a.value.device());
}

/// float32 or float64: a sum of hundreds of nats does not fit half precision.
inline void sequence_dtype(const Argument& a) {
  const at::ScalarType type = a.value.scalar_type();
  TORCH_CHECK_TYPE(type != at::kHalf && type != at::kBFloat16,
                   a.expected("to be float32 or float64, got "), dtype_name(type),
                   ": log-probabilities of whole sequences lose up to a nat in half precision; sum "
                   "and pass them in float32");
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble,
                   a.expected("to be float32 or float64, got "), dtype_name(type));
}

inline void floating_dtype(const Argument& a, const char* hint = "") {
  const at::ScalarType type = a.value.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
      a.expected("to be float32, float64, float16 or bfloat16, got "), dtype_name(type), hint);
}

inline void integer_dtype(const Argument& a) {
  const at::ScalarType type = a.value.scalar_type();
  TORCH_CHECK_TYPE(type == at::kLong || type == at::kInt, a.expected("to be int64 or int32, got "),
                   dtype_name(type));
}

inline void same_dtype(const Argument& a, const Argument& reference) {
  TORCH_CHECK_TYPE(a.value.scalar_type() == reference.value.scalar_type(), a.expected("to be "),
                   dtype_name(reference.value.scalar_type()), " (same as '", reference.name,
                   "'), got ", dtype_name(a.value.scalar_type()));
}

inline void same_device(const Argument& a, const Argument& reference) {
  TORCH_CHECK_VALUE(a.value.device() == reference.value.device(), a.expected("to be on "),
                    reference.value.device(), " (same as '", reference.name, "'), got ",
                    a.value.device());
}

inline void same_shape(const Argument& a, const Argument& reference) {
  TORCH_CHECK_VALUE(a.value.sym_sizes() == reference.value.sym_sizes(),
                    a.expected("to have shape "), shape(reference.value), " (same as '",
                    reference.name, "'), got ", describe(a.value));
}

inline void no_grad(const Argument& a, const char* fixed = "the reference policy") {
  TORCH_CHECK_VALUE(!a.value.requires_grad(),
                    a.expected("not to require grad, got a tensor that does: "), fixed,
                    " is fixed; compute it under torch.no_grad() or detach it");
}

/// What a log-probability tensor must share with the first one.
inline void like(const Argument& a, const Argument& reference) {
  strided(a);
  sequence_dtype(a);
  same_dtype(a, reference);
  same_device(a, reference);
  same_shape(a, reference);
}

/// The first log-probability tensor of a loss: one value per sequence.
inline void per_sequence(const Argument& a) {
  strided(a);
  sequence_dtype(a);
  TORCH_CHECK_VALUE(
      a.value.dim() == 1, a.expected("to have shape (batch,), got "), describe(a.value),
      a.value.dim() == 2 ? ": reduce per-token log-probabilities to one value per sequence first"
                         : "");
}

inline void lengths(const Argument& a, const Argument& reference) {
  strided(a);
  TORCH_CHECK_TYPE(a.value.scalar_type() == at::kLong, a.expected("to be int64, got "),
                   dtype_name(a.value.scalar_type()));
  same_device(a, reference);
  same_shape(a, reference);
}

}  // namespace selm::ops::check
