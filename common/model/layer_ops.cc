// Shape letters: T tokens, D hidden width, H heads, W width of a query or key head, V of a value
// head, Q query latent, C key-value latent, R rotary part, F width of an MLP, E routed experts,
// P pairs of a token and an expert.
#include "common/model/layer_ops.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"
#include "common/model/expert_traffic.h"
#include "common/model/parameter_layout.h"

namespace fathom::model {
namespace {

constexpr int64_t kTile = 128;                       // of FP8 scales
constexpr int64_t kLogitsAtOnce = int64_t{1} << 24;  // of the head, as worker/model does
constexpr int64_t kIndexBytes = 4;

int64_t Tiles(int64_t n) { return (n + kTile - 1) / kTile; }

// E4M3 codes and their FP32 scales, one per 128 of a row or per 128x128.
double Fp8Bytes(int64_t rows, int64_t cols, bool blocks) {
  return static_cast<double>(rows * cols + (blocks ? Tiles(rows) : rows) * Tiles(cols) * 4);
}

// How many calls of a shape, and whether they are the local experts'.
struct Calls {
  int64_t count = 1;
  bool grouped = false;
};

// Whether a product follows the recipe or stays in the activations' format (head, gate).
enum class In : uint8_t { kRecipe, kDense };

struct Output {
  bool sum = false;  // in the format of sums, not of activations
  bool accumulate = false;
};
constexpr Output kActivation = {};
constexpr Output kSum = {.sum = true};
constexpr Output kAddToSum = {.sum = true, .accumulate = true};

// Appends calls to a list, in the formats of a recipe.
class Builder {
 public:
  Builder(const PrecisionRecipe& recipe, OpCalls* out) : recipe_(recipe), out_(out) {}

  bool fp8() const { return recipe_.products == Format::kE4M3; }
  Format activation() const { return recipe_.activations; }
  Format sum() const {
    return recipe_.activations == Format::kFp64 ? Format::kFp64 : Format::kFp32;
  }
  bool converts() const { return activation() != sum(); }
  double a() const { return static_cast<double>(BytesOf(activation())); }
  double s() const { return static_cast<double>(BytesOf(sum())); }
  const PrecisionRecipe& recipe() const { return recipe_; }

  // m rows of n elements, at so many bytes an element, and `more` bytes per call.
  void Rows(const char* op, const char* what, Format format, int64_t m, int64_t n,
            double bytes_per_element, double more, bool fusable, Calls calls = {}) {
    const double bytes =
        (static_cast<double>(m) * static_cast<double>(n) * bytes_per_element + more) *
        static_cast<double>(calls.count);
    Append({.op = op,
            .what = what,
            .format = format,
            .m = m,
            .n = n,
            .k = 1,
            .count = calls.count,
            .bytes = bytes,
            .grouped = calls.grouped,
            .fusable = fusable});
  }

  // c[m, n] = a[m, k] b[k, n]; in FP8 b is a weight with a scale per 128x128, or an activation with
  // one per 128 of k.
  void Product(const char* what, int64_t m, int64_t n, int64_t k, Output output, In in,
               bool weight_gradient, Calls calls = {}) {
    const bool eight = fp8() && in == In::kRecipe;
    const double inputs = eight ? Fp8Bytes(m, k, false) + Fp8Bytes(n, k, !weight_gradient)
                                : static_cast<double>(m * k + k * n) * a();
    const double result = static_cast<double>(m) * static_cast<double>(n) *
                          (output.sum ? s() : a()) * (output.accumulate ? 2 : 1);
    const auto count = static_cast<double>(calls.count);
    Append({.op = eight ? "GemmFp8" : "Gemm",
            .what = what,
            .format = eight ? Format::kE4M3 : activation(),
            .m = m,
            .n = n,
            .k = k,
            .count = calls.count,
            .flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) *
                     static_cast<double>(k) * count,
            .bytes = (inputs + result) * count,
            .grouped = calls.grouped});
  }

