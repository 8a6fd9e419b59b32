#include "coordinator/planner/cost/pair_overlap.h"

#include <algorithm>
#include <cstddef>
#include <initializer_list>

namespace fathom::planner {
namespace {

// Both return the time at which the item ends. An item of no length waits for nothing of its
// stream, for there is none.
class TwoStreams {
 public:
  double Compute(double seconds, std::initializer_list<double> after) {
    return Run(seconds, after, &compute_end_, &times_.compute_s);
  }
  double Communicate(double seconds, std::initializer_list<double> after) {
    return Run(seconds, after, &communication_end_, &times_.communication_s);
  }
  const StreamTimes& times() const { return times_; }

 private:
  double Run(double seconds, std::initializer_list<double> after, double* stream, double* busy) {
    double start = std::max(after);
    if (seconds <= 0) return start;
    start = std::max(start, *stream);
    *stream = start + seconds;
    *busy += seconds;
    times_.seconds = std::max(times_.seconds, *stream);
    return *stream;
  }

  double compute_end_ = 0;
  double communication_end_ = 0;
  StreamTimes times_;
};

double ForwardLayer(const LayerTimes& layer, double input, TwoStreams* streams) {
  const double attended = streams->Compute(layer.attention_forward, {input});
  const double dispatched = streams->Communicate(layer.dispatch_forward, {attended});
  const double shared = streams->Compute(layer.shared_forward, {attended});
  const double experts = streams->Compute(layer.mlp_forward, {dispatched});
  return std::max(shared, streams->Communicate(layer.combine_forward, {experts}));
}

double BackwardLayer(const LayerTimes& layer, double gradient, bool with_weights,
                     TwoStreams* streams) {
  const double combined = streams->Communicate(layer.combine_backward, {gradient});
  const double shared = streams->Compute(layer.shared_backward, {gradient});
  const double experts = streams->Compute(layer.mlp_backward, {combined});
  const double dispatched = streams->Communicate(layer.dispatch_backward, {experts});
  if (with_weights) streams->Compute(layer.mlp_weight, {experts});
  const double attended = streams->Compute(layer.attention_backward, {shared, dispatched});
  if (with_weights) streams->Compute(layer.attention_weight, {attended});
  return attended;
}

// Ends of what the next layers start from.
struct PairState {
  double input = 0;
  double gradient = 0;
};

PairState PairedLayers(const LayerTimes& f, const LayerTimes& b, const PairState& state,
                       TwoStreams* streams) {
  const double combined_b = streams->Communicate(b.combine_backward, {state.gradient});
  const double attended_f = streams->Compute(f.attention_forward, {state.input});
  const double dispatched_f = streams->Communicate(f.dispatch_forward, {attended_f});
  const double shared_b = streams->Compute(b.shared_backward, {state.gradient});
  const double experts_b = streams->Compute(b.mlp_backward, {combined_b});
  const double dispatched_b = streams->Communicate(b.dispatch_backward, {experts_b});
  streams->Compute(b.mlp_weight, {experts_b});
  const double shared_f = streams->Compute(f.shared_forward, {attended_f});
  const double experts_f = streams->Compute(f.mlp_forward, {dispatched_f});
  const double combined_f = streams->Communicate(f.combine_forward, {experts_f});
  const double attended_b = streams->Compute(b.attention_backward, {shared_b, dispatched_b});
  streams->Compute(b.attention_weight, {attended_b});
  return {std::max(shared_f, combined_f), attended_b};
}

}  // namespace

LayerTimes operator+(const LayerTimes& a, const LayerTimes& b) {
  LayerTimes out = a;
  out.attention_forward += b.attention_forward;
  out.attention_backward += b.attention_backward;
  out.attention_weight += b.attention_weight;
  out.shared_forward += b.shared_forward;
  out.shared_backward += b.shared_backward;
  out.mlp_forward += b.mlp_forward;
  out.mlp_backward += b.mlp_backward;
  out.mlp_weight += b.mlp_weight;
  out.dispatch_forward += b.dispatch_forward;
  out.combine_forward += b.combine_forward;
  out.combine_backward += b.combine_backward;
  out.dispatch_backward += b.dispatch_backward;
  return out;
}

StreamTimes OverlappedPair(const std::vector<LayerTimes>& forward,
                           const std::vector<LayerTimes>& backward) {
  TwoStreams streams;
  PairState state;
  const size_t steps = std::max(forward.size(), backward.size());
  for (size_t i = 0; i < steps; ++i) {
    const bool has_forward = i < forward.size();
    const bool has_backward = i < backward.size();
    if (has_forward && has_backward) {
      state = PairedLayers(forward[i], backward[backward.size() - 1 - i], state, &streams);
    } else if (has_forward) {
      state.input = ForwardLayer(forward[i], state.input, &streams);
    } else {
      state.gradient = BackwardLayer(backward[backward.size() - 1 - i], state.gradient,
                                     /*with_weights=*/true, &streams);
    }
  }
  return streams.times();
}

StreamTimes ForwardAlone(const std::vector<LayerTimes>& layers) {
  TwoStreams streams;
  double input = 0;
  for (const LayerTimes& layer : layers) input = ForwardLayer(layer, input, &streams);
  return streams.times();
}

namespace {

StreamTimes Backward(const std::vector<LayerTimes>& layers, bool with_weights) {
  TwoStreams streams;
  double gradient = 0;
  for (size_t i = layers.size(); i > 0; --i) {
    gradient = BackwardLayer(layers[i - 1], gradient, with_weights, &streams);
  }
  return streams.times();
}

}  // namespace

StreamTimes BackwardAlone(const std::vector<LayerTimes>& layers) { return Backward(layers, true); }

StreamTimes BackwardInputAlone(const std::vector<LayerTimes>& layers) {
  return Backward(layers, false);
}

StreamTimes WeightAlone(const std::vector<LayerTimes>& layers) {
  TwoStreams streams;
  for (const LayerTimes& layer : layers) {
    streams.Compute(layer.mlp_weight + layer.attention_weight, {0});
  }
  return streams.times();
}

}  // namespace fathom::planner
