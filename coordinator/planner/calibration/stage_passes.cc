#include "coordinator/planner/calibration/stage_passes.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string_view>
#include <utility>

#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"
#include "common/model/parameter_layout.h"

namespace fathom::planner {
namespace {

using Kind = PassAction::Kind;
using calibration::ExchangeWork;
using model::OpCall;
using model::OpCalls;

// A MoE layer's forward or backward, cut where tokens are posted and where they are waited for.
struct MoeParts {
  OpCalls before;   // the first post
  OpCalls local;    // while the tokens travel
  OpCalls experts;  // on tokens that came
  OpCalls after;    // the results came back
};

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// The local part begins with the first of `locals`, that of the experts with `first_expert`.
MoeParts CutMoe(const OpCalls& calls, std::initializer_list<std::string_view> locals,
                std::string_view first_expert) {
  MoeParts parts;
  OpCalls* at = &parts.before;
  for (const OpCall& call : calls) {
    const std::string_view what = call.what;
    const bool is_local = std::find(locals.begin(), locals.end(), what) != locals.end();
    if (at == &parts.before && is_local) at = &parts.local;
    if (what == first_expert) at = &parts.experts;
    if (what == "returned rows") at = &parts.after;
    at->push_back(call);
  }
  return parts;
}

// Writes down a stage's passes. The first error stays.
class PassWriter {
 public:
  PassWriter(const StageSetting& setting, const CalibratedTime& time)
      : setting_(setting), time_(time) {}

  bool alone() const { return setting_.micro_batch.expert_ranks == 1; }
  const absl::Status& status() const { return status_; }

  double Seconds(const char* part, const OpCalls& calls) {
    double seconds = 0;
    v1::PredictedOp& total = ops_[part];
    for (const OpCall& call : calls) {
      seconds += Checked(time_.Seconds(call)) + Overhead(static_cast<double>(call.count));
      total.set_flops(total.flops() + call.flops);
      total.set_bytes(total.bytes() + call.bytes);
    }
    total.set_seconds(total.seconds() + seconds);
    return seconds;
  }
  double Copying(double bytes) {
    OpWork work = {calibration::kExchange, "", {.count = 0}};
    work.sums.bytes = bytes;
    const double seconds = Checked(time_.Seconds(work));
    v1::PredictedOp& total = ops_["token exchange"];
    total.set_seconds(total.seconds() + seconds);
    total.set_bytes(total.bytes() + bytes);
    return seconds;
  }

  std::vector<v1::PredictedOp> TakeOps() {
    std::vector<v1::PredictedOp> ops;
    for (auto& [name, op] : ops_) {
      op.set_name(name);
      op.set_bound(name == "token exchange" ? "memory" : "compute");
      ops.push_back(std::move(op));
    }
    return ops;
  }

 private:
  double Overhead(double calls) {
    OpWork work = {calibration::kOverhead, "", {.count = 0}};
    work.sums.count = calls;
    return Checked(time_.Seconds(work));
  }
  double Checked(const absl::StatusOr<double>& seconds) {
    if (seconds.ok()) return *seconds;
    status_.Update(seconds.status());
    return 0;
  }

  const StageSetting& setting_;
  const CalibratedTime& time_;
  absl::Status status_;
  std::map<std::string, v1::PredictedOp> ops_;
};

// A pass under way.
class TurnList {
 public:
  explicit TurnList(bool alone) : alone_(alone), turns_(1) {}

  void Work(double seconds, double expert_seconds = 0) {
    if (seconds <= 0) return;
    Turn& turn = turns_.back();
    if (turn.empty() || turn.back().kind != Kind::kWork) turn.push_back({.kind = Kind::kWork});
    turn.back().seconds += seconds;
    turn.back().expert_seconds += expert_seconds;
  }
  void Post(TokenWay way, const ExchangeWork& exchange) {
    if (alone_) return;
    turns_.back().push_back(
        {.kind = Kind::kPost, .way = way, .message_bytes = exchange.message_bytes});
  }
  void Receive(TokenWay way) {
    if (alone_) return;
    turns_.emplace_back();
    turns_.back().push_back({.kind = Kind::kReceive, .way = way});
  }
  Turns Take() { return std::move(turns_); }

