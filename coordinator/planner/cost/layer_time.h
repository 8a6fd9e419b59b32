// How long each part of a layer takes on one kind of device, for one micro-batch: what the layer's
// op list (common/model/layer_ops) and its exchange of tokens come to.
//
// What must be done before tokens can be dispatched (norm, router) counts with attention, and so
// does what follows the combine (residual). Ops take what op_rate says, of the calls as op_fusion
// joins them, with each expert's rows padded to whole tiles of 128 (as DeepGEMM does), half a
// tile on average.
//
// Where tokens are exchanged, compute has the compute units that are not given to communication,
// always (arXiv 2412.19437, section 3.2.2). Beside an exchange it has, of the
// memory's bandwidth, what the exchange's own copies leave, spread over the layer.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_LAYER_TIME_H_
#define FATHOM_COORDINATOR_PLANNER_COST_LAYER_TIME_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "coordinator/planner/cost/exchange_time.h"
#include "coordinator/planner/cost/op_rate.h"
#include "coordinator/planner/cost/pair_overlap.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// A part of the time by what it is, as PredictedOp: "attention forward products", ...
struct NamedTime {
  double seconds = 0;
  double flops = 0;
  double bytes = 0;
  std::map<Bound, double> by_bound;  // seconds
};
using NamedTimes = std::map<std::string, NamedTime>;

struct LayerCost {
  LayerTimes beside;  // beside the exchange of another micro-batch
  LayerTimes alone;
  NamedTimes parts;  // of one forward and backward, as beside communication
};

// What the times depend on, besides the model.
struct DeviceSite {
  const v1::DeviceProfile* profile = nullptr;
  double nic_share = 1;  // see ExchangeTime
  GroupSpread spread;    // of the expert group
};

class LayerTimer {
 public:
  // INVALID_ARGUMENT: the profile lacks a rate that is needed. A recipe in FP8 counts as BF16 on a
  // device without it. The references must outlive this.
  static absl::StatusOr<LayerTimer> Make(const model::ModelConfig& config,
                                         const model::PrecisionRecipe& recipe,
                                         const model::MicroBatchShape& shape,
                                         model::Recomputation recomputation, DeviceSite site);

  // `layer` as in ParameterSpec. One for the MTP module comes in two: itself, and its pass of the
  // head.
  std::vector<const LayerCost*> Layer(int64_t layer);

  // Once a step: FP8 copies of the layer's weights.
  double RefreshSeconds(int64_t layer) const;
  // Update of so many parameters that this device owns.
  double UpdateSeconds(double parameters) const;

 private:
  struct PassSeconds {
    double beside = 0;
    double alone = 0;
  };

  LayerTimer(const model::ModelConfig& config, const model::PrecisionRecipe& recipe,
             const model::MicroBatchShape& shape, model::Recomputation recomputation,
             DeviceSite site, OpRates rates)
      : config_(config),
        recipe_(recipe),
        shape_(shape),
        recomputation_(recomputation),
        site_(std::move(site)),
        rates_(std::move(rates)) {}

  std::vector<LayerCost> Cost(int64_t layer);
  std::vector<LayerCost> CostOnce(int64_t layer) const;
  // What is left of the memory's bandwidth beside the exchange of a layer that takes so long.
  double MemoryShareBeside(const LayerCost& cost) const;
  model::OpCall OnDevice(model::OpCall call) const;
  PassSeconds Time(const std::string& name, const model::OpCalls& calls, NamedTimes* parts) const;
  // Where a pass of experts counts.
  struct Direction {
    const char* name;
    double LayerTimes::*attention;
    double LayerTimes::*shared;
    double LayerTimes::*mlp;
  };

  void AddPass(const std::string& name, const model::OpCalls& calls, double LayerTimes::*time,
               LayerCost* cost) const;
  // `row_bytes`: of a dispatched token.
  void AddExpertPass(const model::OpCalls& calls, const Direction& direction, int64_t row_bytes,
                     LayerCost* cost) const;
  void AddAttention(const model::PassOps& ops, LayerCost* cost) const;
  void AddDense(const model::PassOps& ops, const char* name, LayerCost* cost) const;
  void AddExperts(const model::PassOps& ops, LayerCost* cost) const;
  void AddExchange(LayerCost* cost) const;
  ExchangeLoad LoadOf(ExchangeKind kind, int64_t bytes_per_token) const;

  const model::ModelConfig& config_;
  model::PrecisionRecipe recipe_;
  model::MicroBatchShape shape_;
  model::Recomputation recomputation_;
  DeviceSite site_;
  DeviceShare beside_;
  DeviceShare alone_;
  OpRates rates_;
  std::map<int64_t, std::vector<LayerCost>> known_;  // by the first layer of a kind
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_LAYER_TIME_H_
