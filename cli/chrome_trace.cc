#include "cli/chrome_trace.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/common_start.h"
#include "cli/timeline_op.h"
#include "cli/value.h"

namespace fathom::cli {
namespace {

constexpr int kInstructions = 0;  // thread ids
constexpr int kWaiting = 1;
// Idle time below this is rounding of the times, not waiting.
constexpr int64_t kIdleNanosecondsMin = 10;

int64_t Nanoseconds(double seconds) {
  static constexpr double kSecondsMax = 1e9;
  return std::isfinite(seconds) ? std::llround(std::clamp(seconds, 0.0, kSecondsMax) * 1e9) : 0;
}

double Microseconds(int64_t nanoseconds) { return static_cast<double>(nanoseconds) / 1e3; }

const char* CategoryOf(const std::vector<TimelineOp>& ops) {
  if (ops.size() > 1) return "overlapped";
  switch (ops.front().kind) {
    case TimelineOpKind::kForward:
      return "forward";
    case TimelineOpKind::kBackward:
      return "backward";
    case TimelineOpKind::kBackwardInput:
      return "backward_input";
    case TimelineOpKind::kWeight:
      return "weight";
    case TimelineOpKind::kOther:
      break;
  }
  return "other";
}

class TraceWriter {
 public:
  explicit TraceWriter(v1::Timeline timeline) : timeline_(std::move(timeline)) {
    for (const v1::RankTimes& rank : timeline_.ranks()) {
      for (const v1::TimedInstruction& instruction : rank.instructions()) {
        end_ = std::max(end_, Nanoseconds(instruction.end_s()));
      }
    }
  }

  std::string Write() {
    std::vector<const v1::RankTimes*> ranks;
    for (const v1::RankTimes& rank : timeline_.ranks()) ranks.push_back(&rank);
    std::stable_sort(ranks.begin(), ranks.end(), [](const auto* a, const auto* b) {
      return std::pair(a->pipeline_rank(), a->rank()) < std::pair(b->pipeline_rank(), b->rank());
    });
    for (size_t i = 0; i < ranks.size(); ++i) AddRank(static_cast<int>(i), *ranks[i]);
    Value about = Value::Object();
    about.Set("job", timeline_.job()).Set("epoch", timeline_.epoch()).Set("step", timeline_.step());
    about.Set("predicted", timeline_.predicted());
    return absl::StrCat("{\"displayTimeUnit\": \"ms\", \"otherData\": ", ToJsonLine(about),
                        ", \"traceEvents\": [\n", absl::StrJoin(lines_, ",\n"), "\n]}\n");
  }

 private:
  void AddName(const char* what, int pid, int tid, const char* key, const Value& value) {
    Value event = Value::Object();
    event.Set("name", what).Set("ph", "M").Set("pid", pid).Set("tid", tid).Set("ts", 0);
    event.Set("args", Value::Object().Set(key, value));
    lines_.push_back(ToJsonLine(event));
  }

  void AddEvent(const std::string& name, const char* category, int pid, int tid, int64_t start,
                int64_t end, const Value& arguments) {
    Value event = Value::Object();
    event.Set("name", name).Set("cat", category).Set("ph", "X").Set("pid", pid).Set("tid", tid);
    event.Set("ts", Microseconds(start)).Set("dur", Microseconds(end - start));
    if (!arguments.members().empty()) event.Set("args", arguments);
    lines_.push_back(ToJsonLine(event));
  }

  void AddIdle(int pid, int64_t start, int64_t end) {
    if (end - start < kIdleNanosecondsMin) return;
    AddEvent("idle", "idle", pid, kInstructions, start, end, Value::Object());
  }

  void AddRank(int pid, const v1::RankTimes& rank) {
    std::string name = absl::StrCat("pipeline rank ", rank.pipeline_rank());
    if (!timeline_.predicted()) absl::StrAppend(&name, ", rank ", rank.rank());
    if (!rank.node().empty()) absl::StrAppend(&name, " on ", rank.node());
    AddName("process_name", pid, kInstructions, "name", name);
    AddName("process_sort_index", pid, kInstructions, "sort_index", pid);
    AddName("thread_name", pid, kInstructions, "name", "instructions");
    std::vector<const v1::TimedInstruction*> instructions;
    bool waits = false;
    for (const v1::TimedInstruction& instruction : rank.instructions()) {
      instructions.push_back(&instruction);
      waits = waits || instruction.wait_s() > 0;
    }
    if (waits) AddName("thread_name", pid, kWaiting, "name", "waiting for peers");
    std::stable_sort(instructions.begin(), instructions.end(), [](const auto* a, const auto* b) {
      return Nanoseconds(a->start_s()) < Nanoseconds(b->start_s());
    });
    int64_t now = 0;
    for (const v1::TimedInstruction* instruction : instructions) {
      // Never over the one before, whatever a measurement says.
      const int64_t start = std::max(now, Nanoseconds(instruction->start_s()));
      const int64_t end = std::max(start, Nanoseconds(instruction->end_s()));
      AddIdle(pid, now, start);
      AddInstruction(pid, *instruction, start, end);
      now = end;
    }
    AddIdle(pid, now, end_);
  }

  void AddInstruction(int pid, const v1::TimedInstruction& instruction, int64_t start,
                      int64_t end) {
    const std::vector<TimelineOp> ops = ParseTimelineOps(instruction.what());
    const int64_t wait = std::min(Nanoseconds(instruction.wait_s()), end - start);
    Value arguments = Value::Object();
    if (ops.front().micro_batch >= 0) arguments.Set("micro_batch", ops.front().micro_batch);
    if (ops.size() > 1) arguments.Set("backward_micro_batch", ops.back().micro_batch);
    if (wait > 0) arguments.Set("wait_ms", static_cast<double>(wait) / 1e6);
    AddEvent(instruction.what(), CategoryOf(ops), pid, kInstructions, start, end, arguments);
    if (wait == 0) return;
    AddEvent(absl::StrCat("wait in ", instruction.what()), "wait", pid, kWaiting, start,
             start + wait, Value::Object());
  }

  const v1::Timeline timeline_;
  int64_t end_ = 0;  // of the step
  std::vector<std::string> lines_;
};

}  // namespace

std::string ChromeTrace(const v1::Timeline& timeline) {
  return TraceWriter(WithCommonStart(timeline)).Write();
}

}  // namespace fathom::cli
