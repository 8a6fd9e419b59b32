#include "coordinator/planner/search/layout_search.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status_util.h"
#include "coordinator/planner/search/loss_reason.h"

namespace fathom::planner {
namespace {

using model::Recomputation;

constexpr double kNever = std::numeric_limits<double>::infinity();
// By what they keep in memory, least first.
constexpr Recomputation kRecomputations[] = {Recomputation::kFull, Recomputation::kSelective,
                                             Recomputation::kNone};
// Layers' times that differ by less have the same split.
constexpr double kSplitSteps = 1000;
// Of the winner's split; each round tries every way of moving one layer from a stage to another.
constexpr int kMaxImprovements = 16;

// A layout that may be the best: everything but its memory and its step.
struct Option {
  LayoutShape layout;
  ScheduleForm form;
  std::shared_ptr<const CostsByLayer> times;
  double bound = 0;  // seconds of a step, at least
};

std::tuple<int, int, int> GridOf(const LayoutShape& layout) {
  const v1::Parallelism& grid = layout.parallelism;
  return {grid.pipeline(), grid.expert(), grid.replicas()};
}

bool Faster(const CostedLayout& a, const CostedLayout& b) { return a.seconds < b.seconds; }

class Search {
 public:
  Search(const SearchRequest& request, const CostFunctions& costs)
      : request_(request), costs_(costs) {}

  absl::StatusOr<SearchResult> Run() {
    FATHOM_RETURN_IF_ERROR(ChooseForms());
    FATHOM_RETURN_IF_ERROR(Try(FullShapes(request_.space)));
    if (!best_.has_value()) {
      FATHOM_RETURN_IF_ERROR(Try(PartialShapes(request_.space)));
      result_.leaves_idle = best_.has_value();
    }
    if (best_.has_value()) FATHOM_RETURN_IF_ERROR(Improve());
    return Finish();
  }

 private:
  absl::Status ChooseForms() {
    if (request_.schedule.empty()) {
      FATHOM_ASSIGN_OR_RETURN(forms_, ScheduleForms());
    } else if (request_.schedule != kSequentialKind) {
      FATHOM_ASSIGN_OR_RETURN(forms_.emplace_back(), FindScheduleForm(request_.schedule));
    }
    return absl::OkStatus();
  }

  bool Takes(const std::string& kind, Recomputation recomputation) const {
    return !request_.schedule.empty() || RunByRanks(kind, recomputation);
  }

  absl::Status Try(const std::vector<Shape>& shapes) {
    std::vector<Option> taken;  // may become the best
    std::vector<Option> told;   // of which is only told
    for (const Shape& shape : shapes) {
      for (Recomputation recomputation : kRecomputations) {
        std::vector<Option> options;
        FATHOM_RETURN_IF_ERROR(AddOptions(shape, recomputation, &options));
        for (Option& option : options) {
          (Takes(option.form.kind, recomputation) ? taken : told).push_back(std::move(option));
        }
      }
    }
    FATHOM_RETURN_IF_ERROR(EvaluateTaken(std::move(taken)));
    return EvaluateTold(std::move(told));
  }

  absl::Status AddOptions(const Shape& shape, Recomputation recomputation,
                          std::vector<Option>* options) {
    const LayoutShape layout = WithShape(request_.base, shape, recomputation);
    const int pipeline = shape.parallelism.pipeline();
    const std::vector<ScheduleForm> forms =
        pipeline == 1 ? std::vector<ScheduleForm>{SequentialForm()} : forms_;
    std::shared_ptr<const CostsByLayer> times;
    for (const ScheduleForm& form : forms) {
      if (form.stages(pipeline) > request_.space.layers) continue;
      ++result_.considered;
      const int64_t least = costs_.least_bytes(layout, form);
      if (least > request_.usable_bytes) {
        ++result_.infeasible;
        TooLarge(layout, form, least);
        continue;
      }
      if (times == nullptr) {
        FATHOM_ASSIGN_OR_RETURN(CostsByLayer found, costs_.layers(layout));
        times = std::make_shared<const CostsByLayer>(std::move(found));
      }
      FATHOM_ASSIGN_OR_RETURN(const auto splits, KnownSplitsOf(*times, form, pipeline));
      FATHOM_ASSIGN_OR_RETURN(const bool fits, MayFit(layout, form, splits));
      if (!fits) {
        ++result_.infeasible;
        continue;
      }
      for (const std::vector<int64_t>& split : splits) {
        Option& option = options->emplace_back(Option{layout, form, times, 0});
        option.layout.stage_layers = split;
        option.bound = LeastSeconds(StagesOf(*times, split), form, pipeline, shape.micro_batches);
      }
    }
    return absl::OkStatus();
  }

