// From measurements to a verdict: what thresholds make of a preflight's checks, and what all the
// checks together say of the node. The daemon's preflight and the coordinator both judge with this.
//
// A link has two ends: one peer out of reach says nothing about this node, so failed links fail the
// node only when they are most of those tried. Every other failed check does by itself.
#ifndef FATHOM_COMMON_HEALTH_PREFLIGHT_VERDICT_H_
#define FATHOM_COMMON_HEALTH_PREFLIGHT_VERDICT_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom::health {

// Names of checks.
inline constexpr absl::string_view kComputeRateFp32 = "compute_rate_fp32";
inline constexpr absl::string_view kComputeRateBf16 = "compute_rate_bf16";
inline constexpr absl::string_view kComputeCorrectness = "compute_correctness";
inline constexpr absl::string_view kMemoryPattern = "memory_pattern";
inline constexpr absl::string_view kDiskBandwidth = "disk_bandwidth";
inline constexpr absl::string_view kDiskFree = "disk_free";
inline constexpr absl::string_view kClockStep = "clock_step";
inline constexpr absl::string_view kClockSync = "clock_sync";
inline constexpr absl::string_view kLinkLatency = "link_latency";
inline constexpr absl::string_view kLinkBandwidth = "link_bandwidth";

bool IsLinkCheck(absl::string_view check);

// Holds every check that a threshold names to it: sets threshold, at_most, calibrated, and, where a
// value that was good misses it, passed and message. A check that failed stays failed. A threshold
// or a value that is not a finite number is no threshold, and a failed check.
void ApplyThresholds(absl::Span<const v1::PreflightThreshold> thresholds,
                     v1::PreflightReport* report);

// Sets passed and verdict from the checks. A report without checks has not passed.
void Judge(v1::PreflightReport* report);

}  // namespace fathom::health

#endif  // FATHOM_COMMON_HEALTH_PREFLIGHT_VERDICT_H_
