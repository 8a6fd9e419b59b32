// Every op that a layer runs on one micro-batch, with its shape: the model as arithmetic and bytes.
//
// The list is that of worker/model, call for call (a test runs the real layers and compares), so
// that what predicts a step and what runs it speak of the same work. Each entry is named as its
// method of kernels/ops.h. Accelerators fuse some of the elementwise calls; `fusable` marks those
// whose inputs come straight from the op before. Left out are allocation, copies from and to the
// host and the packing of tokens into messages: they are communication (expert_traffic.h). The
// making of FP8 copies of weights is once a step: RefreshOps.
//
// Operations counted: a product of [m, k] by [k, n] is 2 m n k; attention only the half below the
// diagonal, S / 2 keys a query, as kernels skip the rest: two products forward, five backward (the
// scores are made again). All else counts as bytes alone: every operand once, twice where it is
// read and written, rows picked by index only as far as they are picked.
#ifndef FATHOM_COMMON_MODEL_LAYER_OPS_H_
#define FATHOM_COMMON_MODEL_LAYER_OPS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"

namespace fathom::model {

struct OpCall {
  const char* op = "";    // method of kernels/ops.h: "Gemm", "GemmFp8", "AttentionForward", ...
  const char* what = "";  // which: "q_b", "expert gate and up", "input norm"
  Format format = Format::kBf16;  // of its inputs
  // Products: [m, k] by [k, n]. Attention: m tokens, n = heads * (query width + value width), k the
  // sequence's length. Others: m rows of n elements, k 1.
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t count = 1;     // calls of this shape
  double flops = 0;      // of all `count` calls; 0 for what only moves bytes
  double bytes = 0;      // read and written by all `count` calls
  bool grouped = false;  // of the local experts, mean rows each; an accelerator runs the `count`
                         // calls as one
  bool fusable = false;
  int64_t heads = 0;  // of attention
};

using OpCalls = std::vector<OpCall>;

// The three passes of a part of a layer. The backward for the input includes what is made again,
// and the making of the weight gradients' FP8 operands.
struct PassOps {
  OpCalls forward;
  OpCalls backward_input;
  OpCalls backward_weight;
};

// A layer's attention, and its MLP: dense, or router, shared and routed experts. The embedding and
// the head have only `mlp`; the MTP module's projection and norms lie in `attention`, its pass of
// the head in `head`.
struct LayerOps {
  PassOps attention;
  PassOps mlp;
  PassOps head;
};

// The work of one micro-batch on one rank.
struct MicroBatchShape {
  int64_t sequences = 1;
  int64_t sequence_length = 0;
  // Of the expert group: ranks that share out the routed experts, and how many pairs of a token and
  // an expert this rank gets, over the mean (1: balanced).
  int64_t expert_ranks = 1;
  double imbalance = 1;

  int64_t tokens() const { return sequences * sequence_length; }
};

// What of a micro-batch is made again in its backward instead of kept. Selective is what
// worker/model does: norms, q_b, kv_b, rotation and the SwiGLU's output. Full keeps a layer's input
// alone and runs its forward again; none keeps all.
enum class Recomputation : uint8_t { kNone, kSelective, kFull };

// `layer` as in ParameterSpec: embedding -1, head and MTP after the layers.
LayerOps OpsOfLayer(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                    const PrecisionRecipe& recipe,
                    Recomputation recomputation = Recomputation::kSelective);

// What a stage adds to its layers: copies of what comes from the stage before and goes to the next.
PassOps StageCopies(const ModelConfig& config, bool has_embedding, bool has_head,
                    const MicroBatchShape& shape, const PrecisionRecipe& recipe);

// FP8 copies of a layer's weights and of their transposes, made once after every update; empty in
// recipes without FP8.
OpCalls RefreshOps(const ModelConfig& config, int64_t layer, int64_t expert_ranks,
                   const PrecisionRecipe& recipe);

// Pairs of a token and an expert that a rank computes, and its local experts' share of them.
struct ExpertRows {
  int64_t local_experts = 0;  // held
  int64_t pairs = 0;
  int64_t busy_experts = 0;  // with rows
  int64_t rows = 0;          // of each of those, rounded
};
ExpertRows ExpertRowsOf(const ModelConfig& config, const MicroBatchShape& shape);

double FlopsOf(const OpCalls& calls);
double BytesOf(const OpCalls& calls);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_LAYER_OPS_H_