  void Forward(const char* what, int64_t tokens, int64_t outputs, int64_t inputs, Output output,
               Calls calls = {}) {
    Product(what, tokens, outputs, inputs, output, In::kRecipe, false, calls);
  }
  void InputGradient(const char* what, int64_t tokens, int64_t outputs, int64_t inputs,
                     Output output, Calls calls = {}) {
    Product(what, tokens, inputs, outputs, output, In::kRecipe, false, calls);
  }
  void WeightGradient(const char* what, int64_t tokens, int64_t outputs, int64_t inputs,
                      Calls calls = {}) {
    if (fp8()) {  // the gradient's scales take back the loss's factor
      Rows("Scale", what, Format::kFp32, 1, outputs * Tiles(tokens), 8, 0, true, calls);
    }
    Product(what, outputs, inputs, tokens, kAddToSum, In::kRecipe, true, calls);
  }
  // Of a layer that never is FP8: under FP8 its input is scaled instead.
  void DenseWeightGradient(const char* what, int64_t tokens, int64_t outputs, int64_t inputs) {
    if (fp8()) {
      Copy(what, tokens, inputs, a(), a(), {});
      Rows("Scale", what, activation(), tokens, inputs, 2 * a(), 0, true);
    }
    Product(what, outputs, inputs, tokens, kAddToSum, In::kDense, true);
  }

  void Copy(const char* what, int64_t m, int64_t n, double from, double to, Calls calls) {
    Rows("Copy", what, from == s() ? sum() : activation(), m, n, from + to, 0, true, calls);
  }
  void Add(const char* what, int64_t m, int64_t n, double bytes_per_element) {
    Rows("Add", what, activation(), m, n, bytes_per_element, 0, true);
  }
  void Fill(const char* what, int64_t m, int64_t n) {
    Rows("Fill", what, sum(), m, n, s(), 0, true);
  }

  void Quantize(const char* what, int64_t rows, int64_t cols) {
    if (!fp8()) return;
    Rows("Quantize", what, activation(), rows, cols, a(), Fp8Bytes(rows, cols, false), true);
  }
  void Dequantize(const char* what, int64_t rows, int64_t cols, Calls calls = {}) {
    if (!fp8()) return;
    Rows("Dequantize", what, Format::kE4M3, rows, cols, a(), Fp8Bytes(rows, cols, false), true,
         calls);
  }
  // An operand of a weight gradient: quantised along tokens; `codes` where all that is left of it
  // are its codes along the other side.
  void AlongTokens(const char* what, int64_t tokens, int64_t cols, bool codes = false,
                   Calls calls = {}) {
    if (!fp8()) return;
    if (codes) Dequantize(what, tokens, cols, calls);
    Rows("QuantizeTransposed", what, activation(), tokens, cols, a(), Fp8Bytes(cols, tokens, false),
         true, calls);
  }

  void Norm(const char* what, int64_t tokens, int64_t width) {
    Rows("RmsNormForward", what, activation(), tokens, width, 2 * a(),
         static_cast<double>(width) * a(), true);
  }
  // dy and dx in so many bytes an element.
  void NormBackward(const char* what, int64_t tokens, int64_t width, double dy, double dx) {
    const auto n = static_cast<double>(width);
    if (fp8()) Fill(what, 1, width);
    Rows("RmsNormBackward", what, activation(), tokens, width, a() + dy + dx, n * (a() + 2 * s()),
         true);
    if (!fp8()) return;
    Rows("Scale", what, sum(), 1, width, 2 * s(), 0, true);
    Rows("Add", what, sum(), 1, width, 3 * s(), 0, true);
  }
  void Rope(const char* what, int64_t tokens, int64_t width, double bytes) {
    Rows("Rope", what, bytes == s() ? sum() : activation(), tokens, width, 2 * bytes, 0, true);
  }

  void Append(const OpCall& call) {
    if (call.m > 0 && call.n > 0 && call.count > 0) out_->push_back(call);
  }

 private:
  const PrecisionRecipe& recipe_;
  OpCalls* out_;
};

// Sizes that every part of a layer speaks of.
struct Sizes {
  Sizes(const ModelConfig& config, const MicroBatchShape& shape)
      : tokens(shape.tokens()),
        length(shape.sequence_length),
        hidden(config.hidden_size),
        heads(config.num_attention_heads),
        nope(config.qk_nope_head_dim),
        rope(config.qk_rope_head_dim),
        v(config.v_head_dim),
        q_rank(config.q_lora_rank),
        kv_rank(config.kv_lora_rank) {}

  int64_t q_width() const { return heads * (nope + rope); }
  int64_t kv_width() const { return heads * (nope + v); }
  int64_t v_width() const { return heads * v; }

  int64_t tokens, length, hidden, heads, nope, rope, v, q_rank, kv_rank;
};

struct Pass {
  Pass(const PrecisionRecipe& recipe, PassOps* ops)
      : forward(recipe, &ops->forward),
        input(recipe, &ops->backward_input),
        weight(recipe, &ops->backward_weight) {}

