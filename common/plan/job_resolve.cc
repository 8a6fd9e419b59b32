#include "common/plan/job_resolve.h"

#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/instruction.h"

namespace fathom::plan {
namespace {

constexpr int64_t kMaxSteps = 1'000'000'000;
constexpr int64_t kMaxSequenceLength = int64_t{1} << 24;
constexpr int64_t kMaxMicroBatchTokens = int64_t{1} << 28;
constexpr int64_t kMaxTokensPerStep = int64_t{1} << 48;
constexpr int64_t kMaxPathBytes = 4096;
constexpr int64_t kMaxLabelBytes = 256;
constexpr double kMaxTimeoutSeconds = 86'400;
constexpr int64_t kMaxPriority = 1000;
constexpr double kMaxExpectedHours = 1e6;
constexpr double kMaxTimeSliceSeconds = 2'592'000;
constexpr int64_t kMaxSnapshotEverySteps = 1000;

template <typename... Parts>
absl::Status Bad(absl::string_view path, Parts... parts) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", parts...));
}

absl::Status CheckInteger(absl::string_view path, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return Bad(path, value, " is out of range; choose a value from ", min, " to ", max);
}

// What a real number must lie in: min itself is allowed or not, max always.
struct RealRange {
  double min = 0;
  bool min_allowed = true;
  double max = 0;
  bool max_allowed = true;
};

absl::Status CheckReal(absl::string_view path, double value, const RealRange& range) {
  const bool above = range.min_allowed ? value >= range.min : value > range.min;
  const bool below = range.max_allowed ? value <= range.max : value < range.max;
  if (above && below) return absl::OkStatus();  // false for NaN
  return Bad(path, value, " is out of range; choose a number ",
             range.min_allowed ? "of at least " : "above ", range.min, " and ",
             range.max_allowed ? "at most " : "below ", range.max);
}

std::string Divisors(int64_t of, int64_t max) {
  std::vector<int64_t> divisors;
  for (int64_t i = 1; i <= std::min(of, max); ++i) {
    if (of % i == 0) divisors.push_back(i);
  }
  return absl::StrJoin(divisors, ", ");
}

// Makes *file absolute, if it is not empty.
absl::Status ResolvePath(absl::string_view path, const ResolveContext& context, std::string* file) {
  if (file->empty()) return absl::OkStatus();
  if (!IsValidUtf8(*file) || file->find('\0') != std::string::npos) {
    return Bad(path, "\"", CutText(*file, 100), "\" is no path: it has bytes that are no text");
  }
  if ((*file)[0] != '/') {
    if (context.working_folder.empty()) {
      return Bad(path, "\"", CutText(*file, 100),
                 "\" is relative, and from which folder is not known here; write it from the root, "
                 "starting with '/'");
    }
    const std::string folder(absl::StripSuffix(context.working_folder, "/"));
    *file = absl::StrCat(folder, "/", absl::StripPrefix(*file, "./"));
  }
  if (file->size() > kMaxPathBytes) {
    return Bad(path, "a path of ", file->size(), " bytes; at most ", kMaxPathBytes, " are allowed");
  }
  return absl::OkStatus();
}

absl::Status ResolveMetadata(const ResolveContext& context, v1::Metadata* metadata) {
  if (metadata->name().empty()) metadata->set_name(context.default_name);
  if (metadata->user().empty()) metadata->set_user(context.default_user);
  if (!metadata->name().empty()) {
    FATHOM_RETURN_IF_ERROR(WithContext(CheckJobName(metadata->name()), "metadata.name"));
  }
  if (metadata->user().size() > limits::kMaxNodeNameBytes) {
    return Bad("metadata.user", "a name of ", metadata->user().size(), " bytes; at most ",
               limits::kMaxNodeNameBytes, " are allowed");
  }
  if (metadata->labels().size() > limits::kMaxLabels) {
    return Bad("metadata.labels", metadata->labels().size(), " labels; at most ",
               limits::kMaxLabels, " are allowed");
  }
  for (const auto& [key, value] : metadata->labels()) {
    if (key.empty() || key.size() > kMaxLabelBytes || value.size() > kMaxLabelBytes) {
      return Bad("metadata.labels", "\"", CutText(key, 60),
                 "\" has an empty key, or more bytes in key or value than the ", kMaxLabelBytes,
                 " allowed");
    }
  }
  return absl::OkStatus();
}

absl::Status ResolveModelSpec(v1::JobSpec* spec, model::ModelConfig* config) {
  auto fail = [](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("spec.model.", status.message()));
  };
  auto resolved = model::ResolveModel(spec->model());
  if (!resolved.ok()) return fail(resolved.status());
  const absl::Status status = model::CheckModel(*resolved);
  if (!status.ok()) return fail(status);
  *config = *resolved;
  *spec->mutable_model() = model::ToSpec(*config, std::string(spec->model().preset()));
  return absl::OkStatus();
}

