// For tests and the bench: a whole model in one process, as a chain of stages over one parameter
// store, and an expert group whose members are threads.
#ifndef FATHOM_WORKER_MODEL_MODEL_HARNESS_H_
#define FATHOM_WORKER_MODEL_MODEL_HARNESS_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/parameter_store.h"
#include "worker/model/stage.h"

namespace fathom::model {

// One dense layer, two with experts and an MTP module; every size small and different.
ModelConfig SmallModel();

// Every format FP64: for tests on the reference backend.
PrecisionRecipe Fp64Recipe();
PrecisionRecipe RecipeNamed(const std::string& name);

// An in-memory all-to-all between threads.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size);
  ExpertExchange* member(int index) { return members_[index].get(); }

 private:
  class Member;
  struct Box {
    std::deque<std::vector<std::byte>> queue;
  };

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Box> boxes_;  // [lane][from][to]; guarded by mutex_
  const int size_;
  std::vector<std::unique_ptr<ExpertExchange>> members_;
};

struct HarnessOptions {
  ModelConfig model = SmallModel();
  PrecisionRecipe recipe;
  std::vector<int64_t> layers_per_stage;  // empty: one stage
  int64_t sequences = 2;
  int64_t sequence_length = 8;
  int64_t micro_batches = 1;  // of this lane in a step
  int64_t lanes = 1;
  double mtp_loss_weight = 0.3;
  double balance_alpha = 0.02;
  double initializer_range = 0.25;
  double router_bias_range = 0.05;
  uint64_t seed = 7;
};

class ModelHarness {
 public:
  // expert_owner empty: experts dealt in runs to the exchange's ranks.
  ModelHarness(const HarnessOptions& options, kernels::Ops* ops, ExpertExchange* exchange,
               std::vector<int32_t> expert_owner = {});
  ~ModelHarness();

  // Through all stages. Aborts on error statuses.
  void Forward(int micro_batch, bool keep = true);
  void Backward(int micro_batch, WeightWork* deferred = nullptr);
  static void RunToEnd(Pass* pass);

  // What the gradients are of, for the micro-batches forwarded: mean cross-entropy + weighted MTP +
  // balance.
  double TotalLoss() const;
  MicroBatchLoss Loss(int micro_batch) const;

  // Random bytes-like samples, a function of (seed, lane, micro-batch).
  std::vector<int32_t> Samples(int lane, int micro_batch) const;
  void set_lane(int lane) { lane_ = lane; }

  Stage& stage(size_t i) { return *stages_[i]; }
  size_t stages() const { return stages_.size(); }
  ParameterStore& store() { return *store_; }
  kernels::Matrix NewBoundary();  // [T, D], zero; freed with the harness
  void RefreshWeights();

  double Weight(const Parameter& parameter, int64_t index) const;
  void SetWeight(const Parameter& parameter, int64_t index, double value);
  double Gradient(const Parameter& parameter, int64_t index) const;
  // All of them, tensor by tensor in the order of names.
  std::vector<double> Gradients();

 private:
  HarnessOptions options_;
  kernels::Ops* ops_;
  std::unique_ptr<ParameterStore> store_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<void*> owned_;
  std::vector<kernels::Matrix> boundaries_;  // between stages, [stage][forward, backward]
  int lane_ = 0;
};

// body(rank) on a thread per rank.
void RunRanks(int ranks, const std::function<void(int)>& body);

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_MODEL_HARNESS_H_