  Builder forward;
  Builder input;
  Builder weight;
};

// --- Attention ---

// Queries, keys and values of all heads from the two latents.
void MakeHeads(const Sizes& z, Builder* b) {
  const double a = b->a();
  b->Norm("query latent norm", z.tokens, z.q_rank);
  b->Quantize("query latent", z.tokens, z.q_rank);
  b->Forward("q_b", z.tokens, z.q_width(), z.q_rank, kActivation);
  b->Rope("query", z.tokens, z.heads * z.rope, a);
  b->Norm("key-value latent norm", z.tokens, z.kv_rank);
  b->Quantize("key-value latent", z.tokens, z.kv_rank);
  b->Forward("kv_b", z.tokens, z.kv_width(), z.kv_rank, kActivation);
  b->Copy("keys", z.tokens * z.heads, z.nope, a, a, {});
  b->Copy("values", z.tokens * z.heads, z.v, a, a, {});
  b->Copy("shared key", z.tokens, z.rope, a, a, {.count = z.heads});
}

void Attend(const Sizes& z, bool backward, Builder* b) {
  const auto tokens = static_cast<double>(z.tokens);
  const auto qk = static_cast<double>(z.q_width());
  const auto v = static_cast<double>(z.v_width());
  const double lse = tokens * static_cast<double>(z.heads) * b->s();
  const double widths = backward ? 3 * qk + 2 * v : qk + v;
  const double elements = backward ? 4 * qk + 4 * v : 2 * qk + 2 * v;
  b->Append({.op = backward ? "AttentionBackward" : "AttentionForward",
             .what = "attention",
             .format = b->activation(),
             .m = z.tokens,
             .n = z.q_width() + z.v_width(),
             .k = z.length,
             .flops = 2 * tokens * widths * static_cast<double>(z.length) / 2,
             .bytes = tokens * elements * b->a() + lse,
             .heads = z.heads});
}

void AttentionForward(const Sizes& z, Builder* b) {
  const double a = b->a();
  b->Norm("input norm", z.tokens, z.hidden);
  b->Quantize("attention input", z.tokens, z.hidden);
  b->Forward("q_a", z.tokens, z.q_rank, z.hidden, kActivation);
  b->Forward("kv_a", z.tokens, z.kv_rank + z.rope, z.hidden, kActivation);
  b->Rope("shared key", z.tokens, z.rope, a);
  MakeHeads(z, b);
  Attend(z, /*backward=*/false, b);
  b->Quantize("attention output", z.tokens, z.v_width());
  b->Forward("o", z.tokens, z.hidden, z.v_width(), kSum);
  b->Add("attention residual", z.tokens, z.hidden, 2 * a + b->s());
  if (b->fp8()) {
    b->Rows("RoundToE5M6", "attention output", b->activation(), z.tokens, z.v_width(), 2 * a, 0,
            true);
  }
}

void SplitKeyGradient(const Sizes& z, Builder* b) {
  const double a = b->a();
  const double s = b->s();
  b->Copy("key gradient", z.tokens * z.heads, z.nope, a, a, {});
  b->Copy("value gradient", z.tokens * z.heads, z.v, a, a, {});
  b->Copy("shared key gradient", z.tokens, z.rope, a, s, {});
  b->Rows("Add", "shared key gradient", b->sum(), z.tokens, z.rope, 2 * s + a, 0, true,
          {.count = z.heads - 1});
  b->Rope("shared key gradient", z.tokens, z.rope, s);
  b->Copy("shared key gradient", z.tokens, z.rope, s, a, {});
}

void AttentionBackward(const Sizes& z, bool make_again, Builder* b) {
  const double a = b->a();
  if (make_again) MakeHeads(z, b);
  b->Quantize("attention gradient", z.tokens, z.hidden);
  b->InputGradient("o", z.tokens, z.hidden, z.v_width(), kActivation);
  Attend(z, /*backward=*/true, b);
  b->Rope("query gradient", z.tokens, z.heads * z.rope, a);
  SplitKeyGradient(z, b);
  b->Quantize("query gradient", z.tokens, z.q_width());
  b->InputGradient("q_b", z.tokens, z.q_width(), z.q_rank, kActivation);
  b->NormBackward("query latent norm", z.tokens, z.q_rank, a, a);
  b->Quantize("key-value gradient", z.tokens, z.kv_width());
  b->InputGradient("kv_b", z.tokens, z.kv_width(), z.kv_rank, kActivation);
  b->NormBackward("key-value latent norm", z.tokens, z.kv_rank, a, a);
  b->Quantize("query latent gradient", z.tokens, z.q_rank);
  b->InputGradient("q_a", z.tokens, z.q_rank, z.hidden, kSum);
  b->Quantize("key-value latent gradient", z.tokens, z.kv_rank + z.rope);
  b->InputGradient("kv_a", z.tokens, z.kv_rank + z.rope, z.hidden, kAddToSum);
  b->NormBackward("input norm", z.tokens, z.hidden, b->s(), b->s());
  b->Add("attention residual", z.tokens, z.hidden, 2 * a + b->s());
  if (make_again) {
    b->Norm("input norm", z.tokens, z.hidden);
    b->Quantize("attention input", z.tokens, z.hidden);
  }
  b->AlongTokens("attention input", z.tokens, z.hidden, /*codes=*/true);
  b->AlongTokens("attention gradient", z.tokens, z.hidden);
  b->AlongTokens("attention output", z.tokens, z.v_width());
  b->AlongTokens("query gradient", z.tokens, z.q_width());
  b->AlongTokens("query latent", z.tokens, z.q_rank);
  b->AlongTokens("key-value gradient", z.tokens, z.kv_width());
  b->AlongTokens("key-value latent", z.tokens, z.kv_rank);
  b->AlongTokens("query latent gradient", z.tokens, z.q_rank);
  b->AlongTokens("key-value latent gradient", z.tokens, z.kv_rank + z.rope);
}

void AttentionWeights(const Sizes& z, Builder* b) {
  b->WeightGradient("o", z.tokens, z.hidden, z.v_width());
  b->WeightGradient("q_b", z.tokens, z.q_width(), z.q_rank);
  b->WeightGradient("kv_b", z.tokens, z.kv_width(), z.kv_rank);
  b->WeightGradient("q_a", z.tokens, z.q_rank, z.hidden);
  b->WeightGradient("kv_a", z.tokens, z.kv_rank + z.rope, z.hidden);
}

// --- MLPs ---

// SwiGLU of m rows between its two products, [m, 2F] to [m, F].
void SwiGlu(const char* op, int64_t m, int64_t width, double reads_and_writes, Builder* b) {
  b->Rows(op, "swiglu", b->activation(), m, width, reads_and_writes * b->a(), 0, true);
}

void MlpForward(int64_t tokens, int64_t hidden, int64_t width, const char* what[2], Builder* b) {
  b->Forward(what[0], tokens, 2 * width, hidden, kActivation);
  SwiGlu("SwiGluForward", tokens, width, 3, b);
  b->Quantize("kept gate and up", tokens, 2 * width);
  b->Quantize("swiglu output", tokens, width);
  b->Forward(what[1], tokens, hidden, width, kSum);
}

// The SwiGLU's output is made again for the weights.
void MlpBackward(int64_t tokens, int64_t hidden, int64_t width, bool make_again,
                 const char* what[2], Builder* b) {
  b->Dequantize("kept gate and up", tokens, 2 * width);
  b->InputGradient(what[1], tokens, hidden, width, kActivation);
  SwiGlu("SwiGluBackward", tokens, width, 5, b);
  b->Quantize("gate and up gradient", tokens, 2 * width);
  b->InputGradient(what[0], tokens, 2 * width, hidden, kSum);
  if (make_again) SwiGlu("SwiGluForward", tokens, width, 3, b);
  b->AlongTokens("swiglu output", tokens, width);
  b->AlongTokens("gate and up gradient", tokens, 2 * width);
  b->AlongTokens("mlp gradient", tokens, hidden);
  b->AlongTokens("mlp input", tokens, hidden, /*codes=*/true);
}

void MlpWeights(int64_t tokens, int64_t hidden, int64_t width, const char* what[2], Builder* b) {
  b->WeightGradient(what[1], tokens, hidden, width);
  b->WeightGradient(what[0], tokens, 2 * width, hidden);
}

void DenseMlp(const ModelConfig& config, const Sizes& z, Recomputation recomputation, Pass* pass) {
  const int64_t width = config.intermediate_size;
  const char* what[2] = {"mlp gate and up", "mlp down"};
  const bool make_again = recomputation == Recomputation::kSelective;
  const auto forward = [&](Builder* b) {
    b->Norm("mlp norm", z.tokens, z.hidden);
    b->Quantize("mlp input", z.tokens, z.hidden);
    MlpForward(z.tokens, z.hidden, width, what, b);
    b->Add("mlp residual", z.tokens, z.hidden, 2 * b->a() + b->s());
  };
  forward(&pass->forward);
  Builder& b = pass->input;
  if (recomputation == Recomputation::kFull) forward(&b);
  if (make_again) {
    b.Norm("mlp norm", z.tokens, z.hidden);
    b.Quantize("mlp input", z.tokens, z.hidden);
  }
  b.Quantize("mlp gradient", z.tokens, z.hidden);
  MlpBackward(z.tokens, z.hidden, width, make_again, what, &b);
  b.NormBackward("mlp norm", z.tokens, z.hidden, b.s(), b.s());
  b.Add("mlp residual", z.tokens, z.hidden, 2 * b.a() + b.s());
  MlpWeights(z.tokens, z.hidden, width, what, &pass->weight);
}

// --- Mixture of experts ---

// The routed side of a mixture-of-experts layer.
struct Routed {
  Routed(const ModelConfig& config, const MicroBatchShape& shape)
      : rows(ExpertRowsOf(config, shape)),
        experts({.count = rows.busy_experts, .grouped = true}),
        top_k(config.num_experts_per_tok),
        count(config.n_routed_experts),
        width(config.moe_intermediate_size),
        shared_width(config.n_shared_experts * config.moe_intermediate_size),
        ranks(shape.expert_ranks) {
    const double ranks_per_token = RanksPerToken(config, shape.expert_ranks);
    const auto tokens = static_cast<double>(shape.tokens());
    sent = std::max<int64_t>(
        1, std::llround(tokens * ranks_per_token / static_cast<double>(shape.expert_ranks)));
    received = std::max<int64_t>(1, std::llround(tokens * ranks_per_token * shape.imbalance));
  }

