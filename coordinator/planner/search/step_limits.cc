#include "coordinator/planner/search/step_limits.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/planner/search/loss_reason.h"

namespace fathom::planner {
namespace {

// Smaller parts of a step go without a sentence.
constexpr double kWorthTelling = 0.01;
constexpr double kFullMemory = 0.9;
constexpr size_t kOpsTold = 3;

// A sentence, and the part of a step that it is about.
using Limit = std::pair<double, std::string>;

bool IsExchange(const v1::PredictedOp& op) {
  return op.bound() == "network" || op.bound() == "scale-up";
}

void AddOps(const StepTimes& step, std::vector<Limit>* limits) {
  std::map<std::string, v1::PredictedOp> ops;  // by name, over all stages
  double total = 0;
  for (const StageTimes& stage : step.stages) {
    for (const v1::PredictedOp& op : stage.ops) {
      if (IsExchange(op)) continue;
      v1::PredictedOp& sum = ops[op.name()];
      if (sum.seconds() == 0) sum.set_bound(op.bound());
      sum.set_seconds(sum.seconds() + op.seconds());
      total += op.seconds();
    }
  }
  const v1::StepBreakdown& b = step.breakdown;
  const double compute =
      (b.forward_s() + b.backward_s() + b.weight_s() + b.overlapped_s()) / step.seconds;
  std::vector<Limit> told;
  for (const auto& [name, op] : ops) {
    const double part = op.seconds() / total;
    told.push_back({part * compute, absl::StrCat(name, " is ", PercentText(part), " of compute, ",
                                                 op.bound(), "-bound")});
  }
  std::stable_sort(told.begin(), told.end(),
                   [](const Limit& x, const Limit& y) { return x.first > y.first; });
  told.resize(std::min(told.size(), kOpsTold));
  limits->insert(limits->end(), told.begin(), told.end());
}

// The stage whose exchange is most of its compute. It limits by what sticks out.
void AddExchange(const StepTimes& step, std::vector<Limit>* limits) {
  double worst = 0;
  size_t where = 0;
  for (size_t i = 0; i < step.stages.size(); ++i) {
    const StageTimes& stage = step.stages[i];
    if (stage.compute_s <= 0 || stage.communication_s / stage.compute_s <= worst) continue;
    worst = stage.communication_s / stage.compute_s;
    where = i;
  }
  if (worst <= 0) return;
  const double overlapped = step.breakdown.overlapped_s() / step.seconds;
  if (worst <= 1) {
    limits->push_back({0, absl::StrCat("exchange hides under compute in overlapped pairs: ",
                                       PercentText(1 - worst), " slack at the least")});
  } else {
    limits->push_back({overlapped * (1 - 1 / worst),
                       absl::StrFormat("exchange takes %.2fx the compute it hides under (stage %d)",
                                       worst, where)});
  }
}

void AddImbalance(const StepTimes& step, std::vector<Limit>* limits) {
  double most = 0;
  double sum = 0;
  size_t where = 0;
  const auto& ranks = step.simulation.ranks;
  for (size_t i = 0; i < ranks.size(); ++i) {
    sum += ranks[i].busy;
    if (ranks[i].busy > most) where = i;
    most = std::max(most, ranks[i].busy);
  }
  const double mean = ranks.empty() ? 0 : sum / static_cast<double>(ranks.size());
  if (mean <= 0) return;
  limits->push_back({(most - mean) / step.seconds,
                     absl::StrFormat("pipeline rank %d is busy %.2fx the mean: whole layers do not "
                                     "split evenly",
                                     where, most / mean)});
}

}  // namespace

std::vector<std::string> StepLimits(const LayoutShape& layout, const StepTimes& step,
                                    const v1::PredictedMemory& memory, int64_t usable_bytes) {
  const v1::StepBreakdown& b = step.breakdown;
  std::vector<Limit> limits;
  AddOps(step, &limits);
  AddImbalance(step, &limits);
  const double bubble = b.bubble_s() / step.seconds;
  limits.push_back({bubble, absl::StrCat("bubble ", PercentText(bubble),
                                         " of the step: M=", layout.micro_batches,
                                         " for P=", layout.parallelism.pipeline())});
  const double update = (b.reduce_s() + b.optimizer_s()) / step.seconds;
  limits.push_back({update, absl::StrCat("gradient reduction and update ", PercentText(update),
                                         " of the step")});
  const double other = b.other_s() / step.seconds;
  limits.push_back(
      {other, absl::StrCat("jitter and other assumptions ", PercentText(other), " of the step")});
  limits.erase(std::remove_if(limits.begin(), limits.end(),
                              [](const Limit& limit) { return limit.first < kWorthTelling; }),
               limits.end());
  AddExchange(step, &limits);
  std::stable_sort(limits.begin(), limits.end(),
                   [](const Limit& x, const Limit& y) { return x.first > y.first; });
  std::vector<std::string> sentences;
  for (Limit& limit : limits) sentences.push_back(std::move(limit.second));
  const double full = static_cast<double>(memory.peak_bytes()) / static_cast<double>(usable_bytes);
  if (full > kFullMemory) {
    sentences.push_back(absl::StrCat("memory is ", PercentText(full), " full"));
  }
  return sentences;
}

}  // namespace fathom::planner
