#include "common/model/model_config.h"

#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::model {
namespace {

// How a size is named in files, where it lives, and the range in which it is sound by itself.
struct IntegerField {
  const char* name;
  int64_t ModelConfig::*member;
  int64_t min;
  int64_t max;
};

constexpr IntegerField kIntegerFields[] = {
    {"vocab_size", &ModelConfig::vocab_size, 1, kMaxDimension},
    {"hidden_size", &ModelConfig::hidden_size, 1, kMaxDimension},
    {"num_hidden_layers", &ModelConfig::num_hidden_layers, 1, kMaxLayers},
    {"first_k_dense_replace", &ModelConfig::first_k_dense_replace, 0, kMaxLayers},
    {"intermediate_size", &ModelConfig::intermediate_size, 1, kMaxDimension},
    {"moe_intermediate_size", &ModelConfig::moe_intermediate_size, 1, kMaxDimension},
    {"num_attention_heads", &ModelConfig::num_attention_heads, 1, 65536},
    {"q_lora_rank", &ModelConfig::q_lora_rank, 1, kMaxDimension},
    {"kv_lora_rank", &ModelConfig::kv_lora_rank, 1, kMaxDimension},
    {"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim, 1, 65536},
    {"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim, 2, 65536},
    {"v_head_dim", &ModelConfig::v_head_dim, 1, 65536},
    {"n_routed_experts", &ModelConfig::n_routed_experts, 2, kMaxExperts},
    {"n_shared_experts", &ModelConfig::n_shared_experts, 1, kMaxExperts},
    {"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 1, kMaxExperts},
    {"n_group", &ModelConfig::n_group, 1, kMaxExperts},
    {"topk_group", &ModelConfig::topk_group, 1, kMaxExperts},
    {"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers, 0, 1},
};

struct RealField {
  const char* name;
  double ModelConfig::*member;
  double max;  // above 0 and at most this
};

constexpr RealField kRealFields[] = {
    {"routed_scaling_factor", &ModelConfig::routed_scaling_factor, 1e6},
    {"rms_norm_eps", &ModelConfig::rms_norm_eps, 1},
    {"rope_theta", &ModelConfig::rope_theta, 1e12},
    {"initializer_range", &ModelConfig::initializer_range, 1},
};

struct Preset {
  const char* name;
  int64_t sequence_length;
  ModelConfig config;
};

// The published configuration (arXiv 2412.19437, section 4.2).
ModelConfig DeepSeekV3() {
  ModelConfig c;
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.num_hidden_layers = 61;
  c.first_k_dense_replace = 3;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.qk_nope_head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.v_head_dim = 128;
  c.n_routed_experts = 256;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  c.routed_scaling_factor = 2.5;
  c.num_nextn_predict_layers = 1;
  return c;
}

// Learns bytes on a laptop: 256 byte values, the end of a document (256), padded to a multiple
// of 8.
ModelConfig Tiny() {
  ModelConfig c;
  c.vocab_size = 264;
  c.hidden_size = 192;
  c.num_hidden_layers = 6;
  c.first_k_dense_replace = 1;
  c.intermediate_size = 384;
  c.moe_intermediate_size = 96;
  c.num_attention_heads = 4;
  c.q_lora_rank = 96;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 32;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 1;
  c.num_nextn_predict_layers = 1;
  c.initializer_range = 0.02;
  return c;
}

// The smallest with every part, and layers enough for a pipeline of 8.
ModelConfig Toy() {
  ModelConfig c;
  c.vocab_size = 264;
  c.hidden_size = 32;
  c.num_hidden_layers = 8;
  c.first_k_dense_replace = 1;
  c.intermediate_size = 64;
  c.moe_intermediate_size = 16;
  c.num_attention_heads = 2;
  c.q_lora_rank = 16;
  c.kv_lora_rank = 16;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 16;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.num_nextn_predict_layers = 1;
  c.initializer_range = 0.05;
  return c;
}

std::span<const Preset> Presets() {
  static const Preset presets[] = {
      {"deepseek-v3", 4096, DeepSeekV3()},
      {"tiny", 256, Tiny()},
      {"toy", 32, Toy()},
  };
  return presets;
}

const Preset* FindPreset(const std::string& name) {
  for (const Preset& preset : Presets()) {
    if (name == preset.name) return &preset;
  }
  return nullptr;
}

const google::protobuf::FieldDescriptor* SpecField(const char* name) {
  const auto* field = v1::ModelSpec::descriptor()->FindFieldByName(name);
  FATHOM_CHECK(field != nullptr) << "ModelSpec has no field " << name;
  return field;
}

absl::Status MissingField(const char* name) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": missing, and no preset gives it; set it, or set preset to one of ",
                   absl::StrJoin(PresetNames(), ", ")));
}

absl::Status CheckRanges(const ModelConfig& config) {
  for (const IntegerField& field : kIntegerFields) {
    const int64_t value = config.*field.member;
    if (value < field.min || value > field.max) {
      return absl::InvalidArgumentError(absl::StrCat(field.name, ": ", value,
                                                     " is out of range; choose a value from ",
                                                     field.min, " to ", field.max));
    }
  }
  for (const RealField& field : kRealFields) {
    const double value = config.*field.member;
    if (!(value > 0 && value <= field.max)) {  // also NaN
      return absl::InvalidArgumentError(
          absl::StrCat(field.name, ": ", value,
                       " is out of range; choose a number above 0 and at most ", field.max));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExperts(const ModelConfig& c) {
  if (c.n_routed_experts % c.n_group != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("n_group: ", c.n_group, " does not divide n_routed_experts, which is ",
                     c.n_routed_experts, "; choose one of its divisors"));
  }
  const int64_t group_size = c.n_routed_experts / c.n_group;
  if (group_size < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "n_group: ", c.n_group, " groups of ", c.n_routed_experts,
        " routed experts leave fewer than two in each, and a group's score is the sum of its two "
        "best; choose at most ",
        c.n_routed_experts / 2));
  }
  if (c.topk_group > c.n_group) {
    return absl::InvalidArgumentError(
        absl::StrCat("topk_group: ", c.topk_group, " is more than the n_group ", c.n_group,
                     " groups there are; choose at most ", c.n_group));
  }
  if (c.num_experts_per_tok > c.topk_group * group_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_experts_per_tok: ", c.num_experts_per_tok, " is more than the ",
                     c.topk_group * group_size, " experts in the ", c.topk_group,
                     " groups kept per token; choose at most ", c.topk_group * group_size,
                     " or raise topk_group"));
  }
  return absl::OkStatus();
}

