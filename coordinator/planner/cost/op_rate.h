// How long one op takes on an accelerator, alone on its stream: the larger of what its arithmetic
// and what its bytes ask for, at efficiencies measured on the device.
//
// A product's efficiency (measured rate over the format's peak) depends on its shape. Of a shape
// that was not measured it is the mean over the measured ones of that op and format, weighted by
// 1/d^2, d being the distance of the logarithms of m, n and k: it equals a measured one at its
// shape and never leaves their range. A product with fewer 128 x 128 tiles of output than the
// device has compute units leaves the others idle. A measured rate is that of the whole device:
// with a share of the compute units, arithmetic takes as much longer, and with a share of the
// memory's bandwidth what moves bytes.
//
// Products write their output when their arithmetic is done, not beside it: published rates fall
// with K as an output in BF16 written at the memory's rate explains (DeepGEMM: 1358
// TFLOPS at K 16384, 1025 at 2048, 590 at 512). So what an accumulation in FP32 reads and writes
// beyond that is added.
//
// Attention goes by the sequence's length, and by the widths of heads (n, k of its rates): where no
// rate of exactly those is known, values are padded to the keys' width, as kernels of one width ask
// for and DeepSeek's public modelling code does (modeling_deepseek.py: 128 padded to 192).
#ifndef FATHOM_COORDINATOR_PLANNER_COST_OP_RATE_H_
#define FATHOM_COORDINATOR_PLANNER_COST_OP_RATE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/layer_ops.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::planner {

enum class Bound : uint8_t { kCompute, kMemory, kNetwork, kScaleUp, kLatency };
const char* ToString(Bound bound);  // as in PredictedOp.bound

struct BoundedTime {
  double seconds = 0;
  Bound bound = Bound::kLatency;
};

// Ops of kernels/ops.h by what limits them.
enum class OpClass : uint8_t {
  kProduct,
  kGroupedProduct,
  kAttentionForward,
  kAttentionBackward,
  kMemory
};
OpClass ClassOf(const model::OpCall& call);

struct HeadWidths {
  int64_t keys = 0;
  int64_t values = 0;
};

// What an op has of the device.
struct DeviceShare {
  double compute_units = 1;
  double memory = 1;  // bandwidth
};

class OpRates {
 public:
  // INVALID_ARGUMENT: the profile has no rate for a product in `products`, for attention or for
  // memory; says which to give. Grouped products fall back on plain ones, and a format on BF16 or
  // FP8, with the same efficiency.
  static absl::StatusOr<OpRates> Make(const v1::DeviceProfile& profile, model::Format products,
                                      HeadWidths widths);

  BoundedTime TimeOf(const model::OpCall& call, const DeviceShare& share) const;
  // What `bytes` read and written take.
  double MemorySeconds(double bytes) const { return bytes / memory_bytes_per_second_; }
  double launch_s() const { return launch_s_; }

  // Of the format's peak; attention by m, the sequence's length.
  double Efficiency(OpClass op, model::Format format, int64_t m, int64_t n, int64_t k) const;

 private:
  struct Point {
    std::array<double, 3> log_shape{};
    double efficiency = 0;
  };
  using Points = std::vector<Point>;

  OpRates() = default;
  const Points& PointsOf(OpClass op, model::Format format) const;
  double Peak(model::Format format) const;
  double AttentionRate(const model::OpCall& call, OpClass op) const;
  double ProductRate(const model::OpCall& call, OpClass op, double units) const;

  double bf16_peak_ = 0;  // FLOP/s
  double fp8_peak_ = 0;
  double fp32_peak_ = 0;
  double compute_units_ = 1;
  double memory_bytes_per_second_ = 0;
  double launch_s_ = 0;
  // By format (FP8, BF16, FP32) and OpClass up to attention.
  std::array<std::array<Points, 4>, 3> points_;
  std::array<double, 2> attention_padding_{1, 1};  // operations done over those asked for
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_OP_RATE_H_
