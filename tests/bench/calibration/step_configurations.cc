#include "tests/bench/calibration/step_configurations.h"

#include "common/base/status_util.h"
#include "common/model/model_config.h"
#include "common/plan/job_resolve.h"

namespace fathom::bench {
namespace {

constexpr int kOneNode = 64;

model::ModelConfig Base(int64_t hidden, int64_t layers, int64_t experts, int64_t heads) {
  model::ModelConfig c;
  c.vocab_size = 264;
  c.hidden_size = hidden;
  c.num_hidden_layers = layers;
  c.first_k_dense_replace = 1;
  c.intermediate_size = 2 * hidden;
  c.moe_intermediate_size = hidden / 2;
  c.num_attention_heads = heads;
  c.q_lora_rank = hidden / 2;
  c.kv_lora_rank = hidden / 4;
  c.qk_nope_head_dim = 24;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 24;
  c.n_routed_experts = experts;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 2;
  c.topk_group = 2;
  c.routed_scaling_factor = 1;
  c.initializer_range = 0.02;
  return c;
}

}  // namespace

const std::vector<StepConfiguration>& StepConfigurations() {
  static const std::vector<StepConfiguration> all = {
      {"tiny fp32 1x1x1", "tiny", "fp32", 1, 1, 1, 4, 1, 0, kOneNode},
      {"tiny bf16 1x1x1", "tiny", "bf16", 1, 1, 1, 3, 1, 0, kOneNode},
      {"tiny fp8 1x1x1", "tiny", "fp8", 1, 1, 1, 3, 1, 0, kOneNode},
      {"tiny fp32 2x1x1", "tiny", "fp32", 2, 1, 1, 4, 1, 0, kOneNode},
      {"tiny fp32 1x2x1", "tiny", "fp32", 1, 2, 1, 2, 1, 0, kOneNode},
      {"tiny bf16 1x1x2 tcp", "tiny", "bf16", 1, 1, 2, 2, 1, 0, 1},
      {"tiny fp8 2x2x1", "tiny", "fp8", 2, 2, 1, 4, 1, 0, 2},
      {"tiny fp32 2x2x2", "tiny", "fp32", 2, 2, 2, 4, 1, 0, 4},
      {"toy fp32 1x1x1", "toy", "fp32", 1, 1, 1, 16, 1, 0, kOneNode},
      {"toy fp32 4x1x1", "toy", "fp32", 4, 1, 1, 16, 4, 0, kOneNode},
      {"toy bf16 2x2x1", "toy", "bf16", 2, 2, 1, 8, 4, 0, 2},
      {"toy fp8 4x2x1", "toy", "fp8", 4, 2, 1, 8, 4, 0, 4},
      {"mid fp32 1x1x1", "mid", "fp32", 1, 1, 1, 6, 1, 160, kOneNode},
      {"mid bf16 2x1x1", "mid", "bf16", 2, 1, 1, 8, 1, 160, kOneNode},
      {"mid fp8 1x2x1", "mid", "fp8", 1, 2, 1, 3, 2, 160, kOneNode},
      {"wide fp32 1x2x1 tcp", "wide", "fp32", 1, 2, 1, 2, 1, 288, 1},
      {"wide bf16 1x4x1", "wide", "bf16", 1, 4, 1, 2, 1, 288, kOneNode},
      {"wide fp32 4x1x1", "wide", "fp32", 4, 1, 1, 8, 1, 144, 2},
  };
  return all;
}

absl::StatusOr<v1::JobSpec> SpecOf(const StepConfiguration& configuration,
                                   const std::string& token_file) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("bench");
  v1::JobSpec& spec = *job.mutable_spec();
  const std::string name = configuration.model;
  if (name == "mid") {
    *spec.mutable_model() = model::ToSpec(Base(128, 4, 10, 4), "");
  } else if (name == "wide") {
    *spec.mutable_model() = model::ToSpec(Base(224, 4, 8, 6), "");
  } else {
    spec.mutable_model()->set_preset(name);
  }
  spec.set_precision(configuration.precision);
  spec.mutable_data()->set_token_file(token_file);
  if (configuration.sequence_length > 0) {
    spec.mutable_data()->set_sequence_length(configuration.sequence_length);
  }
  spec.mutable_parallelism()->set_pipeline(configuration.pipeline);
  spec.mutable_parallelism()->set_expert(configuration.expert);
  spec.mutable_parallelism()->set_replicas(configuration.replicas);
  spec.mutable_training()->set_steps(1000);
  spec.mutable_training()->set_micro_batches(configuration.micro_batches);
  spec.mutable_training()->set_micro_batch_sequences(configuration.sequences);
  FATHOM_ASSIGN_OR_RETURN(const v1::Job resolved, plan::ResolveJob(job));
  return resolved.spec();
}

}  // namespace fathom::bench
