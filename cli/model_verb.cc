#include "cli/model_verb.h"

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/job_file.h"
#include "cli/page.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/status_util.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"
#include "common/plan/job_resolve.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::cli {
namespace {

using model::AttentionCount;
using model::ModelConfig;
using model::ParameterKind;
using model::ParameterSpec;
using model::PrecisionRecipe;

// A job's model, and how its parallelism deals it out.
struct Dealt {
  v1::JobSpec spec;
  ModelConfig config;
  PrecisionRecipe recipe;
  std::vector<v1::Stage> stages;

  int pipeline() const { return spec.parallelism().pipeline(); }
  int64_t sequence_length() const { return spec.data().sequence_length(); }

  int StageOf(int64_t layer) const {
    if (layer == model::kEmbeddingLayer) return 0;
    for (const v1::Stage& stage : stages) {
      if (layer < stage.first_layer() + stage.layer_count()) return stage.index();
    }
    return stages.back().index();  // head and MTP
  }

  // That hold a stage: as itself, and mirrored.
  std::vector<int> PipelineRanksOf(int stage) const {
    const int mirror = pipeline() - 1 - stage;
    if (mirror == stage) return {stage};
    return {std::min(stage, mirror), std::max(stage, mirror)};
  }

  int64_t ExpertRankOf(int64_t expert) const {
    return expert * spec.parallelism().expert() / config.n_routed_experts;
  }
};

absl::StatusOr<Dealt> DealOut(const ModelOptions& options, const Session& session) {
  FATHOM_ASSIGN_OR_RETURN(v1::Job job, LoadJobFile(options.file));
  FATHOM_RETURN_IF_ERROR(ApplyOverrides(options.overrides, job));
  plan::ResolveContext context;
  context.default_name = "model";
  context.default_user = session.environment().user;
  context.working_folder = session.environment().working_folder;
  FATHOM_ASSIGN_OR_RETURN(const v1::Job resolved, plan::ResolveJob(job, context));
  Dealt dealt;
  dealt.spec = resolved.spec();
  FATHOM_ASSIGN_OR_RETURN(dealt.config, model::ResolveModel(dealt.spec.model()));
  FATHOM_ASSIGN_OR_RETURN(dealt.recipe, model::FindRecipe(dealt.spec.precision()));
  FATHOM_ASSIGN_OR_RETURN(
      dealt.stages, planner::SplitStages(dealt.config, dealt.sequence_length(), dealt.pipeline()));
  return dealt;
}

std::string FormatName(model::Format format) {
  switch (format) {
    case model::Format::kFp64:
      return "fp64";
    case model::Format::kFp32:
      return "fp32";
    case model::Format::kBf16:
      return "bf16";
    case model::Format::kE4M3:
      return "e4m3";
  }
  return "";
}

// Of a weight between steps; products may take it in fewer bits.
std::string PrecisionOf(const Dealt& dealt, const ParameterSpec& tensor) {
  return tensor.kind == ParameterKind::kRouterBias ? "fp32" : FormatName(dealt.recipe.activations);
}

// In which a product takes it; empty for what is no matrix of a product.
std::string ProductPrecisionOf(const Dealt& dealt, const ParameterSpec& tensor) {
  if (tensor.rows == 1 || absl::StrContains(tensor.name, "embed_tokens")) return "";
  const bool dense =
      absl::StartsWith(tensor.name, "lm_head") || absl::EndsWith(tensor.name, "mlp.gate.weight");
  return FormatName(dense ? dealt.recipe.activations : dealt.recipe.products);
}

std::string KindName(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::kDense:
      return "dense";
    case ParameterKind::kExpert:
      return "expert";
    case ParameterKind::kRouterBias:
      return "router bias";
  }
  return "";
}

