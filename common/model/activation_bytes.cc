// Shape letters: T tokens, D hidden width, F width of an MLP, E routed experts, P pairs of a token
// and an expert, R records received.
#include "common/model/activation_bytes.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "common/model/expert_traffic.h"
#include "common/model/parameter_layout.h"

namespace fathom::model {
namespace {

constexpr int64_t kTile = 128;      // of FP8 scales
constexpr int64_t kAlignment = 64;  // of scales behind their codes
constexpr int64_t kIndexBytes = 4;
constexpr int64_t kLogitsAtOnce = int64_t{1} << 24;
constexpr int64_t kElementsAtOnce = int64_t{1} << 24;  // of sums of experts' rows, as they leave

// A layer's sizes, and bytes of tensors in the formats of a recipe.
class Layer {
 public:
  Layer(const ModelConfig& config, const MicroBatchShape& shape, const PrecisionRecipe& recipe)
      : config_(config),
        recipe_(recipe),
        tokens(shape.tokens()),
        hidden(config.hidden_size),
        heads(config.num_attention_heads),
        q_width(heads * config.qk_head_dim()),
        kv_width(heads * (config.qk_nope_head_dim + config.v_head_dim)),
        v_width(heads * config.v_head_dim),
        latents(config.kv_lora_rank + config.qk_rope_head_dim),
        shared_width(config.n_shared_experts * config.moe_intermediate_size),
        experts(ExpertRowsOf(config, shape)),
        pairs(experts.pairs) {
    const double ranks = RanksPerToken(config, shape.expert_ranks);
    sent = std::llround(static_cast<double>(tokens) * ranks);
    received = std::llround(static_cast<double>(tokens) * ranks * shape.imbalance);
  }

  const ModelConfig& config() const { return config_; }
  bool fp8() const { return recipe_.products == Format::kE4M3; }
  // Bytes of [rows, cols]: in the activations' format, in that of sums, in E4M3.
  int64_t A(int64_t rows, int64_t cols) const { return rows * cols * BytesOf(recipe_.activations); }
  int64_t S(int64_t rows, int64_t cols) const {
    return rows * cols * (recipe_.activations == Format::kFp64 ? 8 : 4);
  }
  int64_t Combine(int64_t rows, int64_t cols) const {
    return rows * cols * BytesOf(recipe_.combine);
  }
  int64_t Fp8(int64_t rows, int64_t cols) const {
    if (!fp8()) return 0;
    const int64_t codes = (rows * cols + kAlignment - 1) / kAlignment * kAlignment;
    return codes + rows * ((cols + kTile - 1) / kTile) * 4;
  }
  // What is kept as codes under FP8, as it is otherwise.
  int64_t Codes(int64_t rows, int64_t cols) const {
    return fp8() ? Fp8(rows, cols) : A(rows, cols);
  }
  // An operand of a weight gradient, of all tokens or of the local experts' rows.
  int64_t Along(int64_t rows, int64_t cols) const {
    return fp8() ? Fp8(cols, rows) : A(rows, cols);
  }
  int64_t ExpertsAlong(int64_t cols) const {
    return fp8() ? experts.busy_experts * Fp8(cols, experts.rows) : A(pairs, cols);
  }
  bool converts() const { return A(1, 1) != S(1, 1); }

 private:
  const ModelConfig& config_;
  const PrecisionRecipe& recipe_;