  ExpertRows rows;
  Calls experts;
  int64_t top_k;
  int64_t count;
  int64_t width;
  int64_t shared_width;
  int64_t ranks;
  int64_t sent = 0;      // records to each expert rank
  int64_t received = 0;  // records from all of them
};

void SumPairs(const Sizes& z, const Routed& r, Builder* b) {
  b->Fill("expert sums", r.received, z.hidden);
  b->Rows("ScatterAddRows", "expert sums", b->sum(), r.rows.rows, z.hidden, 3 * b->s(),
          static_cast<double>(r.rows.rows * kIndexBytes), true, r.experts);
  const auto combine = static_cast<double>(BytesOf(b->recipe().combine));
  // A piece after another, and counted as one.
  if (combine != b->s()) b->Copy("expert sums", r.received, z.hidden, b->s(), combine, {});
}

void AddReturned(const Sizes& z, const Routed& r, Builder* b) {
  const auto combine = static_cast<double>(BytesOf(b->recipe().combine));
  b->Rows("ScatterAddRows", "returned rows", b->recipe().combine, r.sent, z.hidden,
          combine + 2 * b->s(), static_cast<double>(r.sent * kIndexBytes), true,
          {.count = r.ranks});
}

double RouterBytes(const Sizes& z, const Routed& r, const Builder& b) {
  const auto chosen = static_cast<double>(z.tokens * r.top_k);
  return chosen * (kIndexBytes + b.s());
}

void MoeForward(const Sizes& z, const Routed& r, Builder* b) {
  const int64_t pairs = r.rows.pairs;
  const char* shared[2] = {"shared gate and up", "shared down"};
  b->Norm("mlp norm", z.tokens, z.hidden);
  b->Quantize("mlp input", z.tokens, z.hidden);
  b->Product("router", z.tokens, r.count, z.hidden, kSum, In::kDense, false);
  b->Rows("RouterForward", "router", b->sum(), z.tokens, r.count, b->s(),
          RouterBytes(z, r, *b) + static_cast<double>(r.count) * (b->s() + 16), false);
  if (r.shared_width > 0) {
    MlpForward(z.tokens, z.hidden, r.shared_width, shared, b);
  } else {
    b->Fill("experts' output", z.tokens, z.hidden);
  }
  b->Forward("expert gate and up", r.rows.rows, 2 * r.width, z.hidden, kActivation, r.experts);
  b->Rows("WeightedSwiGluForward", "expert swiglu", b->activation(), pairs, r.width, 3 * b->a(),
          static_cast<double>(pairs) * b->s(), true);
  b->Quantize("kept expert gate and up", pairs, 2 * r.width);
  b->Quantize("expert swiglu output", pairs, r.width);
  b->Forward("expert down", r.rows.rows, z.hidden, r.width, kSum, r.experts);
  SumPairs(z, r, b);
  AddReturned(z, r, b);
  b->Add("mlp residual", z.tokens, z.hidden, 2 * b->a() + b->s());
}

void MoeBackward(const Sizes& z, const Routed& r, bool make_again, Builder* b) {
  const int64_t pairs = r.rows.pairs;
  const char* shared[2] = {"shared gate and up", "shared down"};
  b->Quantize("mlp gradient", z.tokens, z.hidden);
  if (make_again) b->Norm("mlp norm", z.tokens, z.hidden);
  if (r.shared_width > 0) {
    if (make_again) b->Quantize("mlp input", z.tokens, z.hidden);
    MlpBackward(z.tokens, z.hidden, r.shared_width, make_again, shared, b);
  } else {
    b->Fill("gradient of experts' input", z.tokens, z.hidden);
  }
  b->InputGradient("expert down", r.rows.rows, z.hidden, r.width, kActivation, r.experts);
  b->Dequantize("kept expert gate and up", pairs, 2 * r.width);
  b->Rows("WeightedSwiGluBackward", "expert swiglu", b->activation(), pairs, r.width, 6 * b->a(),
          2 * static_cast<double>(pairs) * b->s(), true);
  b->Quantize("expert gate and up gradient", pairs, 2 * r.width);
  b->InputGradient("expert gate and up", r.rows.rows, 2 * r.width, z.hidden, kSum, r.experts);
  const int64_t rows = r.rows.rows;
  b->AlongTokens("expert gradient", rows, z.hidden, /*codes=*/true, r.experts);
  b->AlongTokens("expert input", rows, z.hidden, /*codes=*/true, r.experts);
  b->AlongTokens("expert swiglu output", rows, r.width, false, r.experts);
  b->AlongTokens("expert gate and up gradient", rows, 2 * r.width, false, r.experts);
  SumPairs(z, r, b);
  AddReturned(z, r, b);
  b->Rows("RouterBackward", "router", b->sum(), z.tokens, r.count, 2 * b->s(),
          RouterBytes(z, r, *b), false);
  if (b->converts()) b->Copy("router gradient", z.tokens, r.count, b->s(), b->a(), {});
  b->Product("router", z.tokens, z.hidden, r.count, kAddToSum, In::kDense, false);
  b->NormBackward("mlp norm", z.tokens, z.hidden, b->s(), b->s());
  b->Add("mlp residual", z.tokens, z.hidden, 2 * b->a() + b->s());
}

void MoeWeights(const Sizes& z, const Routed& r, Builder* b) {
  const int64_t rows = r.rows.rows;
  const char* shared[2] = {"shared gate and up", "shared down"};
  if (r.shared_width > 0) MlpWeights(z.tokens, z.hidden, r.shared_width, shared, b);
  b->WeightGradient("expert down", rows, z.hidden, r.width, r.experts);
  b->WeightGradient("expert gate and up", rows, 2 * r.width, z.hidden, r.experts);
  b->DenseWeightGradient("router", z.tokens, r.count, z.hidden);
}

// A block: attention and MLP.
void Block(const ModelConfig& config, bool moe, const MicroBatchShape& shape,
           const PrecisionRecipe& recipe, Recomputation recomputation, LayerOps* out) {
  const Sizes z(config, shape);
  const bool make_again = recomputation == Recomputation::kSelective;
  Pass attention(recipe, &out->attention);
  AttentionForward(z, &attention.forward);
  if (recomputation == Recomputation::kFull) AttentionForward(z, &attention.input);
  AttentionBackward(z, make_again, &attention.input);
  AttentionWeights(z, &attention.weight);
  Pass mlp(recipe, &out->mlp);
  if (!moe) {
    DenseMlp(config, z, recomputation, &mlp);
    return;
  }
  const Routed r(config, shape);
  MoeForward(z, r, &mlp.forward);
  if (recomputation == Recomputation::kFull) MoeForward(z, r, &mlp.input);
  MoeBackward(z, r, make_again, &mlp.input);
  MoeWeights(z, r, &mlp.weight);
}

// --- The ends of the model ---

void Look(const char* what, const Sizes& z, Builder* b) {
  b->Rows("EmbeddingForward", what, b->activation(), z.tokens, z.hidden, 2 * b->a(),
          static_cast<double>(z.tokens * kIndexBytes), false);
}

void LookBackward(const char* what, const Sizes& z, Builder* b) {
  const bool scaled = b->fp8();
  if (scaled) {
    b->Copy(what, z.tokens, z.hidden, b->a(), b->s(), {});
    b->Rows("Scale", what, b->sum(), z.tokens, z.hidden, 2 * b->s(), 0, true);
  }
  b->Rows("EmbeddingBackward", what, scaled ? b->sum() : b->activation(), z.tokens, z.hidden,
          (scaled ? b->s() : b->a()) + 2 * b->s(), static_cast<double>(z.tokens * kIndexBytes),
          false);
}

// Some rows of logits, and their loss and its gradient.
void Logits(int64_t rows, int64_t chunks, const ModelConfig& config, Builder* b) {
  const int64_t vocabulary = config.vocab_size;
  const Calls calls = {.count = chunks};
  b->Product("head", rows, vocabulary, config.hidden_size, kSum, In::kDense, false, calls);
  b->Rows("CrossEntropy", "head", b->sum(), rows, vocabulary, 2 * b->s(),
          static_cast<double>(rows * (kIndexBytes + 8)), false, calls);
  if (b->converts()) b->Copy("logit gradient", rows, vocabulary, b->s(), b->a(), calls);
}

void Head(const ModelConfig& config, const Sizes& z, Recomputation recomputation, Pass* pass) {
  Builder& f = pass->forward;
  f.Norm("head norm", z.tokens, z.hidden);
  const int64_t at_once = std::clamp<int64_t>(kLogitsAtOnce / config.vocab_size, 1, z.tokens);
  Logits(at_once, z.tokens / at_once, config, &f);
  Logits(z.tokens % at_once, 1, config, &f);
  Builder& b = pass->input;
  if (recomputation != Recomputation::kNone) b.Norm("head norm", z.tokens, z.hidden);
  b.Product("head", z.tokens, z.hidden, config.vocab_size, kActivation, In::kDense, false);
  b.NormBackward("head norm", z.tokens, z.hidden, b.a(), b.a());
  pass->weight.DenseWeightGradient("head", z.tokens, config.vocab_size, z.hidden);
}

void Join(const Sizes& z, Builder* b) {
  b->Norm("mtp hidden norm", z.tokens, z.hidden);
  b->Norm("mtp embedding norm", z.tokens, z.hidden);
}

void MtpProjection(const Sizes& z, Recomputation recomputation, Pass* pass) {
  const bool make_again = recomputation != Recomputation::kNone;
  Builder& f = pass->forward;
  Look("mtp embedding", z, &f);
  Join(z, &f);
  f.Quantize("mtp input", z.tokens, 2 * z.hidden);
  f.Forward("mtp projection", z.tokens, z.hidden, 2 * z.hidden, kActivation);
  Builder& b = pass->input;
  Look("mtp embedding", z, &b);
  b.Quantize("mtp gradient", z.tokens, z.hidden);
  b.InputGradient("mtp projection", z.tokens, z.hidden, 2 * z.hidden, kActivation);
  b.NormBackward("mtp hidden norm", z.tokens, z.hidden, b.a(), b.a());
  b.NormBackward("mtp embedding norm", z.tokens, z.hidden, b.a(), b.a());
  LookBackward("mtp embedding", z, &b);
  if (make_again) {
    Join(z, &b);
    b.Quantize("mtp input", z.tokens, 2 * z.hidden);
  }
  b.AlongTokens("mtp gradient", z.tokens, z.hidden);
  b.AlongTokens("mtp input", z.tokens, 2 * z.hidden, /*codes=*/true);
  b.Add("main head's gradient", z.tokens, z.hidden, 3 * b.a());
  pass->weight.WeightGradient("mtp projection", z.tokens, z.hidden, 2 * z.hidden);
}

void RefreshOne(const char* what, int64_t rows, int64_t cols, Calls calls, Builder* b) {
  b->Rows("Quantize", what, b->activation(), rows, cols, b->a(), Fp8Bytes(rows, cols, true), false,
          calls);
  b->Rows("TransposeBlocks", what, Format::kE4M3, rows, cols, 0,
          Fp8Bytes(rows, cols, true) + Fp8Bytes(cols, rows, true), false, calls);
}

}  // namespace

