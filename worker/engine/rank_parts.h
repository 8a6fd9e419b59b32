// The parts of a rank, put together from a plan: its stages, their parameters, the channels to its
// peers, the groups it sums with, its schedule and its data.
#ifndef FATHOM_WORKER_ENGINE_RANK_PARTS_H_
#define FATHOM_WORKER_ENGINE_RANK_PARTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/instruction.h"
#include "kernels/ops.h"
#include "proto/fathom/v1/plan.pb.h"
#include "worker/engine/data_reader.h"
#include "worker/engine/exchange_adapter.h"
#include "worker/engine/optimizer.h"
#include "worker/engine/schedule_executor.h"
#include "worker/engine/snapshot.h"
#include "worker/engine/state_memory.h"
#include "worker/engine/step_meter.h"
#include "worker/model/parameter_store.h"
#include "worker/model/stage.h"
#include "worker/transport/channel_layout.h"
#include "worker/transport/collectives.h"
#include "worker/transport/metered_window.h"
#include "worker/transport/rendezvous.h"

namespace fathom::engine {

struct RankParts {
  // Constant.
  v1::Plan plan;
  int rank = 0;
  int lane = 0;  // of replicas * expert ranks
  model::ModelConfig model;
  model::PrecisionRecipe recipe;
  int64_t tokens_per_step = 0;
  std::vector<schedule::Instruction> train_list;
  std::vector<schedule::Instruction> validation_list;
  int64_t micro_batches_per_direction = 0;
  int64_t validation_micro_batches = 0;  // per lane
  int64_t validation_tokens = 0;         // of the whole job

  // In the order they are built; each uses those above it.
  std::shared_ptr<kernels::Ops> ops;
  std::unique_ptr<StepMeter> meter;
  std::shared_ptr<const StateLayout> state_layout;
  std::unique_ptr<StateMemory> own_memory;  // where the process has none
  StateMemory* memory = nullptr;            // never null once connected
  std::unique_ptr<transport::MeteredWindow> window;
  std::unique_ptr<transport::ChannelSet> channels;
  std::unique_ptr<transport::Group> world;    // every rank of the job
  std::unique_ptr<transport::Group> dense;    // ranks that hold the same stages
  std::unique_ptr<transport::Group> experts;  // of those, the ranks that hold the same experts
  std::unique_ptr<model::ParameterStore> store;
  std::vector<std::unique_ptr<model::ExpertExchange>> exchanges;  // by direction
  std::vector<std::unique_ptr<model::Stage>> stages;              // by direction
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<SnapshotStream> snapshots;
  std::unique_ptr<ScheduleExecutor> executor;
  std::unique_ptr<DataReader> data;

  // Stages in ascending order of their index, without repeats: the same on every rank of `dense`.
  std::vector<model::Stage*> stages_in_order() const;
};

// The channels of the whole job, in an order every rank agrees on.
absl::StatusOr<transport::ChannelLayout> PlanChannels(const v1::Plan& plan);

// Everything that needs no peer: checks the plan, opens the data. Cheap enough to fail early.
// Errors: as CheckPlan and DataReader::Open.
absl::StatusOr<std::unique_ptr<RankParts>> PrepareRank(const v1::Plan& plan, int rank,
                                                       std::unique_ptr<kernels::Ops> ops,
                                                       const Clock* clock);

// The rest, over the connected window of this rank. State lies in `memory`, which outlives the
// parts; where it is null, state goes with the parts.
absl::Status ConnectRank(const transport::ChannelLayout& layout,
                         std::unique_ptr<transport::Window> window, RankParts* parts,
                         const Clock* clock, StateMemory* memory = nullptr);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_PARTS_H_
