#include "cli/timeline_op.h"

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace fathom::cli {
namespace {

constexpr int kWayMax = 1 << 16;

TimelineOp OpOf(absl::string_view text) {
  static constexpr std::array<std::pair<const char*, TimelineOpKind>, 4> kLetters = {{
      {"Bi", TimelineOpKind::kBackwardInput},
      {"B", TimelineOpKind::kBackward},
      {"F", TimelineOpKind::kForward},
      {"W", TimelineOpKind::kWeight},
  }};
  TimelineOp op;
  op.text = std::string(text);
  for (const auto& [letters, kind] : kLetters) {
    absl::string_view rest = text;
    if (!absl::ConsumePrefix(&rest, letters)) continue;
    if (rest.empty() && kind == TimelineOpKind::kWeight) {
      op.kind = kind;
      return op;
    }
    const std::vector<absl::string_view> numbers = absl::StrSplit(rest, '.');
    int way = 0;
    int64_t micro_batch = 0;
    if (numbers.size() == 2 && absl::SimpleAtoi(numbers[0], &way) && way >= 0 && way < kWayMax &&
        absl::SimpleAtoi(numbers[1], &micro_batch) && micro_batch >= 0) {
      op.kind = kind;
      op.way = way;
      op.micro_batch = micro_batch;
      return op;
    }
  }
  return op;
}

}  // namespace

std::vector<TimelineOp> ParseTimelineOps(absl::string_view what) {
  const std::vector<absl::string_view> parts = absl::StrSplit(what, '|');
  if (parts.size() == 2) {
    TimelineOp first = OpOf(parts[0]);
    TimelineOp second = OpOf(parts[1]);
    if (first.kind != TimelineOpKind::kOther && second.kind != TimelineOpKind::kOther) {
      return {std::move(first), std::move(second)};
    }
  }
  return {OpOf(what)};
}

}  // namespace fathom::cli
