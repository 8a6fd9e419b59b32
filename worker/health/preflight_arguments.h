// A coordinator's PreflightRequest as arguments of fathom-preflight, bounded.
#ifndef FATHOM_WORKER_HEALTH_PREFLIGHT_ARGUMENTS_H_
#define FATHOM_WORKER_HEALTH_PREFLIGHT_ARGUMENTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom::health {

inline constexpr int kMaxPreflightPeers = 16;       // further ones are not measured
inline constexpr int kMaxPreflightThresholds = 64;  // further ones are left out

// --id, --peer and --threshold.
std::vector<std::string> ArgumentsOf(const v1::PreflightRequest& request);

// "n1=10.0.0.2:4711". INVALID_ARGUMENT otherwise.
absl::StatusOr<v1::PreflightPeer> ParsePeer(absl::string_view text);
// "link_latency<=30" or "compute_rate_fp32>=28.5". INVALID_ARGUMENT otherwise.
absl::StatusOr<v1::PreflightThreshold> ParseThreshold(absl::string_view text);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_PREFLIGHT_ARGUMENTS_H_