ExpertRows ExpertRowsOf(const ModelConfig& config, const MicroBatchShape& shape) {
  FATHOM_CHECK(shape.expert_ranks >= 1 && shape.imbalance > 0)
      << shape.expert_ranks << " expert ranks, imbalance " << shape.imbalance;
  ExpertRows out;
  out.local_experts = (config.n_routed_experts + shape.expert_ranks - 1) / shape.expert_ranks;
  out.pairs = std::max<int64_t>(
      1, std::llround(static_cast<double>(shape.tokens() * config.num_experts_per_tok) *
                      shape.imbalance));
  out.busy_experts = std::min(out.local_experts, out.pairs);
  out.rows = std::max<int64_t>(1, (out.pairs + out.busy_experts / 2) / out.busy_experts);
  return out;
}

LayerOps OpsOfLayer(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                    const PrecisionRecipe& recipe, Recomputation recomputation) {
  const int64_t layers = config.num_hidden_layers;
  FATHOM_CHECK(layer >= kEmbeddingLayer && layer <= layers + config.num_nextn_predict_layers)
      << "layer " << layer << " of " << layers;
  FATHOM_CHECK(shape.tokens() >= 1) << shape.sequences << " of " << shape.sequence_length;
  const Sizes z(config, shape);
  LayerOps out;
  if (layer == kEmbeddingLayer) {
    Pass pass(recipe, &out.mlp);
    Look("embedding", z, &pass.forward);
    LookBackward("embedding", z, &pass.input);
  } else if (layer == layers) {
    Pass pass(recipe, &out.mlp);
    Head(config, z, recomputation, &pass);
  } else if (layer > layers) {
    Pass projection(recipe, &out.attention);
    MtpProjection(z, recomputation, &projection);
    Block(config, /*moe=*/true, shape, recipe, recomputation, &out);
    Pass head(recipe, &out.head);
    Head(config, z, recomputation, &head);
  } else {
    Block(config, config.is_moe_layer(layer), shape, recipe, recomputation, &out);
  }
  return out;
}

