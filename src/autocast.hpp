#pragma once

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

/// @file
/// Autocast's rule for matrix products, for an operator that computes them inside.

namespace selm::ops {

/// `tensor` in autocast's type where autocast is on for its device, as for torch.nn.Linear. float64
/// stays, and so does everything that is not floating.
inline at::Tensor autocast(const at::Tensor& tensor) {
  const at::DeviceType device = tensor.device().type();
  const bool enabled =
      at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device);
  return enabled
             ? at::autocast::cached_cast(at::autocast::get_autocast_dtype(device), tensor, device)
             : tensor;
}

/// While it lives, the matrix products inside an operator keep the types that they are given.
class WithoutAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

}  // namespace selm::ops
