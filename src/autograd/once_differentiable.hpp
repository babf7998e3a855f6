#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <string>

/// @file
/// First derivatives only: the second backward pass raises instead of being silently wrong.

namespace selm::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// The identity on its first argument, whose backward raises. The list ties the result to every
/// tensor that the gradient depends on, so that any second backward pass gets here.
class OnceDifferentiable : public Function<OnceDifferentiable> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& grad, at::TensorList,
                          const std::string& op) {
    ctx->saved_data["op"] = op;
    return grad.view_as(grad);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "selm::", ctx->saved_data["op"].toStringRef(),
                                ": second derivatives are not implemented");
  }
};

/// `compute()` without a graph; if the caller asks for one (create_graph=True), a result that
/// raises when it is differentiated with respect to any of `dependencies`.
template <typename Compute>
Variable first_derivative(const std::string& op, at::TensorList dependencies, Compute compute) {
  Variable grad;
  {
    const at::AutoGradMode no_graph(false);
    grad = compute();
  }
  return at::GradMode::is_enabled() ? OnceDifferentiable::apply(grad, dependencies, op) : grad;
}

}  // namespace selm::ops