  // Whether memory allows it. What needs at least as much as something that doesn't fit, larger
  // micro-batches or less made again, isn't reckoned.
  absl::StatusOr<bool> MayFit(LayoutShape layout, const ScheduleForm& form,
                              const std::vector<std::vector<int64_t>>& splits) {
    const int kept = static_cast<int>(
        std::find(std::begin(kRecomputations), std::end(kRecomputations), layout.recomputation) -
        std::begin(kRecomputations));
    auto& known = unfit_[{GridOf(layout), form.kind}];
    for (const auto& [size, level] : known) {
      if (size <= layout.micro_batch_sequences && level <= kept) return false;
    }
    const absl::StatusOr<schedule::Schedule> schedule = MakeFormSchedule(
        form, layout.parallelism.pipeline(), static_cast<int>(layout.micro_batches), {});
    if (!schedule.ok()) return true;
    for (const std::vector<int64_t>& split : splits) {
      layout.stage_layers = split;
      FATHOM_ASSIGN_OR_RETURN(const v1::PredictedMemory memory, costs_.memory(layout, *schedule));
      if (memory.peak_bytes() <= request_.usable_bytes) return true;
      TooLarge(layout, form, memory.peak_bytes());
    }
    known.push_back({layout.micro_batch_sequences, kept});
    return false;
  }

  // Splits depend on the layers' times only as far as one is a part of another.
  absl::StatusOr<std::vector<std::vector<int64_t>>> KnownSplitsOf(const CostsByLayer& times,
                                                                  const ScheduleForm& form,
                                                                  int pipeline) {
    std::vector<int64_t> key = {form.stages(pipeline), form.pairs, form.mirrored};
    double most = 0;
    std::vector<double> work = {BalancedWork(times.embedding, form.pairs)};
    for (const PartCosts& layer : times.layers) work.push_back(BalancedWork(layer, form.pairs));
    work.push_back(BalancedWork(times.head, form.pairs));
    for (double one : work) most = std::max(most, one);
    for (double one : work) key.push_back(most > 0 ? std::llround(one / most * kSplitSteps) : 0);
    const auto found = splits_.find(key);
    if (found != splits_.end()) return found->second;
    FATHOM_ASSIGN_OR_RETURN(auto splits, SplitsOf(times, form, pipeline));
    if (costs_.usual_split != nullptr) {
      FATHOM_ASSIGN_OR_RETURN(auto usual, costs_.usual_split(form.stages(pipeline)));
      const bool known = std::find(splits.begin(), splits.end(), usual) != splits.end();
      if (!known) splits.push_back(std::move(usual));
    }
    return splits_.emplace(std::move(key), std::move(splits)).first->second;
  }

  // Keeps, of each grid, what came nearest to fitting.
  void TooLarge(const LayoutShape& layout, const ScheduleForm& form, int64_t bytes) {
    if (!Takes(form.kind, layout.recomputation)) return;
    CostedLayout& kept = too_large_[GridOf(layout)];
    if (kept.peak_bytes != 0 && kept.peak_bytes <= bytes) return;
    kept.layout = layout;
    kept.schedule = form.kind;
    kept.peak_bytes = bytes;
    kept.run_by_ranks = RunByRanks(form.kind, layout.recomputation);
  }

  // Of each grid the best, until no other can be among the candidates.
  absl::Status EvaluateTaken(std::vector<Option> options) {
    std::stable_sort(options.begin(), options.end(),
                     [](const Option& a, const Option& b) { return a.bound < b.bound; });
    for (const Option& option : options) {
      const auto grid = GridOf(option.layout);
      const auto found = of_grid_.find(grid);
      if (found != of_grid_.end() && option.bound >= found->second.seconds) continue;
      if (found == of_grid_.end() && EnoughGrids() && option.bound >= best_->seconds) continue;
      FATHOM_ASSIGN_OR_RETURN(const std::optional<CostedLayout> costed, Evaluate(option));
      if (!costed.has_value()) continue;
      if (found == of_grid_.end() || Faster(*costed, found->second)) of_grid_[grid] = *costed;
      if (!best_.has_value() || Faster(*costed, *best_)) {
        best_ = *costed;
        best_times_ = option.times;
        best_form_ = option.form;
      }
    }
    return absl::OkStatus();
  }

  bool EnoughGrids() const {
    return best_.has_value() && static_cast<int>(of_grid_.size()) > request_.candidates;
  }

  // What ranks can't run yet: of each schedule and recomputation the best, where it can be faster
  // than the best that they run.
  absl::Status EvaluateTold(std::vector<Option> options) {
    std::stable_sort(options.begin(), options.end(),
                     [](const Option& a, const Option& b) { return a.bound < b.bound; });
    for (const Option& option : options) {
      const auto key = std::make_pair(option.form.kind, option.layout.recomputation);
      const auto found = of_kind_.find(key);
      const double least = found != of_kind_.end() ? found->second.seconds
                           : best_.has_value()     ? best_->seconds
                                                   : kNever;
      if (option.bound >= least) continue;
      FATHOM_ASSIGN_OR_RETURN(const std::optional<CostedLayout> costed, Evaluate(option));
      if (costed.has_value() && costed->seconds < least) of_kind_[key] = *costed;
    }
    return absl::OkStatus();
  }

