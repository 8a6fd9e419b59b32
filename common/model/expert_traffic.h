// What expert parallelism sends for a micro-batch: how many ranks a token goes to, and how many
// bytes a token is on each way.
//
// A token goes once to every expert rank that holds one of its experts, however many of them that
// rank holds; gradients and results travel alike. The bytes are those of worker/model's messages (a
// test compares).
#ifndef FATHOM_COMMON_MODEL_EXPERT_TRAFFIC_H_
#define FATHOM_COMMON_MODEL_EXPERT_TRAFFIC_H_

#include <cstdint>

#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"

namespace fathom::model {

// Bytes of one token on one of its ways.
struct TokenBytes {
  int64_t dispatch_forward = 0;   // hidden, ids and weights of its experts
  int64_t combine_forward = 0;    // a row of the experts' sum
  int64_t combine_backward = 0;   // gradient of that row
  int64_t dispatch_backward = 0;  // gradient of the hidden and of the weights
};
TokenBytes TokenBytesOf(const ModelConfig& config, const PrecisionRecipe& recipe);

// Expert ranks that a token goes to, the mean over tokens that choose their groups, and then their
// experts, all alike; experts are dealt to ranks in equal runs. 1 for one rank.
double RanksPerToken(const ModelConfig& config, int64_t expert_ranks);

// The same where `ranks_per_node` expert ranks share a node: nodes that a token goes to.
double NodesPerToken(const ModelConfig& config, int64_t expert_ranks, int64_t ranks_per_node);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_EXPERT_TRAFFIC_H_