absl::Status ResolveData(const ResolveContext& context, v1::JobSpec* spec) {
  v1::DataSpec* data = spec->mutable_data();
  if (data->token_file().empty()) {
    return Bad(
        "spec.data.token_file",
        "missing; name a file made by `fathomctl data prepare`, at the same path on every node");
  }
  FATHOM_RETURN_IF_ERROR(ResolvePath("spec.data.token_file", context, data->mutable_token_file()));
  if (data->sequence_length() == 0) {
    data->set_sequence_length(model::PresetSequenceLength(spec->model().preset()));
  }
  if (data->sequence_length() == 0) {
    return Bad("spec.data.sequence_length", "missing, and no preset gives it; choose one");
  }
  return CheckInteger("spec.data.sequence_length", data->sequence_length(), 1, kMaxSequenceLength);
}

absl::Status ResolveParallelism(const model::ModelConfig& config, v1::Parallelism* shape) {
  if (shape->pipeline() == 0) shape->set_pipeline(1);
  if (shape->expert() == 0) shape->set_expert(1);
  if (shape->replicas() == 0) shape->set_replicas(1);
  const int64_t pipeline = shape->pipeline();
  const int64_t expert = shape->expert();
  const int64_t replicas = shape->replicas();
  const int64_t max_ranks = limits::kMaxRanksPerJob;

  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.parallelism.pipeline", pipeline, 1, max_ranks));
  if (pipeline != 1 && pipeline % 2 != 0) {
    return Bad("spec.parallelism.pipeline", pipeline,
               " is odd, and each pipeline rank needs a mirror; choose 1 or an even number");
  }
  if (pipeline > config.num_hidden_layers) {
    return Bad("spec.parallelism.pipeline", pipeline, " stages are more than the model's ",
               config.num_hidden_layers, " layers; choose at most ",
               config.num_hidden_layers < 2 ? 1 : config.num_hidden_layers / 2 * 2);
  }
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.parallelism.expert", expert, 1, max_ranks));
  if (config.n_routed_experts % expert != 0) {
    return Bad("spec.parallelism.expert", expert, " does not divide the model's ",
               config.n_routed_experts, " routed experts; choose one of ",
               Divisors(config.n_routed_experts, max_ranks));
  }
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.parallelism.replicas", replicas, 1, max_ranks));
  if (pipeline * expert * replicas > max_ranks) {  // each is at most 8192
    return Bad("spec.parallelism", pipeline, " x ", expert, " x ", replicas, " are ",
               pipeline * expert * replicas, " ranks; at most ", max_ranks, " are allowed");
  }
  return absl::OkStatus();
}

absl::Status CheckMicroBatches(absl::string_view path, int64_t pipeline, int64_t count,
                               int64_t min) {
  if (count < min || (pipeline > 1 && count % 2 != 0)) {
    return Bad(path, count, " does not fill a pipeline of ", pipeline, "; choose ",
               pipeline > 1 ? "an even number of " : "", "at least ", min);
  }
  if (count > schedule::kMaxScheduleCells / pipeline) {
    return Bad(path, count, " is too many for a pipeline of ", pipeline, "; choose at most ",
               schedule::kMaxScheduleCells / pipeline);
  }
  return absl::OkStatus();
}

absl::Status ResolveBatch(const v1::JobSpec& spec, v1::Training* training) {
  const int64_t pipeline = spec.parallelism().pipeline();
  if (training->micro_batches() == 0) {
    training->set_micro_batches(pipeline == 1 ? 1 : 2 * pipeline);
  }
  FATHOM_RETURN_IF_ERROR(CheckMicroBatches("spec.training.micro_batches", pipeline,
                                           training->micro_batches(),
                                           pipeline == 1 ? 1 : 2 * pipeline));
  if (training->micro_batch_sequences() == 0) training->set_micro_batch_sequences(1);
  const int64_t length = spec.data().sequence_length();
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.training.micro_batch_sequences",
                                      training->micro_batch_sequences(), 1,
                                      kMaxMicroBatchTokens / length));
  const __int128 tokens = static_cast<__int128>(training->micro_batch_sequences()) * length *
                          training->micro_batches() * spec.parallelism().expert() *
                          spec.parallelism().replicas();
  if (tokens > kMaxTokensPerStep) {
    return Bad("spec.training.micro_batches", training->micro_batches(), " of ",
               training->micro_batch_sequences(), " sequences of ", length, " tokens on ",
               spec.parallelism().expert() * spec.parallelism().replicas(), " lanes are ",
               static_cast<double>(tokens), " tokens per step; at most ", kMaxTokensPerStep,
               " can be counted");
  }
  return absl::OkStatus();
}