 private:
  const bool alone_;
  Turns turns_;
};

// The layers of a stage in forward order, with their seconds.
struct LayerTimes {
  bool moe = false;
  // Forward.
  double begin = 0;  // attention, router, packing
  double local = 0;
  double experts = 0;
  double after = 0;
  double head_after_post = 0;  // of an MTP module: the main head
  // Backward, in the order in which it runs.
  double back_begin = 0;
  double back_local = 0;
  double back_experts = 0;
  double back_after = 0;  // with attention
  double expert_weights = 0;
  double other_weights = 0;
  double head_back = 0;  // the main head's backward, after an MTP module's first post
  double head_weights = 0;
  calibration::LayerExchange exchange;
};

LayerTimes TimesOfBlock(const model::LayerOps& ops, bool moe, const StageSetting& setting,
                        PassWriter* writer) {
  LayerTimes t;
  t.moe = moe;
  t.begin = writer->Seconds("attention forward", ops.attention.forward);
  t.back_after = writer->Seconds("attention backward", ops.attention.backward_input);
  t.other_weights = writer->Seconds("attention weights", ops.attention.backward_weight);
  if (!moe) {
    t.begin += writer->Seconds("mlp forward", ops.mlp.forward);
    t.back_begin = writer->Seconds("mlp backward", ops.mlp.backward_input);
    t.other_weights += writer->Seconds("mlp weights", ops.mlp.backward_weight);
    return t;
  }
  t.exchange =
      calibration::ExchangeOf(*setting.job.config, setting.micro_batch, *setting.job.recipe);
  const calibration::LayerExchange& x = t.exchange;
  const MoeParts forward =
      CutMoe(ops.mlp.forward, {"shared gate and up", "experts' output"}, "expert gate and up");
  t.begin += writer->Seconds("router forward", forward.before) +
             writer->Copying(x.dispatch_forward.post_bytes);
  t.local = writer->Seconds("shared expert forward", forward.local);
  t.experts = writer->Copying(x.dispatch_forward.receive_bytes) +
              writer->Seconds("experts forward", forward.experts) +
              writer->Copying(x.combine_forward.post_bytes);
  t.after = writer->Copying(x.combine_forward.receive_bytes) +
            writer->Seconds("experts' sums forward", forward.after);
  const MoeParts backward = CutMoe(
      ops.mlp.backward_input,
      {"mlp norm", "kept gate and up", "shared down", "gradient of experts' input"}, "expert down");
  t.back_begin = writer->Seconds("shared expert backward", backward.before) +
                 writer->Copying(x.combine_backward.post_bytes);
  t.back_local = writer->Seconds("shared expert backward", backward.local);
  t.back_experts = writer->Copying(x.combine_backward.receive_bytes) +
                   writer->Seconds("experts backward", backward.experts) +
                   writer->Copying(x.dispatch_backward.post_bytes);
  t.back_after += writer->Copying(x.dispatch_backward.receive_bytes) +
                  writer->Seconds("router backward", backward.after);
  OpCalls expert_weights;
  OpCalls other;
  for (const OpCall& call : ops.mlp.backward_weight) {
    (StartsWith(call.what, "router") ? other : expert_weights).push_back(call);
  }
  t.expert_weights = writer->Seconds("expert weights", expert_weights);
  t.other_weights += writer->Seconds("router weights", other);
  return t;
}

// What stands before, after and between a stage's layers.
struct StageEnds {
  double forward_start = 0;  // embedding or copy in
  double forward_end = 0;    // head or copy out
  double backward_start = 0;
  double backward_end = 0;
  double head_weights = 0;
};

Turns WriteForward(const std::vector<LayerTimes>& layers, const StageEnds& ends, bool alone) {
  TurnList list(alone);
  list.Work(ends.forward_start);
  for (const LayerTimes& t : layers) {
    list.Work(t.begin);
    if (t.moe) {
      list.Post(TokenWay::kDispatchForward, t.exchange.dispatch_forward);
      list.Work(t.local + t.head_after_post);
      list.Receive(TokenWay::kDispatchForward);
      list.Work(t.experts, t.experts);
      list.Post(TokenWay::kCombineForward, t.exchange.combine_forward);
      list.Receive(TokenWay::kCombineForward);
      list.Work(t.after);
    }
  }
  list.Work(ends.forward_end);
  return list.Take();
}

// `weights`: whether weight gradients run here. What has gathered runs after each post.
Turns WriteBackward(const std::vector<LayerTimes>& layers, const StageEnds& ends, bool weights,
                    bool alone) {
  TurnList list(alone);
  double gathered = weights ? ends.head_weights : 0;
  double of_experts = 0;
  const auto gather = [&](double seconds, double expert_seconds) {
    gathered += weights ? seconds : 0;
    of_experts += weights ? expert_seconds : 0;
  };
  const auto run_gathered = [&] {
    list.Work(std::exchange(gathered, 0), std::exchange(of_experts, 0));
  };
  list.Work(ends.backward_start);
  for (auto t = layers.rbegin(); t != layers.rend(); ++t) {
    list.Work(t->back_begin);
    if (t->moe) {
      list.Post(TokenWay::kCombineBackward, t->exchange.combine_backward);
      run_gathered();
      list.Work(t->back_local + t->head_back);
      gather(t->expert_weights + t->head_weights, t->expert_weights);
      list.Receive(TokenWay::kCombineBackward);
      list.Work(t->back_experts, t->back_experts);
      list.Post(TokenWay::kDispatchBackward, t->exchange.dispatch_backward);
      run_gathered();
      list.Receive(TokenWay::kDispatchBackward);
    } else {
      run_gathered();
    }
    list.Work(t->back_after);
    gather(t->other_weights, 0);
  }
  list.Work(ends.backward_end);
  run_gathered();
  return list.Take();
}

// As one action.
PassAction AllWorkOf(const Turns& turns) {
  PassAction all;
  for (const Turn& turn : turns) {
    for (const PassAction& action : turn) {
      all.seconds += action.seconds;
      all.expert_seconds += action.expert_seconds;
    }
  }
  return all;
}

}  // namespace

double WorkOf(const Turns& turns) { return AllWorkOf(turns).seconds; }

absl::StatusOr<StagePasses> PassesOfStage(const StageSetting& setting, int stage,
                                          const CalibratedTime& time) {
  const model::ModelConfig& config = *setting.job.config;
  const int64_t layers = config.num_hidden_layers;
  PassWriter writer(setting, time);
  StageEnds ends;
  std::vector<LayerTimes> times;
  const auto ops_of = [&](int64_t layer) {
    return model::OpsOfLayer(config, layer, setting.micro_batch, *setting.job.recipe,
                             setting.recomputation);
  };
  int64_t first = 0;
  for (int s = 0; s < stage; ++s) first += setting.job.stage_layers[s];
  const bool has_embedding = stage == 0;
  const bool has_head = static_cast<size_t>(stage) + 1 == setting.job.stage_layers.size();
  const model::PassOps copies =
      model::StageCopies(config, has_embedding, has_head, setting.micro_batch, *setting.job.recipe);
  ends.forward_start = writer.Seconds("stage copies", copies.forward);
  ends.backward_start = writer.Seconds("stage copies", copies.backward_input);
  if (has_embedding) {
    const model::LayerOps ops = ops_of(model::kEmbeddingLayer);
    ends.forward_start += writer.Seconds("embedding forward", ops.mlp.forward);
    ends.backward_end += writer.Seconds("embedding backward", ops.mlp.backward_input);
  }
  for (int64_t i = 0; i < setting.job.stage_layers[stage]; ++i) {
    times.push_back(
        TimesOfBlock(ops_of(first + i), config.is_moe_layer(first + i), setting, &writer));
  }
  if (has_head) {
    const model::LayerOps head = ops_of(layers);
    const double forward = writer.Seconds("head forward", head.mlp.forward);
    const double backward = writer.Seconds("head backward", head.mlp.backward_input);
    const double weights = writer.Seconds("head weights", head.mlp.backward_weight);
    if (config.num_nextn_predict_layers == 0) {
      ends.forward_end += forward;
      ends.backward_start += backward;
      ends.head_weights += weights;
    } else {
      const model::LayerOps mtp = ops_of(layers + 1);
      LayerTimes module = TimesOfBlock(mtp, /*moe=*/true, setting, &writer);
      module.head_after_post = forward;
      module.head_back = backward;
      module.head_weights = weights;
      times.push_back(module);
      ends.forward_end += writer.Seconds("mtp head forward", mtp.head.forward);
      ends.backward_start += writer.Seconds("mtp head backward", mtp.head.backward_input);
      ends.head_weights += writer.Seconds("mtp head weights", mtp.head.backward_weight);
    }
  }
  StagePasses passes;
  passes.forward = WriteForward(times, ends, writer.alone());
  passes.backward = WriteBackward(times, ends, /*weights=*/true, writer.alone());
  passes.backward_input = WriteBackward(times, ends, /*weights=*/false, writer.alone());
  passes.weight = AllWorkOf(passes.backward);
  const PassAction input = AllWorkOf(passes.backward_input);
  passes.weight.seconds -= input.seconds;
  passes.weight.expert_seconds -= input.expert_seconds;
  FATHOM_RETURN_IF_ERROR(writer.status());
  passes.ops = writer.TakeOps();
  return passes;
}

}  // namespace fathom::planner
