#include "cli/schedule_costs.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/atomic_file.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

using schedule::StageCosts;

constexpr double kCostMax = 1e12;
constexpr int64_t kFileBytesMax = 1 << 20;
constexpr char kCostsForm[] = "F=1,B=1,W=1,FB=3, any of them";
constexpr char kStageCostsForm[] = "F=1,2,..;B=1,1,.. with a number for each stage, or a file";

using Numbers = std::map<std::string, std::vector<double>>;  // by F, B, W, FB

absl::Status Bad(absl::string_view flag, absl::string_view part, absl::string_view why,
                 absl::string_view form) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": \"", part, "\": ", why, "; give ", form));
}

// "F=1,2,3": adds the numbers by their name.
absl::Status ReadCost(absl::string_view flag, absl::string_view part, absl::string_view form,
                      Numbers& numbers) {
  const std::vector<std::string> sides = absl::StrSplit(part, absl::MaxSplits('=', 1));
  const std::string name = absl::AsciiStrToUpper(absl::StripAsciiWhitespace(sides.front()));
  if (name != "F" && name != "B" && name != "W" && name != "FB") {
    return Bad(flag, part, "no such cost", form);
  }
  if (numbers.contains(name)) return Bad(flag, part, name + " is given twice", form);
  std::vector<double>& values = numbers[name];
  if (sides.size() < 2) return Bad(flag, part, "no number", form);
  for (const absl::string_view text : absl::StrSplit(sides[1], ',')) {
    double value = 0;
    if (!absl::SimpleAtod(text, &value)) return Bad(flag, part, "no number", form);
    if (!(value >= 0 && value <= kCostMax)) {
      return Bad(flag, part, absl::StrCat("not between 0 and ", absl::StrFormat("%g", kCostMax)),
                 form);
    }
    values.push_back(value);
  }
  return absl::OkStatus();
}

absl::StatusOr<Numbers> ReadStageCosts(const std::string& given) {
  constexpr char kFlag[] = "--stage-costs";
  std::string text = given;
  if (!absl::StrContains(given, '=')) {
    auto content = ReadFile(given, kFileBytesMax);
    if (!content.ok()) return WithContext(content.status(), kFlag);
    text = *std::move(content);
  }
  Numbers numbers;
  size_t stages = 1;
  for (const absl::string_view line : absl::StrSplit(text, absl::ByAnyChar(";\n"))) {
    const absl::string_view part = absl::StripAsciiWhitespace(line);
    if (part.empty() || part.front() == '#') continue;
    FATHOM_RETURN_IF_ERROR(ReadCost(kFlag, part, kStageCostsForm, numbers));
  }
  for (const auto& [name, values] : numbers) {
    if (values.size() == 1) continue;
    if (stages != 1 && values.size() != stages) {
      return absl::InvalidArgumentError(absl::StrCat(kFlag, ": ", values.size(), " numbers of ",
                                                     name, " beside ", stages,
                                                     " of another cost; give ", kStageCostsForm));
    }
    stages = values.size();
  }
  if (numbers.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(kFlag, ": no costs; give ", kStageCostsForm));
  }
  return numbers;
}

}  // namespace

absl::StatusOr<std::vector<StageCosts>> ParseScheduleCosts(const std::string& costs,
                                                           const std::string& stage_costs) {
  Numbers numbers;
  for (const absl::string_view part : absl::StrSplit(costs, ',', absl::SkipWhitespace())) {
    FATHOM_RETURN_IF_ERROR(ReadCost("--costs", part, kCostsForm, numbers));
  }
  if (!stage_costs.empty()) {
    FATHOM_ASSIGN_OR_RETURN(Numbers by_stage, ReadStageCosts(stage_costs));
    for (auto& [name, values] : by_stage) numbers[name] = std::move(values);
  }
  size_t stages = 1;
  for (const auto& [name, values] : numbers) stages = std::max(stages, values.size());
  const auto number = [&](const std::string& name, size_t stage, double otherwise) {
    const auto found = numbers.find(name);
    if (found == numbers.end()) return otherwise;
    return found->second[found->second.size() == 1 ? 0 : stage];
  };
  std::vector<StageCosts> all(stages);
  for (size_t stage = 0; stage < stages; ++stage) {
    StageCosts& of = all[stage];
    of.forward = number("F", stage, 1);
    of.backward_input = number("B", stage, 1);
    of.weight = number("W", stage, 1);
    of.backward = of.backward_input + of.weight;
    of.overlapped = number("FB", stage, of.forward + of.backward);
  }
  return all;
}

}  // namespace fathom::cli
