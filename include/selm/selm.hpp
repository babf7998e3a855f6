#pragma once

/// @file
/// The API that needs no LibTorch: scalar formulas (core) and their Eigen functions (host).

#include "selm/core/divergence.hpp"
#include "selm/core/exploration.hpp"
#include "selm/core/log_sum_exp.hpp"
#include "selm/core/loss_list.hpp"
#include "selm/core/math.hpp"
#include "selm/core/options.hpp"
#include "selm/core/pair.hpp"
#include "selm/core/preference.hpp"
#include "selm/core/preference_batch.hpp"
#include "selm/core/preference_loss.hpp"
#include "selm/core/reward.hpp"
#include "selm/core/row_statistics.hpp"
#include "selm/core/row_view.hpp"
#include "selm/core/token_logp.hpp"
#include "selm/host/divergence.hpp"
#include "selm/host/error.hpp"
#include "selm/host/exploration.hpp"
#include "selm/host/logps.hpp"
#include "selm/host/losses.hpp"
#include "selm/host/options.hpp"
#include "selm/host/rewards.hpp"
#include "selm/version.hpp"
