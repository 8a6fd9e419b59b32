// Every op that a layer runs on one micro-batch, with its shape: the model as arithmetic and bytes.
//
// The list is that of worker/model, call for call (a test runs the real layers and compares), so
// that what predicts a step and what runs it speak of the same work. Each entry is named as its
// method of kernels/ops.h. Accelerators fuse some of the elementwise calls; `fusable` marks those
// whose inputs come straight from the op before.
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
  // Products: [m, k] by [k, n]. Others: m rows of n elements, k 1.
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t count = 1;     // calls of this shape; for experts, the local ones with m rows each
  double flops = 0;      // of all `count` calls; 0 for what only moves bytes
  double bytes = 0;      // read and written by all `count` calls
  bool grouped = false;  // an accelerator runs the `count` products as one grouped product
  bool fusable = false;
};

using OpCalls = std::vector<OpCall>;

// The three passes of a part of a layer. The backward for the input includes what is recomputed.
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

// `layer` as in ParameterSpec: embedding -1, head and MTP after the layers.
LayerOps OpsOfLayer(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                    const PrecisionRecipe& recipe);

// Bytes that a layer keeps of a micro-batch from its forward for its backward, by tensor, as
// worker/model keeps them ("selective": norms, q_b, kv_b and the SwiGLU output are made again). A
// full recomputation keeps the layer's input alone; none keeps what selective makes again as well.
enum class Recomputation : uint8_t { kNone, kSelective, kFull };
struct KeptTensor {
  const char* name = "";
  int64_t bytes = 0;
};
std::vector<KeptTensor> KeptActivations(const ModelConfig& config, int64_t layer,
                                        const MicroBatchShape& shape, const PrecisionRecipe& recipe,
                                        Recomputation recomputation);

double FlopsOf(const OpCalls& calls);
double BytesOf(const OpCalls& calls);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_LAYER_OPS_H_
