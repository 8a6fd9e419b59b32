// The built-in device profiles: what each kind of accelerator can do, every figure with its source.
#ifndef FATHOM_COMMON_CLUSTER_DEVICE_PROFILES_H_
#define FATHOM_COMMON_CLUSTER_DEVICE_PROFILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cluster {

// What a rate, a latency or a price may be, in the unit that its field names: beyond, it is a
// typing error, and times made of it would be no numbers that anybody can read.
inline constexpr double kFigureMin = 1e-6;
inline constexpr double kFigureMax = 1e9;

// "h800", "h100", "h20", "h200", "a100", "gb200-nvl72", "mi300x", "ascend-910c",
// "cloudmatrix-384", "cpu".
std::vector<std::string> ProfileKinds();

// In capitals or not. INVALID_ARGUMENT: no such kind; names the nearest.
absl::StatusOr<v1::DeviceProfile> FindProfile(absl::string_view kind);

// INVALID_ARGUMENT: a rate or size is not positive or beyond what it may be, a measured time is
// below 0, or a figure has no source.
absl::Status CheckProfile(const v1::DeviceProfile& profile);

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_DEVICE_PROFILES_H_
