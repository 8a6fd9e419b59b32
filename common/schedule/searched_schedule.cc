#include "common/schedule/searched_schedule.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/schedule/greedy_lists.h"
#include "common/schedule/list_search.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/random_source.h"
#include "common/schedule/rank_list.h"
#include "common/schedule/search_problem.h"

namespace fathom::schedule {
namespace {

constexpr double kGreedyShare = 0.3;  // of the effort
constexpr int kGreedyWeight = 12;     // what dispatching an instruction costs beside timing it
constexpr int kGreedyRunsMax = 400;
constexpr size_t kWalks = 4;

int ChunksOf(PlacementFamily family, int chunks) {
  if (family == PlacementFamily::kLoop) return chunks;
  return family == PlacementFamily::kV ? 2 : 1;
}

absl::StatusOr<Schedule> ShapeOf(const SearchRequest& request) {
  const int chunks = ChunksOf(request.family, request.chunks);
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(request.ranks, request.micro_batches, chunks));
  if (chunks > kMaxSearchTracks) {
    return absl::InvalidArgumentError(
        absl::StrCat("searched: chunks: ", chunks, "; choose at most ", kMaxSearchTracks));
  }
  Schedule shape =
      OneWaySchedule(kSearchedKind, request.ranks, request.micro_batches, chunks,
                     request.family == PlacementFamily::kV ? Placement::kV : Placement::kLoop);
  if (request.family == PlacementFamily::kBidirectional) {
    shape.directions = 2;
    if (request.ranks % 2 != 0 || request.micro_batches % 2 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("searched: ", request.ranks, " pipeline ranks, ", request.micro_batches,
                       " micro-batches; two directions need an even number of either"));
    }
  }
  return shape;
}

absl::StatusOr<ActivationLimits> LimitsOf(const SearchRequest& request, const Schedule& shape) {
  ActivationLimits limits;
  limits.count = request.max_activations;
  // Sums of bytes may be rounded.
  limits.bytes = request.max_activation_bytes * (1 + 1e-12);
  limits.bytes_of_stage = request.activation_bytes;
  if (limits.bytes_of_stage.size() == 1)
    limits.bytes_of_stage.resize(shape.stages, limits.bytes_of_stage.front());
  if (!limits.bytes_of_stage.empty() &&
      limits.bytes_of_stage.size() != static_cast<size_t>(shape.stages)) {
    return absl::InvalidArgumentError(
        absl::StrCat("searched: activation bytes of ", limits.bytes_of_stage.size(), " stages for ",
                     shape.stages, "; give one for each, or one for all"));
  }
  const auto is_size = [](double bytes) { return std::isfinite(bytes) && bytes >= 0; };
  if (!is_size(limits.bytes) ||
      !std::all_of(limits.bytes_of_stage.begin(), limits.bytes_of_stage.end(), is_size)) {
    return absl::InvalidArgumentError(
        "searched: activation bytes: not all are numbers of at least 0");
  }
  // Each chunk, or each direction, must be able to hold one micro-batch.
  const int tracks = shape.directions * shape.chunks;
  if (limits.count < 0 || (limits.count > 0 && limits.count < tracks)) {
    return absl::InvalidArgumentError(
        absl::StrCat("searched: at most ", limits.count, " activations on a rank that runs ",
                     tracks, " stages; allow at least ", tracks, ", or 0 for any number"));
  }
  for (int rank = 0; limits.bytes > 0 && !limits.bytes_of_stage.empty() && rank < shape.ranks;
       ++rank) {
    double least = 0;
    for (int track = 0; track < tracks; ++track) {
      least +=
          limits.bytes_of_stage[StageOf(shape, rank, track / shape.chunks, track % shape.chunks)];
    }
    if (limits.bytes < least) {
      return absl::InvalidArgumentError(
          absl::StrCat("searched: at most ", request.max_activation_bytes,
                       " bytes of activations, where one micro-batch on each stage of rank ", rank,
                       " takes ", least));
    }
  }
  return limits;
}

bool AllSound(const SearchProblem& problem, const EntryLists& lists) {
  for (size_t rank = 0; rank < lists.size(); ++rank) {
    if (!problem.IsSound(static_cast<int>(rank), lists[rank])) return false;
  }
  return !lists.empty();
}

int64_t SizeOf(const EntryLists& lists) {
  int64_t size = 0;
  for (const EntryList& list : lists) size += static_cast<int64_t>(list.size());
  return size;
}

// Any memory that LimitsOf lets pass is enough for this one: few run ahead, nothing is kept back.
GreedyPolicy CautiousPolicy() {
  GreedyPolicy policy;
  policy.split = GreedyPolicy::Split::kNever;
  policy.pairs = false;
  policy.ahead = 1;
  policy.group = 1;
  return policy;
}

class Search {
 public:
  Search(const SearchRequest& request, const SearchProblem& problem)
      : request_(request),
        problem_(problem),
        random_(request.seed),
        search_(problem, random_),
        bound_(problem.LowerBound() * (1 + 1e-12)) {}