 public:
  int64_t tokens, hidden, heads, q_width, kv_width, v_width, latents, shared_width;
  ExpertRows experts;
  int64_t pairs;
  int64_t sent = 0;
  int64_t received = 0;
};

void KeepAttention(const Layer& l, bool all, HeldTensors* out) {
  const int64_t t = l.tokens;
  const ModelConfig& c = l.config();
  out->push_back({"layer input", l.A(t, l.hidden)});
  out->push_back({"query latent", l.A(t, c.q_lora_rank)});
  out->push_back({"key-value latent", l.A(t, l.latents)});
  out->push_back({"attention output", l.A(t, l.v_width)});
  out->push_back({"log-sum-exp", l.S(t, l.heads)});
  if (!all) return;
  out->push_back({"attention input", l.Codes(t, l.hidden)});
  out->push_back({"normed latents", l.A(t, c.q_lora_rank + c.kv_lora_rank)});
  out->push_back({"queries, keys and values", l.A(t, 2 * l.q_width + l.v_width)});
}

void KeepMlp(const Layer& l, bool moe, bool all, HeldTensors* out) {
  const int64_t t = l.tokens;
  const ModelConfig& c = l.config();
  const int64_t width = moe ? l.shared_width : c.intermediate_size;
  out->push_back({"attention result", l.A(t, l.hidden)});
  if (all && l.fp8()) out->push_back({"mlp input codes", l.Fp8(t, l.hidden)});
  if (width > 0) out->push_back({"gate and up", l.Codes(t, 2 * width)});
  if (all && (moe || !l.fp8())) out->push_back({"mlp input", l.A(t, l.hidden)});
  if (all && width > 0) out->push_back({"swiglu output", l.A(t, width)});
  if (!moe) return;
  out->push_back({"router logits", l.S(t, c.n_routed_experts)});
  out->push_back({"chosen experts", t * c.num_experts_per_tok * kIndexBytes});
  out->push_back({"token indices", l.sent * kIndexBytes});
  out->push_back({"received tokens", l.Codes(l.pairs, l.hidden)});
  out->push_back({"received weights", l.S(l.pairs, 1)});
  out->push_back({"expert gate and up", l.Codes(l.pairs, 2 * c.moe_intermediate_size)});
  if (all) {
    out->push_back({"expert swiglu output", l.A(l.pairs, c.moe_intermediate_size)});
  }
}

void KeepHead(const Layer& l, bool all, HeldTensors* out) {
  out->push_back({"head input", l.A(l.tokens, l.hidden)});
  out->push_back({"logit gradients", l.A(l.tokens, l.config().vocab_size)});
  if (all) out->push_back({"normed head input", l.A(l.tokens, l.hidden)});
}

int64_t DeferredAttention(const Layer& l) {
  const ModelConfig& c = l.config();
  int64_t sum = 0;
  for (const int64_t width : {l.hidden, l.q_width, l.kv_width, c.q_lora_rank, l.latents,
                              // and inputs
                              l.v_width, c.q_lora_rank, c.kv_lora_rank, l.hidden}) {
    sum += l.Along(l.tokens, width);
  }
  return sum;
}

void DeferAttention(const Layer& l, HeldTensors* out) {
  out->push_back({"attention weight-gradient inputs", DeferredAttention(l)});
}

void DeferMlp(const Layer& l, bool moe, HeldTensors* out) {
  const int64_t t = l.tokens;
  const ModelConfig& c = l.config();
  const int64_t width = moe ? l.shared_width : c.intermediate_size;
  int64_t normed = width > 0 ? l.Along(t, l.hidden) : 0;
  if (moe) {  // the gate takes the tensor, which without FP8 is the shared experts' operand too
    normed = l.A(t, l.hidden) + (l.fp8() ? normed : 0);
  }
  out->push_back({"mlp input", normed});
  if (width > 0) {
    out->push_back({"mlp gradient", l.Along(t, l.hidden)});
    out->push_back({"swiglu output", l.Along(t, width)});
    out->push_back({"gate and up gradient", l.Along(t, 2 * width)});
  }
  if (!moe) return;
  const int64_t expert_width = c.moe_intermediate_size;
  out->push_back({"router gradient", l.A(t, c.n_routed_experts)});
  out->push_back({"expert input and gradient", 2 * l.ExpertsAlong(l.hidden)});
  out->push_back({"expert swiglu output", l.ExpertsAlong(expert_width)});
  out->push_back({"expert gate and up gradient", l.ExpertsAlong(2 * expert_width)});
}

int64_t LogitsScratch(const Layer& l) {
  const int64_t vocabulary = l.config().vocab_size;
  return l.S(std::clamp<int64_t>(kLogitsAtOnce / vocabulary, 1, l.tokens), vocabulary);
}

// Tensors of a pass that are made and given back within it. Each part's peak is that of the moments
// at which most of them live, named by what runs then.

int64_t WorkOfHead(const Layer& l) {
  return l.A(l.tokens, l.hidden) + l.tokens * (8 + kIndexBytes) +
         (l.converts() ? LogitsScratch(l) : 0);
}

// Queries, keys, values, and the normed latents they come from.
int64_t HeadsBytes(const Layer& l) {
  const ModelConfig& c = l.config();
  return l.A(l.tokens, 2 * l.q_width + l.v_width + c.q_lora_rank + c.kv_lora_rank) +
         l.Fp8(l.tokens, c.q_lora_rank) + l.Fp8(l.tokens, c.kv_lora_rank);
}

int64_t AttentionForwardWork(const Layer& l) {
  const int64_t t = l.tokens;
  const int64_t heads = HeadsBytes(l) + l.A(t, l.kv_width);
  const int64_t output = l.S(t, l.hidden) + std::max(l.A(t, l.hidden), l.Fp8(t, l.v_width));
  return std::max(heads, output);
}

int64_t AttentionBackwardWork(const Layer& l) {
  const int64_t t = l.tokens;
  const int64_t scores =
      HeadsBytes(l) + l.A(t, l.latents + 2 * l.q_width + 2 * l.v_width) + l.Fp8(t, l.hidden);
  // At the end all weight gradients wait; the output, kept till now, is given back or among what
  // they wait for. Under FP8 the input's norm is made and decoded.
  const int64_t waiting =
      DeferredAttention(l) - l.A(t, l.v_width) - (l.fp8() ? 0 : l.A(t, l.hidden));
  const int64_t input = l.fp8() ? l.A(t, 2 * l.hidden) + l.Fp8(t, l.hidden) : 0;
  return std::max(scores, waiting + input + l.S(t, l.hidden) + l.A(t, l.hidden));
}

// A dense MLP between its input's norm and its output.
int64_t MlpForwardWork(const Layer& l, int64_t width) {
  const int64_t t = l.tokens;
  const int64_t inner = l.A(t, width);
  return (l.fp8() ? l.A(t, 2 * width) : 0) + inner + l.Fp8(t, width);
}

// Beyond what was kept: the SwiGLU's input is given back.
int64_t MlpWaiting(const Layer& l, int64_t width) {
  const int64_t t = l.tokens;
  const int64_t operands = l.fp8() ? 2 * l.Along(t, l.hidden) : 0;
  return l.Along(t, 2 * width) + l.Along(t, width) + operands - l.Codes(t, 2 * width);
}

int64_t MlpBackwardWork(const Layer& l, int64_t width) {
  const int64_t t = l.tokens;
  return l.fp8() ? l.A(t, 5 * width) - l.Fp8(t, 2 * width) : l.A(t, 3 * width);
}

PeakBytes PeakOfDense(const Layer& l, int64_t kept_attention, int64_t kept_mlp) {
  const int64_t t = l.tokens;
  const int64_t width = l.config().intermediate_size;
  const int64_t a = l.A(t, l.hidden);
  const int64_t s = l.S(t, l.hidden);
  const int64_t codes = l.Fp8(t, l.hidden);
  const int64_t kept = kept_attention + kept_mlp;
  PeakBytes out;
  out.forward = std::max(kept_attention + AttentionForwardWork(l),
                         kept + a + codes + s + std::max(MlpForwardWork(l, width), a));
  const int64_t mlp = a + l.Codes(t, l.hidden) + codes + s + MlpBackwardWork(l, width);
  // The MLP's input is given back; without FP8 its norm waits.
  const int64_t waiting = MlpWaiting(l, width) + (l.fp8() ? 0 : a);
  const int64_t attention = waiting + a + AttentionBackwardWork(l);
  out.backward = kept + std::max(mlp, attention);
  out.backward_input = out.backward;
  return out;
}

// Of the expert side of a mixture: rows of pairs.
struct ExpertWork {
  explicit ExpertWork(const Layer& l) {
    const int64_t p = l.pairs;
    const int64_t width = l.config().moe_intermediate_size;
    const int64_t restored = l.fp8() ? l.A(p, 2 * width) : 0;
    const int64_t at_once = std::min(l.received, std::max<int64_t>(1, kElementsAtOnce / l.hidden));
    const int64_t sums =
        l.S(l.received, l.hidden) +
        std::max(l.S(l.experts.rows, l.hidden), l.converts() ? l.Combine(at_once, l.hidden) : 0);
    const int64_t given_back = l.Codes(p, 2 * width);
    forward = std::max(restored + l.A(p, width) + l.Fp8(p, width), sums + l.Codes(p, width));
    // Received tokens and the SwiGLU's input are given back.
    waiting = 2 * l.ExpertsAlong(l.hidden) + l.ExpertsAlong(width) + l.ExpertsAlong(2 * width) -
              l.Codes(p, l.hidden) - given_back;
    const int64_t down =
        l.Codes(p, l.hidden) + l.A(p, width) + (l.fp8() ? 2 * l.ExpertsAlong(l.hidden) : 0);
    const int64_t swiglu = 2 * l.ExpertsAlong(l.hidden) - l.Codes(p, l.hidden) + l.A(p, 4 * width) +
                           (l.fp8() ? restored - given_back : 0);
    backward = std::max({down, swiglu, waiting + l.Fp8(p, 2 * width) + sums});
  }