PassOps StageCopies(const ModelConfig& config, bool has_embedding, bool has_head,
                    const MicroBatchShape& shape, const PrecisionRecipe& recipe) {
  PassOps out;
  Pass pass(recipe, &out);
  const double a = pass.forward.a();
  const auto copy = [&](const char* what, Builder* b) {
    b->Copy(what, shape.tokens(), config.hidden_size, a, a, {});
  };
  if (!has_embedding) copy("stage input", &pass.forward);
  if (!has_head) copy("stage output", &pass.forward);
  if (!has_head) copy("stage output gradient", &pass.input);
  if (!has_embedding) copy("stage input gradient", &pass.input);
  return out;
}

OpCalls RefreshOps(const ModelConfig& config, int64_t layer, int64_t expert_ranks,
                   const PrecisionRecipe& recipe) {
  OpCalls out;
  Builder b(recipe, &out);
  if (!b.fp8() || layer == kEmbeddingLayer || layer == config.num_hidden_layers) return out;
  const Sizes z(config, {});
  if (layer > config.num_hidden_layers) {
    RefreshOne("mtp projection", z.hidden, 2 * z.hidden, {}, &b);
  }
  RefreshOne("q_a", z.q_rank, z.hidden, {}, &b);
  RefreshOne("q_b", z.q_width(), z.q_rank, {}, &b);
  RefreshOne("kv_a", z.kv_rank + z.rope, z.hidden, {}, &b);
  RefreshOne("kv_b", z.kv_width(), z.kv_rank, {}, &b);
  RefreshOne("o", z.hidden, z.v_width(), {}, &b);
  if (!config.is_moe_layer(layer)) {
    RefreshOne("mlp gate and up", 2 * config.intermediate_size, z.hidden, {}, &b);
    RefreshOne("mlp down", z.hidden, config.intermediate_size, {}, &b);
    return out;
  }
  const int64_t width = config.moe_intermediate_size;
  const int64_t local = (config.n_routed_experts + expert_ranks - 1) / expert_ranks;
  const Calls experts = {.count = local, .grouped = true};
  if (config.n_shared_experts > 0) {
    RefreshOne("shared gate and up", 2 * config.n_shared_experts * width, z.hidden, {}, &b);
    RefreshOne("shared down", z.hidden, config.n_shared_experts * width, {}, &b);
  }
  RefreshOne("expert gate and up", 2 * width, z.hidden, experts, &b);
  RefreshOne("expert down", z.hidden, width, experts, &b);
  return out;
}

double FlopsOf(const OpCalls& calls) {
  double sum = 0;
  for (const OpCall& call : calls) sum += call.flops;
  return sum;
}

double BytesOf(const OpCalls& calls) {
  double sum = 0;
  for (const OpCall& call : calls) sum += call.bytes;
  return sum;
}

}  // namespace fathom::model