  void Run(SearchedSchedule& result) {
    TakeNamed(result);
    TakeGreedy();
    std::stable_sort(starts_.begin(), starts_.end(),
                     [](const Start& a, const Start& b) { return a.makespan < b.makespan; });
    const size_t walks = std::min(kWalks, starts_.size());
    for (size_t i = 0; i < walks; ++i) {
      const int64_t left = request_.effort - spent();
      // The last walks go on from the best found so far, more quietly.
      const bool again = i >= (walks + 1) / 2;
      if (left <= 0 || search_.best_makespan() <= bound_) break;
      search_.Walk(again ? search_.best() : starts_[i].lists,
                   left / static_cast<int64_t>(walks - i), again ? 0.15 : 0.5, bound_);
    }
    result.timed = search_.timed();
    result.bound = problem_.LowerBound();
  }

  const EntryLists& best() const { return search_.best(); }
  double best_makespan() const { return search_.best_makespan(); }

 private:
  struct Start {
    double makespan;
    EntryLists lists;
  };

  int64_t spent() const { return search_.timed() + greedy_spent_; }

  void TakeNamed(SearchedSchedule& result) {
    result.named_makespan = std::numeric_limits<double>::infinity();
    for (const std::string& kind :
         NamedKindsOf(request_.family, ChunksOf(request_.family, request_.chunks))) {
      const bool interleaved = request_.family == PlacementFamily::kLoop && request_.chunks > 1;
      const auto named = MakeSchedule(kind, request_.ranks, request_.micro_batches,
                                      interleaved ? request_.chunks : 0);
      if (!named.ok()) continue;  // it does not take this shape
      EntryLists lists = problem_.FromSchedule(*named);
      if (!AllSound(problem_, lists)) continue;
      const double makespan = search_.Offer(lists);
      starts_.push_back({makespan, std::move(lists)});
      if (makespan >= result.named_makespan) continue;
      result.named = kind;
      result.named_makespan = makespan;
    }
    if (result.named.empty()) result.named_makespan = 0;
  }

  void TakeGreedy() {
    std::vector<GreedyPolicy> policies = {CautiousPolicy(), GreedyPolicy()};
    for (int run = 0; run < kGreedyRunsMax; ++run) {
      // However small the effort, the first policies are tried, so that there is a schedule.
      const bool always = run < static_cast<int>(policies.size());
      if (!always && (static_cast<double>(spent()) > kGreedyShare * request_.effort ||
                      search_.best_makespan() <= bound_)) {
        return;
      }
      EntryLists lists =
          GreedyLists(problem_, always ? policies[run] : RandomPolicy(problem_, random_));
      greedy_spent_ += kGreedyWeight * SizeOf(lists) + 1000;
      if (lists.empty()) continue;
      const double makespan = search_.Offer(lists);
      if (std::isfinite(makespan)) starts_.push_back({makespan, std::move(lists)});
      if (starts_.size() > 2 * kWalks) DropWorst();
    }
  }

  void DropWorst() {
    starts_.erase(
        std::max_element(starts_.begin(), starts_.end(),
                         [](const Start& a, const Start& b) { return a.makespan < b.makespan; }));
  }

  const SearchRequest& request_;
  const SearchProblem& problem_;
  RandomSource random_;
  ListSearch search_;
  const double bound_;
  int64_t greedy_spent_ = 0;
  std::vector<Start> starts_;
};

}  // namespace

absl::StatusOr<SearchedSchedule> SearchSchedule(const SearchRequest& request) {
  FATHOM_ASSIGN_OR_RETURN(const Schedule shape, ShapeOf(request));
  FATHOM_RETURN_IF_ERROR(WithContext(CheckStepCosts(request.costs, shape.stages), "searched"));
  FATHOM_ASSIGN_OR_RETURN(const ActivationLimits limits, LimitsOf(request, shape));
  const SearchProblem problem(shape, request.costs, limits);
  Search search(request, problem);
  SearchedSchedule result;
  search.Run(result);
  if (search.best().empty()) {
    return absl::InvalidArgumentError(
        "searched: found no schedule within these limits of activations; allow more");
  }
  result.schedule = problem.ToSchedule(kSearchedKind, search.best());
  FATHOM_ASSIGN_OR_RETURN(const CompiledSchedule compiled, CompiledSchedule::Make(result.schedule));
  FATHOM_ASSIGN_OR_RETURN(result.simulation, compiled.Simulate(request.costs));
  FATHOM_CHECK(result.simulation.makespan == search.best_makespan())
      << result.simulation.makespan << " simulated, " << search.best_makespan() << " searched";
  return result;
}

absl::StatusOr<PlacementFamily> ParsePlacementFamily(absl::string_view name) {
  const std::string plain = absl::AsciiStrToLower(name);
  if (plain == "loop") return PlacementFamily::kLoop;
  if (plain == "v") return PlacementFamily::kV;
  if (plain == "bidirectional") return PlacementFamily::kBidirectional;
  return absl::InvalidArgumentError(
      absl::StrCat("no placement family \"", name, "\"; there is loop, v, bidirectional"));
}

std::vector<std::string> NamedKindsOf(PlacementFamily family, int chunks) {
  switch (family) {
    case PlacementFamily::kV:
      return {"zbv", "dualpipev"};
    case PlacementFamily::kBidirectional:
      return {"dualpipe"};
    case PlacementFamily::kLoop:
      break;
  }
  if (chunks > 1) return {"interleaved-1f1b"};
  return {"1f1b", "zb1p", "zb2p"};
}

int StagesOf(PlacementFamily family, int ranks, int chunks) {
  return ranks * ChunksOf(family, chunks);
}

}  // namespace fathom::schedule
