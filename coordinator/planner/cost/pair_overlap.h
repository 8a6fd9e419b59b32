// A forward and a backward on one device, as two in-order streams: compute, and the exchange of
// tokens that runs beside it.
//
// In an overlapped pair each layer of the forward is paired with one of the backward. The order is
// that of the published trace (github.com/deepseek-ai/profile-data, training):
//   compute        attention F, MLP B, MLP W, MLP F, attention B, attention W
//   communication  combine B, dispatch F, dispatch B, combine F
// An item starts when its stream is free and what it needs has ended: a dispatch its attention, an
// MLP its dispatched tokens, the next layer's attention the combined sums, and the backward the
// other way round. A longer chunk's remaining layers follow alone. Alone, an exchange hides only
// under the shared expert, and in a full backward under weight gradients.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_PAIR_OVERLAP_H_
#define FATHOM_COORDINATOR_PLANNER_COST_PAIR_OVERLAP_H_

#include <vector>

namespace fathom::planner {

// Seconds of one layer's parts for one micro-batch. Parts that it hasn't are 0, as a dense layer's
// exchanges are; the embedding and the head are layers of an MLP alone.
struct LayerTimes {
  double attention_forward = 0;
  double attention_backward = 0;  // for the input, with what is recomputed
  double attention_weight = 0;
  double shared_forward = 0;  // of the MLP: what needs no dispatched tokens
  double shared_backward = 0;
  double mlp_forward = 0;  // without the shared part
  double mlp_backward = 0;
  double mlp_weight = 0;  // of both parts
  double dispatch_forward = 0;
  double combine_forward = 0;
  double combine_backward = 0;   // gradients of the sums, to the experts
  double dispatch_backward = 0;  // gradients of the tokens, back to their source
};
LayerTimes operator+(const LayerTimes& a, const LayerTimes& b);

struct StreamTimes {
  double seconds = 0;          // from the first start to the last end
  double compute_s = 0;        // busy
  double communication_s = 0;  // busy
};

// Layers in forward order.
StreamTimes OverlappedPair(const std::vector<LayerTimes>& forward,
                           const std::vector<LayerTimes>& backward);
StreamTimes ForwardAlone(const std::vector<LayerTimes>& layers);
// With weight gradients.
StreamTimes BackwardAlone(const std::vector<LayerTimes>& layers);
StreamTimes BackwardInputAlone(const std::vector<LayerTimes>& layers);
StreamTimes WeightAlone(const std::vector<LayerTimes>& layers);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_PAIR_OVERLAP_H_
