#include "common/model/expert_traffic.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

namespace fathom::model {
namespace {

constexpr int64_t kTile = 128;      // of FP8 scales
constexpr int64_t kAlignment = 16;  // of a record's parts

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

double LogChoose(double n, double k) {
  return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1);
}

// That none of `chosen` of `all` drawn without putting back is among `marked`.
double ChanceOfNone(int64_t all, int64_t marked, int64_t chosen) {
  if (marked <= 0) return 1;
  if (all - marked < chosen) return 0;
  return std::exp(LogChoose(static_cast<double>(all - marked), static_cast<double>(chosen)) -
                  LogChoose(static_cast<double>(all), static_cast<double>(chosen)));
}

// That a token chooses at least one of a run of `held` experts, which begins at a multiple of it.
double ChanceOfAny(const ModelConfig& config, int64_t held) {
  const int64_t group_size = config.n_routed_experts / config.n_group;
  const int64_t open = config.topk_group * group_size;  // experts of the groups kept
  const int64_t held_groups = std::max<int64_t>(1, (held + group_size - 1) / group_size);
  const int64_t held_of_group = std::min(held, group_size);
  double none = 0;
  for (int64_t kept = 0; kept <= std::min(held_groups, config.topk_group); ++kept) {
    const int64_t others = config.n_group - held_groups;
    if (config.topk_group - kept > others) continue;
    const double chance = std::exp(
        LogChoose(static_cast<double>(held_groups), static_cast<double>(kept)) +
        LogChoose(static_cast<double>(others), static_cast<double>(config.topk_group - kept)) -
        LogChoose(static_cast<double>(config.n_group), static_cast<double>(config.topk_group)));
    none += chance * ChanceOfNone(open, kept * held_of_group, config.num_experts_per_tok);
  }
  return 1 - none;
}

}  // namespace

TokenBytes TokenBytesOf(const ModelConfig& config, const PrecisionRecipe& recipe) {
  const int64_t hidden = config.hidden_size;
  const int64_t top_k = config.num_experts_per_tok;
  const bool fp8 = recipe.dispatch == Format::kE4M3;
  const int64_t weight = recipe.activations == Format::kFp64 ? 8 : 4;
  const int64_t scales = fp8 ? (hidden + kTile - 1) / kTile * 4 : 0;
  TokenBytes bytes;
  bytes.combine_backward = Aligned(hidden * BytesOf(recipe.dispatch)) + Aligned(scales);
  bytes.dispatch_forward = bytes.combine_backward + Aligned(top_k * 4) + Aligned(top_k * weight);
  bytes.combine_forward = hidden * BytesOf(recipe.combine);
  bytes.dispatch_backward = bytes.combine_forward + top_k * weight;
  return bytes;
}

double RanksPerToken(const ModelConfig& config, int64_t expert_ranks) {
  return NodesPerToken(config, expert_ranks, 1);
}

double NodesPerToken(const ModelConfig& config, int64_t expert_ranks, int64_t ranks_per_node) {
  FATHOM_CHECK(expert_ranks >= 1 && ranks_per_node >= 1) << expert_ranks << " " << ranks_per_node;
  const int64_t nodes = (expert_ranks + ranks_per_node - 1) / ranks_per_node;
  if (nodes == 1) return 1;
  const int64_t held = std::max<int64_t>(1, config.n_routed_experts / nodes);
  return std::min(static_cast<double>(nodes), static_cast<double>(config.n_routed_experts)) *
         ChanceOfAny(config, held);
}

}  // namespace fathom::model
