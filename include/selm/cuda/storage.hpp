#pragma once

/// @file
/// The toolkit's half types, declared so that callers need not include their headers.

struct __half;         // NOLINT(bugprone-reserved-identifier)
struct __nv_bfloat16;  // NOLINT(bugprone-reserved-identifier)
