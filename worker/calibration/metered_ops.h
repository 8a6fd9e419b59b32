// Ops that measure: how long each call took, by op, format and shape.
//
// The shapes are those of model::OpCall: products [m, k] by [k, n], all others m rows of n elements
// with k 1. Attention has one row per token and n the width of a query's heads.
#ifndef FATHOM_WORKER_CALIBRATION_METERED_OPS_H_
#define FATHOM_WORKER_CALIBRATION_METERED_OPS_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/base/clock.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"

namespace fathom::calibration {

// One shape of one op. `op` is a literal.
struct OpShape {
  std::string_view op;
  model::Format format = model::Format::kFp32;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 1;
  double flops = 0;
  double bytes = 0;
  int64_t heads = 0;  // of attention

  friend bool operator==(const OpShape& a, const OpShape& b) {
    return a.op == b.op && a.format == b.format && a.m == b.m && a.n == b.n && a.k == b.k &&
           a.flops == b.flops && a.bytes == b.bytes && a.heads == b.heads;
  }
  template <typename H>
  friend H AbslHashValue(H h, const OpShape& s) {
    return H::combine(std::move(h), s.op, s.format, s.m, s.n, s.k, s.flops, s.bytes, s.heads);
  }
};

// Seconds of each call, in the order they were made.
using OpSamples = absl::flat_hash_map<OpShape, std::vector<float>>;

class OpMeter {
 public:
  const OpSamples& samples() const { return samples_; }
  void Reset() { samples_.clear(); }
  bool on() const { return on_; }
  void Switch(bool on) { on_ = on; }
  void Add(const OpShape& shape, double seconds) {
    samples_[shape].push_back(static_cast<float>(seconds));
  }

 private:
  bool on_ = true;
  OpSamples samples_;
};

// `clock` and `meter` outlive the ops; the meter is written by the thread that uses them.
std::unique_ptr<kernels::Ops> MeterOps(std::unique_ptr<kernels::Ops> ops, const Clock* clock,
                                       OpMeter* meter);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_METERED_OPS_H_