std::string OwnersText(const Dealt& dealt, const ParameterSpec& tensor, int stage) {
  const std::string ranks =
      absl::StrCat("pipeline ranks ", absl::StrJoin(dealt.PipelineRanksOf(stage), " and "));
  if (tensor.expert < 0) return absl::StrCat("all of ", ranks);
  return absl::StrCat("expert rank ", dealt.ExpertRankOf(tensor.expert), " of ", ranks);
}

int64_t HoldersOf(const Dealt& dealt, const ParameterSpec& tensor, int stage) {
  const auto mirrors = static_cast<int64_t>(dealt.PipelineRanksOf(stage).size());
  const int64_t lanes = tensor.expert < 0 ? dealt.spec.parallelism().expert() : 1;
  return mirrors * lanes * dealt.spec.parallelism().replicas();
}

Value TensorValue(const Dealt& dealt, const ParameterSpec& tensor) {
  const int stage = dealt.StageOf(tensor.layer);
  Value shape = Value::List();
  if (tensor.rows > 1) shape.Add(tensor.rows);
  shape.Add(tensor.cols);
  Value ranks = Value::List();
  for (const int rank : dealt.PipelineRanksOf(stage)) ranks.Add(rank);
  Value value = Value::Object();
  value.Set("name", tensor.name)
      .Set("shape", std::move(shape))
      .Set("elements", tensor.size())
      .Set("kind", KindName(tensor.kind))
      .Set("precision", PrecisionOf(dealt, tensor))
      .Set("product_precision", TextOrNull(ProductPrecisionOf(dealt, tensor)))
      .Set("layer", tensor.layer)
      .Set("stage", stage)
      .Set("pipeline_ranks", std::move(ranks))
      .Set("expert", tensor.expert < 0 ? Value() : Value(tensor.expert))
      .Set("expert_rank", tensor.expert < 0 ? Value() : Value(dealt.ExpertRankOf(tensor.expert)))
      .Set("holders", HoldersOf(dealt, tensor, stage));
  return value;
}

// Of the whole model, MTP modules included, each thing once.
model::StateBytes BytesOfModel(const Dealt& dealt, const model::ParameterCount& count) {
  return model::StateOf({.parameters = count.total + count.mtp, .sharers = 1}, dealt.recipe);
}

double FlopsPerToken(const Dealt& dealt, AttentionCount attention, bool with_mtp) {
  return model::TrainFlopsPerToken(dealt.config, dealt.sequence_length(), attention, with_mtp);
}

// What the passes compute, with what they make again.
double ExecutedFlopsPerToken(const Dealt& dealt) {
  const model::MicroBatchShape shape = {.sequences = 1, .sequence_length = dealt.sequence_length()};
  double flops = 0;
  const int64_t last = dealt.config.num_hidden_layers + dealt.config.num_nextn_predict_layers;
  for (int64_t layer = model::kEmbeddingLayer; layer <= last; ++layer) {
    const model::LayerOps ops = model::OpsOfLayer(dealt.config, layer, shape, dealt.recipe);
    for (const model::PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
      flops += model::FlopsOf(part->forward) + model::FlopsOf(part->backward_input) +
               model::FlopsOf(part->backward_weight);
    }
  }
  return flops / static_cast<double>(dealt.sequence_length());
}

