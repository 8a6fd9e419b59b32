#include "common/plan/plan_check.h"

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "common/plan/job_resolve.h"

namespace fathom::plan {
namespace {

template <typename... Parts>
absl::Status Bad(Parts... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckStages(const v1::Plan& plan) {
  const int count = plan.stages_size();
  if (count != plan.spec().parallelism().pipeline()) {
    return Bad("stages: ", count, " for a pipeline of ", plan.spec().parallelism().pipeline());
  }
  int64_t next_layer = 0;
  const int64_t layers = plan.spec().model().num_hidden_layers();
  for (int i = 0; i < count; ++i) {
    const v1::Stage& stage = plan.stages(i);
    const bool first = i == 0;
    const bool last = i == count - 1;
    if (stage.index() != i) return Bad("stages[", i, "].index: ", stage.index(), ", not ", i);
    if (stage.first_layer() != next_layer) {
      return Bad("stages[", i, "].first_layer: ", stage.first_layer(),
                 ", but the stages before end at layer ", next_layer);
    }
    if (stage.layer_count() < 0 || stage.layer_count() > layers - next_layer) {
      return Bad("stages[", i, "].layer_count: ", stage.layer_count(), " from layer ", next_layer,
                 " of a model with ", layers);
    }
    if (stage.layer_count() == 0 && !first && !last) {
      return Bad("stages[", i, "].layer_count: 0; only the first and the last stage may be empty");
    }
    if (stage.has_embedding() != first) {
      return Bad("stages[", i, "].has_embedding: the embedding is the first stage's");
    }
    if (stage.has_head() != last) {
      return Bad("stages[", i, "].has_head: the head is the last stage's");
    }
    next_layer += stage.layer_count();
  }
  if (next_layer != layers) {
    return Bad("stages: they end at layer ", next_layer, " of a model with ", layers);
  }
  return absl::OkStatus();
}

absl::Status CheckPlace(int rank, const v1::Parallelism& shape, const v1::RankAssignment& at) {
  auto differs = [&](const char* field, int64_t value, int64_t expected) {
    return Bad("ranks[", rank, "].", field, ": ", value, ", not ", expected);
  };
  if (at.rank() != rank) return differs("rank", at.rank(), rank);
  const int lane = rank / shape.pipeline();
  if (at.pipeline_rank() != rank % shape.pipeline()) {
    return differs("pipeline_rank", at.pipeline_rank(), rank % shape.pipeline());
  }
  if (at.expert_rank() != lane % shape.expert()) {
    return differs("expert_rank", at.expert_rank(), lane % shape.expert());
  }
  if (at.replica() != lane / shape.expert()) {
    return differs("replica", at.replica(), lane / shape.expert());
  }
  if (at.node().empty() || at.node().size() > limits::kMaxNodeNameBytes) {
    return Bad("ranks[", rank, "].node: \"", CutText(at.node(), 60), "\" is no node's name");
  }
  if (at.device() < 0 || at.device() >= limits::kMaxDevicesPerNode) {
    return Bad("ranks[", rank, "].device: ", at.device(), " is not from 0 to ",
               limits::kMaxDevicesPerNode - 1);
  }
  return absl::OkStatus();
}

absl::Status CheckRanks(const v1::Plan& plan) {
  const v1::Parallelism& shape = plan.spec().parallelism();
  const int expected = shape.pipeline() * shape.expert() * shape.replicas();
  if (plan.ranks_size() != expected) {
    return Bad("ranks: ", plan.ranks_size(), " where pipeline ", shape.pipeline(), " x expert ",
               shape.expert(), " x replicas ", shape.replicas(), " need ", expected);
  }
  std::map<std::pair<absl::string_view, int>, int> rank_on;
  for (int rank = 0; rank < expected; ++rank) {
    const v1::RankAssignment& at = plan.ranks(rank);
    FATHOM_RETURN_IF_ERROR(CheckPlace(rank, shape, at));
    const auto [other, is_new] = rank_on.insert({{at.node(), at.device()}, rank});
    if (!is_new) {
      return Bad("ranks[", rank, "].device: ", at.device(), " of node ", at.node(),
                 " already has rank ", other->second);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExperts(const v1::Plan& plan) {
  const int64_t experts = plan.spec().model().n_routed_experts();
  const int expert_ranks = plan.spec().parallelism().expert();
  if (plan.expert_owner_size() != experts) {
    return Bad("expert_owner: ", plan.expert_owner_size(), " entries for ", experts,
               " routed experts");
  }
  std::vector<int64_t> owned(expert_ranks, 0);
  for (int expert = 0; expert < experts; ++expert) {
    const int owner = plan.expert_owner(expert);
    if (owner < 0 || owner >= expert_ranks) {
      return Bad("expert_owner[", expert, "]: ", owner, " is not from 0 to ", expert_ranks - 1);
    }
    ++owned[owner];
  }
  for (int rank = 0; rank < expert_ranks; ++rank) {
    if (owned[rank] != experts / expert_ranks) {
      return Bad("expert_owner: expert rank ", rank, " owns ", owned[rank], " experts, not ",
                 experts / expert_ranks, " as each should");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckResume(const v1::Plan& plan) {
  if (!plan.has_resume()) return absl::OkStatus();
  const int64_t step = plan.resume().step();
  if (step < 0 || step > plan.spec().training().steps()) {
    return Bad("resume.step: ", step, " is not from 0 to the job's ",
               plan.spec().training().steps(), " steps");
  }
  if (plan.resume().manifest().empty()) {
    return Bad("resume.manifest: missing; a point to resume from names a checkpoint's manifest");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const v1::Plan& plan) {
  if (plan.job().empty()) return Bad("plan.job: missing");
  const auto check = [&]() -> absl::Status {
    if (plan.epoch() < 1) return Bad("epoch: ", plan.epoch(), "; the first is 1");
    FATHOM_RETURN_IF_ERROR(CheckResolvedSpec(plan.spec()));
    FATHOM_RETURN_IF_ERROR(CheckStages(plan));
    FATHOM_RETURN_IF_ERROR(CheckRanks(plan));
    FATHOM_RETURN_IF_ERROR(CheckExperts(plan));
    return CheckResume(plan);
  };
  return WithContext(
      check(), absl::StrCat("plan of job ", CutText(plan.job(), 100), ", epoch ", plan.epoch()));
}

}  // namespace fathom::plan
