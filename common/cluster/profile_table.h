// How the built-in device profiles are written down: one row per kind of device, its rates and the
// sources of its figures beside it.
//
// Rows speak of data sheets' units. Shapes of rates: products are [m, k] by [k, n], for grouped
// ones m is a group's rows; attention is m positions of values n wide and keys k wide, its rate
// counting two products forward and five backward, of a causal mask the visible half; exchanges
// are m tokens of n elements over `groups` scale-up domains.
#ifndef FATHOM_COMMON_CLUSTER_PROFILE_TABLE_H_
#define FATHOM_COMMON_CLUSTER_PROFILE_TABLE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cluster {

struct RateRow {
  const char* op;
  const char* format;
  int64_t groups;
  int64_t m;
  int64_t n;
  int64_t k;
  double rate;
  const char* source;
};

struct SourceRow {
  const char* figures;  // names of DeviceProfile's fields, with spaces between
  const char* text;
};

struct ProfileRow {
  const char* kind;
  const char* title;
  double bf16_tflops;
  double fp8_tflops;
  double fp32_tflops;
  double memory_gb;  // 1e9 bytes
  double memory_gigabytes_per_second;
  int32_t compute_units;
  int32_t communication_units;
  int32_t scale_up_devices;
  double scale_up_gigabytes_per_second;
  double scale_up_effective_gigabytes_per_second;
  double scale_up_latency_us;
  double nic_gigabits_per_second;
  double watts;
  double launch_us;
  double dollars_per_device_hour;
  absl::Span<const RateRow> rates;
  absl::Span<const SourceRow> sources;
  // Kind that stands in for what is not published of this one: of an op and format without a rate
  // of its own, it is assumed to reach the share of its peaks that the other reaches. Null: none.
  const char* like;
};

absl::Span<const ProfileRow> NvidiaProfiles();
absl::Span<const ProfileRow> OtherProfiles();

// Null if there is none of that kind.
const ProfileRow* FindRow(absl::string_view kind);

v1::DeviceProfile MakeProfile(const ProfileRow& row);

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_PROFILE_TABLE_H_