absl::Status ResolveLearningRate(v1::Training* t) {
  if (t->learning_rate() == 0) t->set_learning_rate(2.2e-4);
  if (!t->has_final_learning_rate()) t->set_final_learning_rate(t->learning_rate() / 10);
  if (!t->has_warmup_steps()) t->set_warmup_steps(t->steps() / 20);
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.learning_rate", t->learning_rate(),
                                   {.min = 0, .min_allowed = false, .max = 100}));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.final_learning_rate", t->final_learning_rate(),
                                   {.min = 0, .max = t->learning_rate()}));
  FATHOM_RETURN_IF_ERROR(
      CheckInteger("spec.training.warmup_steps", t->warmup_steps(), 0, t->steps()));
  FATHOM_RETURN_IF_ERROR(
      CheckInteger("spec.training.constant_steps", t->constant_steps(), 0, t->steps()));
  if (t->warmup_steps() + t->constant_steps() > t->steps()) {
    return Bad("spec.training.constant_steps", t->constant_steps(), " and ", t->warmup_steps(),
               " of warmup_steps are more than the ", t->steps(), " steps; choose at most ",
               t->steps() - t->warmup_steps());
  }
  return absl::OkStatus();
}

absl::Status ResolveOptimizer(v1::Training* t) {
  if (!t->has_beta1()) t->set_beta1(0.9);
  if (!t->has_beta2()) t->set_beta2(0.95);
  if (t->epsilon() == 0) t->set_epsilon(1e-8);
  if (!t->has_weight_decay()) t->set_weight_decay(0.1);
  if (t->clip_norm() == 0) t->set_clip_norm(1.0);
  if (!t->has_mtp_loss_weight()) t->set_mtp_loss_weight(0.3);
  if (!t->has_balance_alpha()) t->set_balance_alpha(1e-4);
  if (!t->has_bias_update_speed()) t->set_bias_update_speed(1e-3);
  const RealRange beta = {.min = 0, .max = 1, .max_allowed = false};
  const RealRange weight = {.min = 0, .max = 1000};
  const RealRange positive = {.min = 0, .min_allowed = false, .max = 1e9};
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.beta1", t->beta1(), beta));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.beta2", t->beta2(), beta));
  FATHOM_RETURN_IF_ERROR(
      CheckReal("spec.training.epsilon", t->epsilon(), {.min = 0, .min_allowed = false, .max = 1}));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.weight_decay", t->weight_decay(), weight));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.clip_norm", t->clip_norm(), positive));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.mtp_loss_weight", t->mtp_loss_weight(), weight));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.training.balance_alpha", t->balance_alpha(), weight));
  return CheckReal("spec.training.bias_update_speed", t->bias_update_speed(), weight);
}

absl::Status ResolveTraining(v1::JobSpec* spec) {
  v1::Training* training = spec->mutable_training();
  if (training->steps() == 0) training->set_steps(100);
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.training.steps", training->steps(), 1, kMaxSteps));
  FATHOM_RETURN_IF_ERROR(ResolveBatch(*spec, training));
  if (training->seed() == 0) training->set_seed(1);
  FATHOM_RETURN_IF_ERROR(ResolveLearningRate(training));
  FATHOM_RETURN_IF_ERROR(ResolveOptimizer(training));
  FATHOM_RETURN_IF_ERROR(
      CheckInteger("spec.training.validation_every", training->validation_every(), 0, kMaxSteps));
  if (training->validation_batches() == 0) {
    training->set_validation_batches(training->micro_batches());
  }
  const int64_t pipeline = spec->parallelism().pipeline();
  return CheckMicroBatches("spec.training.validation_batches", pipeline,
                           training->validation_batches(), pipeline == 1 ? 1 : 2);
}

absl::Status ResolveCheckpoint(const ResolveContext& context, const std::string& job_name,
                               v1::CheckpointPolicy* policy) {
  if (policy->directory().empty() && !context.checkpoint_folder.empty() && !job_name.empty()) {
    policy->set_directory(
        absl::StrCat(absl::StripSuffix(context.checkpoint_folder, "/"), "/", job_name));
  }
  FATHOM_RETURN_IF_ERROR(
      ResolvePath("spec.checkpoint.directory", context, policy->mutable_directory()));
  FATHOM_RETURN_IF_ERROR(
      CheckInteger("spec.checkpoint.every_steps", policy->every_steps(), 0, kMaxSteps));
  if (policy->keep() == 0) policy->set_keep(2);
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.checkpoint.keep", policy->keep(), 1, 1'000'000));
  return ResolvePath("spec.checkpoint.resume_from", context, policy->mutable_resume_from());
}