// In 128 bits, where within the ranges of the single sizes nothing can overflow.
__int128 WideParameterCount(const ModelConfig& c) {
  using Wide = __int128;
  const Wide hidden = c.hidden_size;
  const Wide heads = c.num_attention_heads;
  const Wide attention = hidden * c.q_lora_rank + heads * c.qk_head_dim() * c.q_lora_rank +
                         hidden * (c.kv_lora_rank + c.qk_rope_head_dim) +
                         heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank +
                         hidden * heads * c.v_head_dim;
  const Wide moe = 3 * hidden * c.moe_intermediate_size * (c.n_routed_experts + c.n_shared_experts);
  const Wide dense = 3 * hidden * c.intermediate_size;
  const Wide layers = c.num_hidden_layers + c.num_nextn_predict_layers;
  const Wide embeddings = 2 * hidden * c.vocab_size;
  return layers * (attention + moe + hidden * c.n_routed_experts) +
         c.first_k_dense_replace * dense + embeddings +
         c.num_nextn_predict_layers * 2 * hidden * hidden;
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : Presets()) names.push_back(preset.name);
  return names;
}

int64_t PresetSequenceLength(const std::string& preset) {
  const Preset* found = FindPreset(preset);
  return found == nullptr ? 0 : found->sequence_length;
}

absl::StatusOr<ModelConfig> ResolveModel(const v1::ModelSpec& spec) {
  const Preset* preset = FindPreset(spec.preset());
  if (preset == nullptr && !spec.preset().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "preset: \"", spec.preset(), "\" is unknown; choose one of ",
        absl::StrJoin(PresetNames(), ", "), ", or leave it out and give every field of the model"));
  }
  ModelConfig config = preset == nullptr ? ModelConfig() : preset->config;
  const auto* reflection = v1::ModelSpec::GetReflection();
  for (const IntegerField& field : kIntegerFields) {
    if (reflection->HasField(spec, SpecField(field.name))) {
      config.*field.member = reflection->GetInt64(spec, SpecField(field.name));
    } else if (preset == nullptr) {
      return MissingField(field.name);
    }
  }
  for (const RealField& field : kRealFields) {
    if (reflection->HasField(spec, SpecField(field.name))) {
      config.*field.member = reflection->GetDouble(spec, SpecField(field.name));
    } else if (preset == nullptr) {
      return MissingField(field.name);
    }
  }
  return config;
}

v1::ModelSpec ToSpec(const ModelConfig& config, const std::string& preset) {
  v1::ModelSpec spec;
  spec.set_preset(preset);
  const auto* reflection = v1::ModelSpec::GetReflection();
  for (const IntegerField& field : kIntegerFields) {
    reflection->SetInt64(&spec, SpecField(field.name), config.*field.member);
  }
  for (const RealField& field : kRealFields) {
    reflection->SetDouble(&spec, SpecField(field.name), config.*field.member);
  }
  return spec;
}

absl::Status CheckModel(const ModelConfig& config) {
  FATHOM_RETURN_IF_ERROR(CheckRanges(config));
  if (config.first_k_dense_replace > config.num_hidden_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("first_k_dense_replace: ", config.first_k_dense_replace, " is more than the ",
                     config.num_hidden_layers, " layers of num_hidden_layers; choose at most ",
                     config.num_hidden_layers));
  }
  if (config.qk_rope_head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("qk_rope_head_dim: ", config.qk_rope_head_dim,
                     " is odd, and rotation works on pairs; choose an even number"));
  }
  FATHOM_RETURN_IF_ERROR(CheckExperts(config));
  const __int128 parameters = WideParameterCount(config);
  if (parameters > kMaxParameters) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_hidden_layers: ", config.num_hidden_layers, " layers of hidden_size ",
                     config.hidden_size, " with ", config.n_routed_experts, " experts come to ",
                     static_cast<double>(parameters), " parameters, more than the ", kMaxParameters,
                     " that can be addressed; choose smaller sizes"));
  }
  return absl::OkStatus();
}

}  // namespace fathom::model
