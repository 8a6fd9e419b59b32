#include "worker/calibration/profile_jobs.h"

#include <algorithm>

#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/plan/job_resolve.h"

namespace fathom::calibration {
namespace {

constexpr ProfileShape kShapes[] = {
    {"hidden 24", 24, 4, 48, 16, 2, 16, 16, 8, 8, 8, 4, 2, 264, 20, 1, 12, 24},
    {"hidden 48", 48, 4, 96, 32, 3, 24, 16, 16, 8, 16, 8, 2, 264, 48, 2, 6, 8},
    {"hidden 96", 96, 4, 224, 64, 4, 48, 32, 16, 16, 24, 6, 2, 512, 96, 2, 4, 3},
    {"hidden 160", 160, 3, 320, 80, 4, 80, 48, 32, 16, 32, 12, 3, 264, 224, 1, 4, 2},
    {"hidden 288", 288, 2, 512, 144, 6, 128, 96, 32, 32, 48, 4, 2, 320, 320, 1, 4, 1},
};

v1::ModelSpec ModelOf(const ProfileShape& shape) {
  model::ModelConfig config;
  config.vocab_size = shape.vocabulary;
  config.hidden_size = shape.hidden;
  config.num_hidden_layers = shape.layers;
  config.first_k_dense_replace = 1;
  config.intermediate_size = shape.ffn;
  config.moe_intermediate_size = shape.expert_ffn;
  config.num_attention_heads = shape.heads;
  config.q_lora_rank = shape.q_rank;
  config.kv_lora_rank = shape.kv_rank;
  config.qk_nope_head_dim = shape.nope;
  config.qk_rope_head_dim = shape.rope;
  config.v_head_dim = shape.v;
  config.n_routed_experts = shape.experts;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = shape.top_k;
  config.n_group = 2;
  config.topk_group = 2;
  config.routed_scaling_factor = 1;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.02;
  return model::ToSpec(config, "");
}

v1::Parallelism LayoutOf(int pipeline, int expert, int replicas) {
  v1::Parallelism layout;
  layout.set_pipeline(pipeline);
  layout.set_expert(expert);
  layout.set_replicas(replicas);
  return layout;
}

}  // namespace

absl::Span<const ProfileShape> ProfileShapes() { return kShapes; }

std::vector<v1::Parallelism> GroupLayouts(int cores) {
  const int replicas = std::max(1, cores / 2);
  std::vector<v1::Parallelism> layouts = {LayoutOf(2, 2, replicas)};
  if (cores >= 2) {
    layouts.push_back(LayoutOf(1, 2, replicas));
    layouts.push_back(LayoutOf(2, 1, replicas));
  }
  return layouts;
}

absl::StatusOr<v1::JobSpec> ProfileSpec(const ProfileShape& shape, const std::string& precision,
                                        const v1::Parallelism& layout,
                                        const std::string& token_file) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("profile");
  v1::JobSpec& spec = *job.mutable_spec();
  *spec.mutable_model() = ModelOf(shape);
  spec.set_precision(precision);
  spec.mutable_data()->set_token_file(token_file);
  spec.mutable_data()->set_sequence_length(shape.sequence_length);
  *spec.mutable_parallelism() = layout;
  spec.mutable_training()->set_steps(1000);
  spec.mutable_training()->set_micro_batches(shape.micro_batches);
  spec.mutable_training()->set_micro_batch_sequences(shape.sequences);
  FATHOM_ASSIGN_OR_RETURN(const v1::Job resolved, plan::ResolveJob(job));
  return resolved.spec();
}

}  // namespace fathom::calibration