absl::Status ResolveRestart(v1::RestartPolicy* policy) {
  if (!policy->has_max_restarts_without_progress()) policy->set_max_restarts_without_progress(3);
  if (policy->peer_timeout_s() == 0) policy->set_peer_timeout_s(120);
  if (policy->start_timeout_s() == 0) policy->set_start_timeout_s(120);
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.restart.max_restarts_without_progress",
                                      policy->max_restarts_without_progress(), 0, 1'000'000));
  const RealRange timeout = {.min = 0, .min_allowed = false, .max = kMaxTimeoutSeconds};
  FATHOM_RETURN_IF_ERROR(
      CheckReal("spec.restart.peer_timeout_s", policy->peer_timeout_s(), timeout));
  return CheckReal("spec.restart.start_timeout_s", policy->start_timeout_s(), timeout);
}

absl::Status ResolveScheduling(v1::Scheduling* scheduling) {
  if (!scheduling->has_preemptible()) scheduling->set_preemptible(true);
  FATHOM_RETURN_IF_ERROR(CheckInteger("spec.scheduling.priority", scheduling->priority(),
                                      -kMaxPriority, kMaxPriority));
  FATHOM_RETURN_IF_ERROR(CheckReal("spec.scheduling.expected_hours", scheduling->expected_hours(),
                                   {.min = 0, .max = kMaxExpectedHours}));
  return CheckReal("spec.scheduling.time_slice_s", scheduling->time_slice_s(),
                   {.min = 0, .max = kMaxTimeSliceSeconds});
}

absl::Status ResolveRecovery(v1::Recovery* recovery) {
  if (!recovery->has_snapshot_every_steps()) recovery->set_snapshot_every_steps(1);
  if (!recovery->has_verify_weights()) recovery->set_verify_weights(true);
  if (!recovery->has_shed_replicas()) recovery->set_shed_replicas(true);
  return CheckInteger("spec.recovery.snapshot_every_steps", recovery->snapshot_every_steps(), 0,
                      kMaxSnapshotEverySteps);
}

absl::Status ResolveSpec(const ResolveContext& context, const std::string& job_name,
                         v1::JobSpec* spec) {
  model::ModelConfig config;
  FATHOM_RETURN_IF_ERROR(ResolveModelSpec(spec, &config));
  FATHOM_RETURN_IF_ERROR(ResolveData(context, spec));
  if (spec->precision().empty()) spec->set_precision("bf16");
  if (const auto recipe = model::FindRecipe(spec->precision()); !recipe.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("spec.", recipe.status().message()));
  }
  FATHOM_RETURN_IF_ERROR(ResolveParallelism(config, spec->mutable_parallelism()));
  FATHOM_RETURN_IF_ERROR(ResolveTraining(spec));
  FATHOM_RETURN_IF_ERROR(ResolveCheckpoint(context, job_name, spec->mutable_checkpoint()));
  FATHOM_RETURN_IF_ERROR(ResolveRestart(spec->mutable_restart()));
  FATHOM_RETURN_IF_ERROR(ResolveScheduling(spec->mutable_scheduling()));
  return ResolveRecovery(spec->mutable_recovery());
}

absl::Status CheckHead(const v1::Job& job) {
  if (job.api_version() != "fathom/v1") {
    return Bad("apiVersion", "\"", CutText(job.api_version(), 60), "\"; write fathom/v1");
  }
  if (job.kind() != "Job") {
    return Bad("kind", "\"", CutText(job.kind(), 60), "\"; write Job");
  }
  if (job.ByteSizeLong() > limits::kMaxJobBytes) {
    return Bad("job", job.ByteSizeLong(), " bytes; at most ", limits::kMaxJobBytes, " are allowed");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckJobName(const std::string& name) {
  auto allowed = [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-';
  };
  if (!name.empty() && name.size() <= limits::kMaxNameBytes && absl::ascii_islower(name[0]) &&
      std::all_of(name.begin(), name.end(), allowed)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", CutText(name, 100),
                   "\" is no name for a job; use lower-case letters, digits and '-', at most ",
                   limits::kMaxNameBytes, ", starting with a letter"));
}

absl::StatusOr<v1::Job> ResolveJob(const v1::Job& job, const ResolveContext& context) {
  FATHOM_RETURN_IF_ERROR(CheckHead(job));
  v1::Job resolved = job;
  FATHOM_RETURN_IF_ERROR(ResolveMetadata(context, resolved.mutable_metadata()));
  FATHOM_RETURN_IF_ERROR(ResolveSpec(context, resolved.metadata().name(), resolved.mutable_spec()));
  return resolved;
}

absl::Status CheckResolvedSpec(const v1::JobSpec& spec) {
  v1::JobSpec resolved = spec;
  FATHOM_RETURN_IF_ERROR(ResolveSpec({}, "", &resolved));
  std::string difference;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&difference);
  if (differencer.Compare(spec, resolved)) return absl::OkStatus();
  return Bad("spec", "not resolved, it leaves a default open: ",
             absl::StripTrailingAsciiWhitespace(CutText(difference, 200)));
}

}  // namespace fathom::plan
