// A mixture-of-experts layer with its norm and residual: x + shared(n) + sum over the chosen
// experts of weight * expert(n), n = norm(x). No token is dropped.
//
// Expert parallelism: a token goes once to every rank that holds one of its experts (dispatch);
// that rank multiplies by its experts, applies the weights, sums over them and sends one row back
// (combine); the source adds the rows in the order of expert ranks. The backward reverses it over
// the same layout: gradients go out as tokens did (lane kCombineBackward), and input gradients,
// with the gradients of the weights, come back as outputs did (lane kDispatchBackward).
//
// Each direction is three calls, between which other work may run: the first posts, the second
// waits, computes and posts, the third waits. Row results depend on the row alone, never on its
// neighbours.
//
// With w the weight and h = w * swiglu(..), an expert's output is h W_down^T; so from dy alone the
// expert side has dw = <dy W_down, swiglu(..)>.
#ifndef FATHOM_WORKER_MODEL_MOE_LAYER_H_
#define FATHOM_WORKER_MODEL_MOE_LAYER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "kernels/ops.h"
#include "worker/model/dense_mlp.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/router.h"
#include "worker/model/tensor.h"
#include "worker/model/token_packing.h"

namespace fathom::model {

// A stage's way to its expert group, shared by its MoE layers. Scratch holds nothing between calls.
struct ExpertGroup {
  ExpertExchange* exchange = nullptr;
  ExpertMap map;

  std::vector<std::byte> send_scratch;
  HostRows rows_scratch;
  std::vector<std::byte> weights_scratch;
  Messages messages_scratch;
};

class MoeLayer {
 public:
  struct Activations {
    // From the forward.
    Tensor x_TD;
    Router::Activations routing;
    SourceLayout sent;
    Buffer sent_tokens;  // sent.tokens where ops can read them
    DenseMlp::Activations shared;
    ExpertLayout received;
    Operand received_PD;  // as dispatched
    KeptGateUp gate_up_P2F;
    Tensor weights_P;
    // Between the calls of a forward or a backward.
    Tensor sum_TD;  // of the forward's outputs, then of the gradients of normed
    Operand dy_TD;  // gradient of the layer's output
    Tensor normed_again_TD;
  };

  MoeLayer(const LayerContext& context, const ModelConfig& model, const RouterOptions& options,
           const std::string& prefix, ExpertGroup* group, ParameterReader* reader);

  void RefreshWeights();

  // With keep, what the backward needs stays in `state`, and loads [E] counts the tokens of each
  // expert.
  absl::Status ForwardDispatch(const Tensor& x, bool keep, absl::Span<int64_t> loads,
                               Activations* state);
  absl::Status ForwardExperts(bool keep, Activations* state);
  absl::Status ForwardCombine(Activations* state, Tensor* y);

  absl::Status BackwardCombine(const Tensor& dy, Activations* state);
  void BackwardShared(Activations* state, WeightWork* work);
  absl::Status BackwardExperts(Activations* state, WeightWork* work);
  absl::Status BackwardDispatch(Activations* state, WeightWork* work, Tensor* dx);

  Parameter* router_bias() const { return router_.bias(); }

 private:
  struct Expert {
    Linear gate_up;
    Linear down;
  };
  // Of an expert with rows.
  struct ExpertWeightWork {
    const Expert* expert = nullptr;
    TokenOperand dy;
    TokenOperand weighted_inner;  // w * swiglu, made again
    TokenOperand dgate_up;
    TokenOperand x;
  };

  bool has_shared() const { return shared_.has_value(); }
  absl::Status PostRecords(Lane lane, const RecordFormat& format, const Operand& x,
                           const Activations& state, bool with_routing);
  // Sums by record, in the format they travel in.
  absl::Status PostRows(Lane lane, const ExpertLayout& layout, const Tensor& sums,
                        absl::Span<const std::byte> dweights);
  // Of PostRows' messages the rows of records [begin, begin + rows.rows), to the scratch.
  void CopyOut(const ExpertLayout& layout, const kernels::Matrix& rows, int64_t begin,
               int64_t dweight_bytes) const;
  // Rows on the host as an operand of the experts' products.
  Operand Upload(const HostRows& rows, int64_t count) const;
  // Sums of pairs' rows by record. Rows are made an expert at a time:
  // make_rows(e, first, rows) writes those of expert e, pairs [first, first + rows.rows).
  using MakeRows = std::function<void(size_t, int64_t, const Tensor&)>;
  Tensor SumPairs(const ExpertLayout& layout, const MakeRows& make_rows) const;
  absl::Status AddReturnedRows(Lane lane, const Activations& state, const Tensor& sum,
                               std::vector<std::byte>* dweights);
  // Gradient of the experts' gate and up products. Gives back what of the state it needs last.
  Operand BackwardInner(Operand dy_PD, Activations* state, std::vector<ExpertWeightWork>* works,
                        Tensor* dweights_P) const;

  LayerContext context_;
  int64_t tokens_;
  int64_t hidden_;
  int64_t width_;
  int64_t top_k_;
  ExpertGroup* group_;
  RmsNorm norm_;
  Router router_;
  std::optional<DenseMlp> shared_;
  std::vector<Expert> experts_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_MOE_LAYER_H_
