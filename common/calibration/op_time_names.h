// What the parts of a step are called in OpTimes, where they are no op of kernels/ops.h: the words
// between the profile run, which measures them, and the planner, which counts them.
#ifndef FATHOM_COMMON_CALIBRATION_OP_TIME_NAMES_H_
#define FATHOM_COMMON_CALIBRATION_OP_TIME_NAMES_H_

#include "absl/strings/string_view.h"
#include "common/model/precision_recipe.h"

namespace fathom::calibration {

// Beside the ops of a stage.
inline constexpr char kOverhead[] = "overhead";        // fixed: per call of an op
inline constexpr char kInstruction[] = "instruction";  // fixed: per op of the schedule's lists
inline constexpr char kExchange[] = "exchange";        // fixed: per message; bytes: packed

// Between ranks; fixed: of a core, per message, both ranks' together; bytes: sent.
inline constexpr char kMessageShm[] = "message shm";
inline constexpr char kMessageTcp[] = "message tcp";
// Fixed: until a message's receiver runs, beyond that.
inline constexpr char kLatencyShm[] = "latency shm";
inline constexpr char kLatencyTcp[] = "latency tcp";

// Fixed: of a core, each time that a rank goes on after it waited for others: its thread is woken,
// and caches hold others' data.
inline constexpr char kTurn[] = "turn";

// At the end of a step.
inline constexpr char kReduce[] = "reduce";  // bytes: added to another rank's
inline constexpr char kHash[] = "hash";      // bytes: of state and weights
inline constexpr char kStep[] = "step";      // fixed: per step

// "fp64", "fp32", "bf16", "e4m3": OpTime.format.
constexpr absl::string_view FormatName(model::Format format) {
  switch (format) {
    case model::Format::kFp64:
      return "fp64";
    case model::Format::kFp32:
      return "fp32";
    case model::Format::kBf16:
      return "bf16";
    case model::Format::kE4M3:
      return "e4m3";
  }
  return "";
}

}  // namespace fathom::calibration

#endif  // FATHOM_COMMON_CALIBRATION_OP_TIME_NAMES_H_
