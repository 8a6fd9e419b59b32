#include "common/plan/even_plan.h"

#include "absl/strings/str_cat.h"

namespace fathom::plan {

v1::Plan EvenPlan(const v1::JobSpec& spec, int ranks_per_node) {
  v1::Plan plan;
  *plan.mutable_spec() = spec;
  const int pipeline = spec.parallelism().pipeline();
  const int64_t layers = spec.model().num_hidden_layers();
  for (int stage = 0; stage < pipeline; ++stage) {
    v1::Stage* out = plan.add_stages();
    out->set_index(stage);
    out->set_first_layer(layers * stage / pipeline);
    out->set_layer_count(layers * (stage + 1) / pipeline - out->first_layer());
    out->set_has_embedding(stage == 0);
    out->set_has_head(stage == pipeline - 1);
  }
  const int expert = spec.parallelism().expert();
  const int ranks = pipeline * expert * spec.parallelism().replicas();
  for (int rank = 0; rank < ranks; ++rank) {
    v1::RankAssignment* out = plan.add_ranks();
    out->set_rank(rank);
    out->set_node(absl::StrCat("node", rank / ranks_per_node));
    out->set_device(rank % ranks_per_node);
    out->set_pipeline_rank(rank % pipeline);
    out->set_expert_rank(rank / pipeline % expert);
    out->set_replica(rank / pipeline / expert);
  }
  const int64_t experts = spec.model().n_routed_experts();
  for (int64_t e = 0; e < experts; ++e) {
    plan.add_expert_owner(static_cast<int>(e * expert / experts));
  }
  return plan;
}

}  // namespace fathom::plan