Value ModelValue(const Dealt& dealt, bool tensors) {
  const model::ParameterCount count = model::CountParameters(dealt.config);
  const model::StateBytes bytes = BytesOfModel(dealt, count);
  Value parameters = Value::Object();
  parameters.Set("total", count.total).Set("active", count.active).Set("mtp", count.mtp);
  Value flops = Value::Object();
  flops.Set("causal", FlopsPerToken(dealt, AttentionCount::kCausal, false))
      .Set("noncausal", FlopsPerToken(dealt, AttentionCount::kFull, false))
      .Set("causal_with_mtp", FlopsPerToken(dealt, AttentionCount::kCausal, true))
      .Set("noncausal_with_mtp", FlopsPerToken(dealt, AttentionCount::kFull, true))
      .Set("executed", ExecutedFlopsPerToken(dealt));
  Value state = Value::Object();
  state.Set("weights", bytes.weights)
      .Set("gradients", bytes.gradients)
      .Set("optimizer", bytes.optimizer);
  Value stages = Value::List();
  for (const v1::Stage& stage : dealt.stages) stages.Add(ValueOf(stage, Fields::kAll));
  Value value = Value::Object();
  value.Set("preset", TextOrNull(dealt.spec.model().preset()))
      .Set("precision", dealt.recipe.name)
      .Set("sequence_length", dealt.sequence_length())
      .Set("parameters", std::move(parameters))
      .Set("training_flops_per_token", std::move(flops))
      .Set("state_bytes", std::move(state))
      .Set("stages", std::move(stages));
  if (tensors) {
    Value list = Value::List();
    for (const ParameterSpec& tensor : model::AllParameters(dealt.config)) {
      list.Add(TensorValue(dealt, tensor));
    }
    value.Set("tensors", std::move(list));
  }
  return value;
}

void PrintForPeople(const Dealt& dealt, bool tensors, Session& session) {
  const model::ParameterCount count = model::CountParameters(dealt.config);
  const model::StateBytes bytes = BytesOfModel(dealt, count);
  const auto flops = [&](AttentionCount attention, bool with_mtp) {
    return AmountText(FlopsPerToken(dealt, attention, with_mtp));
  };
  std::ostream& out = session.out();
  out << PageTable(
      {{}, {true}, {}},
      {{"parameters", WholeText(count.total), "without MTP modules"},
       {"active", WholeText(count.active), "of them, for each token"},
       {"MTP modules", WholeText(count.mtp), "beside the shared embedding and head"},
       {"operations a token", flops(AttentionCount::kCausal, false),
        absl::StrCat("to train it, at ", WholeText(dealt.sequence_length()),
                     " tokens, half of the attention's scores masked")},
       {"", flops(AttentionCount::kFull, false), "counting the masked half"},
       {"", flops(AttentionCount::kCausal, true), "with MTP, half masked"},
       {"", AmountText(ExecutedFlopsPerToken(dealt)),
        "with MTP and with what the backward makes again, as it runs"},
       {"weights", GigabytesText(bytes.weights),
        absl::StrCat(FormatName(dealt.recipe.activations), ", MTP modules included")},
       {"gradients", GigabytesText(bytes.gradients), "fp32, on each holder"},
       {"optimizer state", GigabytesText(bytes.optimizer),
        absl::StrCat("fp32 masters and moments in ", FormatName(dealt.recipe.optimizer_moments),
                     ", divided over the holders")}});
  if (!tensors) return;
  out << "\n";
  Table table;
  table.columns = {
      {"TENSOR"}, {"SHAPE", false, true}, {"PRECISION"}, {"STAGE", false, true}, {"OWNERS"}};
  for (const ParameterSpec& tensor : model::AllParameters(dealt.config)) {
    const int stage = dealt.StageOf(tensor.layer);
    const std::string product = ProductPrecisionOf(dealt, tensor);
    std::string precision = PrecisionOf(dealt, tensor);
    if (!product.empty() && product != precision) absl::StrAppend(&precision, "/", product);
    Row row;
    row.name = tensor.name;
    row.cells = {
        tensor.name,
        tensor.rows > 1 ? absl::StrCat(tensor.rows, "x", tensor.cols) : absl::StrCat(tensor.cols),
        std::move(precision), absl::StrCat(stage), OwnersText(dealt, tensor, stage)};
    table.rows.push_back(std::move(row));
  }
  out << RenderTable(table, session.format());
}

}  // namespace

absl::Status RunModel(const ModelOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const Dealt dealt, DealOut(options, session));
  if (session.for_people()) {
    PrintForPeople(dealt, options.tensors, session);
  } else {
    session.out() << RenderOne(dealt.spec.model().preset(), ModelValue(dealt, options.tensors),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