  // None where memory or the schedule's rules forbid it.
  absl::StatusOr<std::optional<CostedLayout>> Evaluate(const Option& option) {
    const absl::StatusOr<schedule::Schedule> schedule =
        MakeFormSchedule(option.form, option.layout.parallelism.pipeline(),
                         static_cast<int>(option.layout.micro_batches),
                         StageCostsOf(StagesOf(*option.times, option.layout.stage_layers)));
    if (absl::IsInvalidArgument(schedule.status())) return std::optional<CostedLayout>();
    if (!schedule.ok()) return schedule.status();
    FATHOM_ASSIGN_OR_RETURN(CostedLayout costed,
                            CostLayout(option.layout, *schedule, request_.usable_bytes, costs_));
    if (costed.fits) return std::optional<CostedLayout>(std::move(costed));
    TooLarge(option.layout, option.form, costed.peak_bytes);
    return std::optional<CostedLayout>();
  }

  // Moves layers between the winner's stages while that makes its step shorter.
  absl::Status Improve() {
    for (int round = 0; round < kMaxImprovements; ++round) {
      FATHOM_ASSIGN_OR_RETURN(const bool improved, ImproveOnce());
      if (!improved) break;
    }
    of_grid_[GridOf(best_->layout)] = *best_;
    return absl::OkStatus();
  }

  absl::StatusOr<bool> ImproveOnce() {
    const std::vector<int64_t> split = best_->layout.stage_layers;
    const int stages = static_cast<int>(split.size());
    std::vector<Option> options;
    for (int from = 0; from < stages; ++from) {
      for (int to = 0; to < stages; ++to) {
        const bool end = from == 0 || from == stages - 1;
        if (from == to || split[from] <= (end ? 0 : 1)) continue;
        Option option{best_->layout, best_form_, best_times_, 0};
        --option.layout.stage_layers[from];
        ++option.layout.stage_layers[to];
        option.bound =
            LeastSeconds(StagesOf(*best_times_, option.layout.stage_layers), best_form_,
                         option.layout.parallelism.pipeline(), option.layout.micro_batches);
        if (option.bound < best_->seconds) options.push_back(std::move(option));
      }
    }
    std::stable_sort(options.begin(), options.end(),
                     [](const Option& a, const Option& b) { return a.bound < b.bound; });
    bool improved = false;
    for (const Option& option : options) {
      if (option.bound >= best_->seconds) break;
      FATHOM_ASSIGN_OR_RETURN(const std::optional<CostedLayout> costed, Evaluate(option));
      if (!costed.has_value() || !Faster(*costed, *best_)) continue;
      best_ = *costed;
      improved = true;
    }
    return improved;
  }

  SearchResult Finish() {
    result_.best = best_;
    std::vector<CostedLayout> fit;
    for (const auto& [grid, costed] : of_grid_) {
      if (grid != GridOf(best_->layout)) fit.push_back(costed);
    }
    for (const auto& [kind, costed] : of_kind_) fit.push_back(costed);
    std::stable_sort(fit.begin(), fit.end(), Faster);
    std::vector<CostedLayout> large;
    for (const auto& [grid, costed] : too_large_) {
      if (of_grid_.count(grid) == 0) large.push_back(costed);
    }
    std::stable_sort(large.begin(), large.end(), [](const CostedLayout& a, const CostedLayout& b) {
      return a.peak_bytes < b.peak_bytes;
    });
    // At least a quarter of those told of are ones that don't fit, where there are so many.
    const size_t most = std::max(0, request_.candidates);
    const size_t of_large =
        std::min(large.size(), std::max(most / 4, most - std::min(most, fit.size())));
    fit.resize(std::min(fit.size(), most - of_large));
    fit.insert(fit.end(), large.begin(), large.begin() + of_large);
    for (CostedLayout& other : fit) {
      other.why = WhyItLost(other, best_.has_value() ? &*best_ : nullptr, request_.usable_bytes,
                            costs_.nodes_of_group(other.layout.parallelism));
    }
    result_.others = std::move(fit);
    return result_;
  }

  const SearchRequest& request_;
  const CostFunctions& costs_;
  std::vector<ScheduleForm> forms_;

  std::optional<CostedLayout> best_;
  std::shared_ptr<const CostsByLayer> best_times_;
  ScheduleForm best_form_;
  std::map<std::tuple<int, int, int>, CostedLayout> of_grid_;
  std::map<std::pair<std::string, Recomputation>, CostedLayout> of_kind_;
  std::map<std::tuple<int, int, int>, CostedLayout> too_large_;
  // By grid and schedule: sizes of micro-batches and indices into kRecomputations.
  std::map<std::pair<std::tuple<int, int, int>, std::string>, std::vector<std::pair<int64_t, int>>>
      unfit_;
  std::map<std::vector<int64_t>, std::vector<std::vector<int64_t>>> splits_;
  SearchResult result_;
};

}  // namespace

absl::StatusOr<SearchResult> SearchLayouts(const SearchRequest& request,
                                           const CostFunctions& costs) {
  return Search(request, costs).Run();
}

}  // namespace fathom::planner