  int64_t forward = 0;
  int64_t backward = 0;
  int64_t waiting = 0;  // for weight gradients
};

// kept_source: what is kept before the experts run. given_back: of what layers below keep, that
// which is gone when the attention's backward begins.
PeakBytes PeakOfMoe(const Layer& l, int64_t kept_attention, int64_t kept_mlp, int64_t kept_source,
                    int64_t given_back) {
  const int64_t t = l.tokens;
  const int64_t width = l.shared_width;
  const int64_t a = l.A(t, l.hidden);
  const int64_t s = l.S(t, l.hidden);
  const int64_t kept = kept_attention + kept_mlp;
  const ExpertWork experts(l);
  PeakBytes out;
  const int64_t codes = l.Fp8(t, l.hidden);
  out.forward = std::max({kept_attention + AttentionForwardWork(l),
                          kept_attention + kept_source + a + codes + s + MlpForwardWork(l, width),
                          kept + s + experts.forward});
  // dy, the norm made again, and the sum of gradients; at first also codes of both.
  const int64_t held = 2 * a + s;
  const int64_t shared = held + codes + (width > 0 ? codes + MlpBackwardWork(l, width) : 0);
  const int64_t routed = kept + held + experts.backward;
  // The shared experts' weight gradients, and the main head's, are done or wait.
  const int64_t waiting = width > 0 ? MlpWaiting(l, width) : 0;
  const int64_t done = given_back + (width > 0 ? l.Codes(t, 2 * width) : 0);
  out.forward_waiting = std::max(kept_attention + kept_source, kept) + s;
  out.backward_waiting = kept + held - done;
  // Of what the MLP kept nothing is left when the attention's backward begins.
  const int64_t router = l.A(t, l.config().n_routed_experts);
  const int64_t attention = kept_attention + 2 * a + AttentionBackwardWork(l);
  HeldTensors deferred;
  DeferMlp(l, /*moe=*/true, &deferred);
  out.backward = std::max({kept + shared, routed - done, attention + router + a - given_back});
  out.backward_input = std::max({kept + shared, routed + waiting, attention + BytesOf(deferred)});
  out.after_backward = DeferredAttention(l) + router + a;
  return out;
}

}  // namespace

HeldTensors KeptActivations(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                            const PrecisionRecipe& recipe, Recomputation recomputation) {
  const Layer l(config, shape, recipe);
  const bool all = recomputation == Recomputation::kNone;
  const int64_t layers = config.num_hidden_layers;
  HeldTensors out;
  if (layer == kEmbeddingLayer) {
    out.push_back({"tokens", l.tokens * kIndexBytes});
    return out;
  }
  if (layer == layers) {
    KeepHead(l, all, &out);
    return out;
  }
  if (layer > layers) {  // the projection's input is the head's
    out.push_back({"next tokens", l.tokens * kIndexBytes});
    if (all) out.push_back({"mtp input", l.Codes(l.tokens, 2 * l.hidden)});
  }
  if (recomputation == Recomputation::kFull) {
    out.push_back({"layer input", l.A(l.tokens, l.hidden)});
  } else {
    KeepAttention(l, all, &out);
    KeepMlp(l, config.is_moe_layer(layer), all, &out);
  }
  if (layer > layers) KeepHead(l, all, &out);
  return out;
}

HeldTensors DeferredActivations(const ModelConfig& config, int64_t layer,
                                const MicroBatchShape& shape, const PrecisionRecipe& recipe) {
  const Layer l(config, shape, recipe);
  const int64_t layers = config.num_hidden_layers;
  HeldTensors out;
  if (layer == kEmbeddingLayer) return out;
  if (layer >= layers) {
    out.push_back({"logit gradients", l.A(l.tokens, config.vocab_size)});
    out.push_back({"normed head input", l.A(l.tokens, l.hidden)});
  }
  if (layer == layers) return out;
  if (layer > layers) {
    out.push_back({"mtp gradient", l.Along(l.tokens, l.hidden)});
    out.push_back({"mtp input", l.Along(l.tokens, 2 * l.hidden)});
  }
  DeferAttention(l, &out);
  DeferMlp(l, config.is_moe_layer(layer), &out);
  return out;
}

PeakBytes PeakBytesOf(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                      const PrecisionRecipe& recipe) {
  const Layer l(config, shape, recipe);
  const int64_t layers = config.num_hidden_layers;
  const int64_t a = l.A(l.tokens, l.hidden);
  PeakBytes out;
  if (layer == kEmbeddingLayer) {
    const int64_t tokens = l.tokens * kIndexBytes;
    return {.forward = tokens + a,
            .backward = tokens + a + (l.fp8() ? l.S(l.tokens, l.hidden) : 0),
            .backward_input = tokens + a + (l.fp8() ? l.S(l.tokens, l.hidden) : 0)};
  }
  HeldTensors head;
  KeepHead(l, false, &head);
  if (layer == layers) {
    const int64_t kept = BytesOf(head);
    return {.forward = kept + WorkOfHead(l),
            .backward = kept + 2 * a,
            .backward_input = kept + 2 * a,
            .after_backward = l.A(l.tokens, config.vocab_size) + a};
  }
  HeldTensors attention;
  HeldTensors mlp;
  KeepAttention(l, false, &attention);
  const bool moe = config.is_moe_layer(layer);
  KeepMlp(l, moe, false, &mlp);
  int64_t source = 0;  // of what a mixture keeps, that which is there before the experts run
  for (const HeldTensor& tensor : mlp) {
    const absl::string_view name = tensor.name;
    if (!absl::StartsWith(name, "received") && !absl::StartsWith(name, "expert")) {
      source += tensor.bytes;
    }
  }
  const int64_t kept_attention = BytesOf(attention);
  const int64_t kept_mlp = BytesOf(mlp);
  // The main head's backward runs while the MTP module waits for its experts.
  const int64_t logits = layer > layers ? l.A(l.tokens, config.vocab_size) : 0;
  out = moe ? PeakOfMoe(l, kept_attention, kept_mlp, source, logits)
            : PeakOfDense(l, kept_attention, kept_mlp);
  if (layer < layers) return out;
  // Of the module also its projection, and its head: first in the backward, last in the forward.
  const int64_t joined = l.tokens * kIndexBytes;
  const int64_t kept = kept_attention + kept_mlp + joined + BytesOf(head);
  const int64_t projection = l.Along(l.tokens, 2 * l.hidden) + 3 * a;
  out.forward = std::max({out.forward + joined, kept + WorkOfHead(l)});
  // With the main head's gradient; the projection is last.
  out.backward = std::max({out.backward + joined + a, kept + 3 * a,
                           joined + DeferredAttention(l) + projection + 2 * a});
  out.backward_input = std::max(
      out.backward_input + joined + projection + l.A(l.tokens, config.vocab_size), kept + 3 * a);
  out.after_backward += projection;
  out.forward_waiting += joined;
  out.backward_waiting += joined + 2 * a;  // and the main head's
  return out;
}

int64_t BytesOf(const HeldTensors& tensors) {
  int64_t sum = 0;
  for (const HeldTensor& tensor : tensors) sum += tensor.bytes;
  return sum;
}

}  // namespace fathom::model
