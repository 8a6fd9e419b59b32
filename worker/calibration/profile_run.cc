#include "worker/calibration/profile_run.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_formula.h"
#include "common/calibration/op_time_names.h"
#include "common/calibration/step_work.h"
#include "common/cluster/device_profiles.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/plan/job_resolve.h"
#include "worker/calibration/core_clock.h"
#include "worker/calibration/least_squares.h"
#include "worker/calibration/message_probe.h"
#include "worker/calibration/op_fit.h"
#include "worker/calibration/training_run.h"

namespace fathom::calibration {
namespace {

constexpr int64_t kTokens = 200'000;
// So that what else the machine does meanwhile falls on all shapes alike.
constexpr int kRounds = 2;
constexpr char kTokenFile[] = "calibration-tokens.bin";

// A model to train, of a size between others.
struct Shape {
  const char* name;
  int64_t hidden, layers, ffn, expert_ffn, heads, q_rank, kv_rank, nope, rope, v, experts, top_k;
  int64_t vocabulary, sequence_length, sequences, micro_batches;
};
constexpr Shape kShapes[] = {
    {"hidden 24", 24, 4, 48, 16, 2, 16, 16, 8, 8, 8, 4, 2, 264, 20, 1, 12},
    {"hidden 48", 48, 4, 96, 32, 3, 24, 16, 16, 8, 16, 8, 2, 264, 48, 2, 6},
    {"hidden 96", 96, 4, 224, 64, 4, 48, 32, 16, 16, 24, 6, 2, 512, 96, 2, 4},
    {"hidden 160", 160, 3, 320, 80, 4, 80, 48, 32, 16, 32, 12, 3, 264, 224, 1, 3},
    {"hidden 288", 288, 2, 512, 144, 6, 128, 96, 32, 32, 48, 4, 2, 320, 320, 1, 2},
};

v1::ModelSpec ModelOf(const Shape& shape) {
  model::ModelConfig config;
  config.vocab_size = shape.vocabulary;
  config.hidden_size = shape.hidden;
  config.num_hidden_layers = shape.layers;
  config.first_k_dense_replace = 1;
  config.intermediate_size = shape.ffn;
  config.moe_intermediate_size = shape.expert_ffn;
  config.num_attention_heads = shape.heads;
  config.q_lora_rank = shape.q_rank;
  config.kv_lora_rank = shape.kv_rank;
  config.qk_nope_head_dim = shape.nope;
  config.qk_rope_head_dim = shape.rope;
  config.v_head_dim = shape.v;
  config.n_routed_experts = shape.experts;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = shape.top_k;
  config.n_group = 2;
  config.topk_group = 2;
  config.routed_scaling_factor = 1;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.02;
  return model::ToSpec(config, "");
}

absl::StatusOr<v1::JobSpec> SpecOf(const Shape& shape, const std::string& precision,
                                   const std::string& token_file) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("profile");
  v1::JobSpec& spec = *job.mutable_spec();
  *spec.mutable_model() = ModelOf(shape);
  spec.set_precision(precision);
  spec.mutable_data()->set_token_file(token_file);
  spec.mutable_data()->set_sequence_length(shape.sequence_length);
  spec.mutable_training()->set_steps(1000);
  spec.mutable_training()->set_micro_batches(shape.micro_batches);
  spec.mutable_training()->set_micro_batch_sequences(shape.sequences);
  FATHOM_ASSIGN_OR_RETURN(const v1::Job resolved, plan::ResolveJob(job));
  return resolved.spec();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double StepSeconds(const MeasuredRank& rank) {
  std::vector<double> seconds;
  for (const v1::StepReport& step : rank.steps) seconds.push_back(step.seconds());
  return Median(std::move(seconds));
}

// What a step of one rank has to do, counted.
struct StepCounts {
  model::OpCalls ops;
  double calls = 0;
  double exchange_bytes = 0;
  double moe_passes = 0;  // of a micro-batch through a MoE layer
  double instructions = 0;
  double hashed_bytes = 0;
};

void Append(const model::OpCalls& calls, int64_t times, StepCounts* counts) {
  for (const model::OpCall& call : calls) {
    model::OpCall many = call;
    many.count *= times;
    many.flops *= static_cast<double>(times);
    many.bytes *= static_cast<double>(times);
    counts->calls += static_cast<double>(many.count);
    counts->ops.push_back(many);
  }
}

absl::StatusOr<StepCounts> CountStep(const v1::JobSpec& spec) {
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe(spec.precision()));
  model::MicroBatchShape shape;
  shape.sequences = spec.training().micro_batch_sequences();
  shape.sequence_length = spec.data().sequence_length();
  const int64_t micro_batches = spec.training().micro_batches();
  StepCounts counts;
  double moe_layers = 0;
  const int64_t last = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (int64_t layer = -1; layer <= last; ++layer) {
    const model::LayerOps ops = model::OpsOfLayer(config, layer, shape, recipe);
    for (const model::PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
      Append(part->forward, micro_batches, &counts);
      Append(part->backward_input, micro_batches, &counts);
      Append(part->backward_weight, micro_batches, &counts);
    }
    const bool block = layer >= 0 && layer != config.num_hidden_layers;
    if (block && (layer > config.num_hidden_layers || config.is_moe_layer(layer))) ++moe_layers;
  }
  const LayerExchange x = ExchangeOf(config, shape, recipe);
  for (const ExchangeWork* way :
       {&x.dispatch_forward, &x.combine_forward, &x.combine_backward, &x.dispatch_backward}) {
    counts.exchange_bytes +=
        moe_layers * static_cast<double>(micro_batches) * (way->post_bytes + way->receive_bytes);
  }
  counts.moe_passes = moe_layers * static_cast<double>(micro_batches);
  JobShape job = {&config, &recipe, spec.parallelism(), {config.num_hidden_layers}};
  const StepEnd end = StepEndOf(job, {0}, 1);
  Append(end.ops, 1, &counts);
  counts.hashed_bytes = static_cast<double>(2 * end.weight_bytes + end.state_bytes);
  counts.instructions = 2 * static_cast<double>(micro_batches);
  return counts;
}

// One shape in one precision, run.
struct CalibrationRun {
  std::string name;
  TrainingRun training;
  MeasuredRank measured;
  StepCounts counts;
  double step_s = 0;
  double ops_s = 0;  // per step
};

v1::OpTime Entry(const char* op, double fixed, double per_byte) {
  v1::OpTime entry;
  entry.set_op(op);
  entry.set_fixed_seconds(fixed);
  entry.set_seconds_per_byte(per_byte);
  return entry;
}

// Copies to and from the backend's memory are part of the token exchange, which counts them.
double HostCopySeconds(const OpSamples& samples, double meter_seconds) {
  OpSamples copies;
  for (const auto& [shape, calls] : samples) {
    if (shape.op == "CopyFromHost" || shape.op == "CopyToHost") copies[shape] = calls;
  }
  return TotalSeconds(copies, meter_seconds);
}

// What steps take beside ops and hashes: per call of an op, byte exchanged, instruction and step.
void FitRest(const std::vector<CalibrationRun>& runs, double hash, v1::OpTimes* times) {
  std::vector<Equation> equations;
  for (const CalibrationRun& run : runs) {
    const double rest = std::max(0.0, run.step_s - run.ops_s - hash * run.counts.hashed_bytes);
    equations.push_back(
        {{run.counts.calls, run.counts.exchange_bytes, run.counts.instructions, 1.0},
         rest,
         1 / (run.step_s * run.step_s)});
  }
  const std::vector<double> x = NonNegativeLeastSquares(equations);
  *times->add_ops() = Entry(kOverhead, x[0], 0);
  *times->add_ops() = Entry(kExchange, 0, x[1]);
  *times->add_ops() = Entry(kInstruction, x[2], 0);
  *times->add_ops() = Entry(kStep, x[3], 0);
  *times->add_ops() = Entry(kHash, 0, hash);
}

// So many jobs of one rank at once: seconds of a step, the mean over jobs.
absl::StatusOr<double> StepOfJobsAtOnce(const v1::JobSpec& spec, int jobs, int64_t steps,
                                        const Clock* clock) {
  std::vector<absl::StatusOr<MeasuredTraining>> results(jobs, absl::UnknownError("not run"));
  std::vector<std::thread> threads;
  for (int job = 0; job < jobs; ++job) {
    threads.emplace_back([&, job] {
      TrainingRun run;
      run.spec = spec;
      run.steps = steps;
      results[job] = RunTraining(run, clock);
    });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (const auto& result : results) {
    FATHOM_RETURN_IF_ERROR(result.status());
    sum += StepSeconds(result->ranks[0]);
  }
  return sum / jobs;
}

// How cores that are busy together slow each other down.
absl::Status MeasureSharing(const std::string& token_file, const ProfileOptions& options,
                            const Clock* clock, v1::OpTimes* times) {
  times->set_cores(options.cores);
  times->set_busy_slowdown(1);
  times->set_turns_slowdown(1);
  std::vector<double> busy;
  std::vector<double> turns;
  for (const Shape& shape : {kShapes[2], kShapes[3]}) {
    FATHOM_ASSIGN_OR_RETURN(const v1::JobSpec spec, SpecOf(shape, "fp32", token_file));
    const int64_t steps = options.steps;
    FATHOM_ASSIGN_OR_RETURN(const double one, StepOfJobsAtOnce(spec, 1, steps, clock));
    double all = one;
    if (options.cores > 1) {
      FATHOM_ASSIGN_OR_RETURN(all, StepOfJobsAtOnce(spec, options.cores, steps, clock));
    }
    FATHOM_ASSIGN_OR_RETURN(const double twice,
                            StepOfJobsAtOnce(spec, 2 * options.cores, steps, clock));
    busy.push_back(all / one);
    turns.push_back(twice / all);
  }
  times->set_busy_slowdown(std::max(1.0, Median(busy)));
  times->set_turns_slowdown(std::max(1.0, Median(turns)));
  return absl::OkStatus();
}

// What ranks pay for going on after they waited for each other: the core time of a job of several
// expert ranks, beyond what its ranks' steps and messages take, by the number of waits. `core`
// counts each thread's time.
absl::StatusOr<double> ProbeTurns(const std::string& token_file, const ProfileOptions& options,
                                  const MessageTimes& shm, double busy_slowdown,
                                  const Clock* core) {
  constexpr int kExpertRanks = 2;
  constexpr double kWaysOfTokens = 4;  // dispatch and combine, forward and backward
  std::vector<double> found;
  for (const Shape& shape : {kShapes[1], kShapes[2], kShapes[3]}) {
    FATHOM_ASSIGN_OR_RETURN(v1::JobSpec spec, SpecOf(shape, "fp32", token_file));
    FATHOM_ASSIGN_OR_RETURN(const StepCounts alone, CountStep(spec));
    TrainingRun run;
    run.spec = spec;
    run.steps = options.steps;
    FATHOM_ASSIGN_OR_RETURN(const MeasuredTraining one, RunTraining(run, core));
    run.spec.mutable_parallelism()->set_expert(kExpertRanks);
    FATHOM_ASSIGN_OR_RETURN(const MeasuredTraining several, RunTraining(run, core));
    const double waits = kWaysOfTokens * alone.moe_passes;
    const double messages = waits * shm.seconds_per_message +
                            alone.exchange_bytes / kExpertRanks * shm.seconds_per_byte;
    const double beyond =
        several.core_seconds / kExpertRanks - busy_slowdown * one.core_seconds - messages;
    found.push_back(std::max(0.0, beyond / waits));
  }
  return Median(std::move(found));
}

absl::Status ProbeRanks(const std::string& token_file, const ProfileOptions& options,
                        const Clock* clock, const Clock* core, v1::OpTimes* times) {
  FATHOM_ASSIGN_OR_RETURN(const MessageTimes shm, ProbeMessages(Wire::kShm, clock));
  FATHOM_ASSIGN_OR_RETURN(const MessageTimes tcp, ProbeMessages(Wire::kTcp, clock));
  FATHOM_ASSIGN_OR_RETURN(const double reduce, ProbeReduce(shm));
  *times->add_ops() = Entry(kMessageShm, shm.seconds_per_message, shm.seconds_per_byte);
  *times->add_ops() = Entry(kMessageTcp, tcp.seconds_per_message, tcp.seconds_per_byte);
  *times->add_ops() = Entry(kLatencyShm, shm.latency_seconds, 0);
  *times->add_ops() = Entry(kLatencyTcp, tcp.latency_seconds, 0);
  *times->add_ops() = Entry(kReduce, 0, reduce);
  FATHOM_ASSIGN_OR_RETURN(const double turn,
                          ProbeTurns(token_file, options, shm, times->busy_slowdown(), core));
  *times->add_ops() = Entry(kTurn, turn, 0);
  return absl::OkStatus();
}

// What the op times say of a step that was measured for them.
double FittedStep(const v1::OpTimes& times, const StepCounts& counts) {
  double seconds = 0;
  const auto add = [&](absl::string_view op, absl::string_view format, const CallSums& sums) {
    for (const v1::OpTime& entry : times.ops()) {
      if (entry.op() == op && entry.format() == format) seconds += SecondsOf(entry, sums);
    }
  };
  for (const model::OpCall& call : counts.ops) {
    add(call.op, FormatName(call.format), SumsOf(call));
  }
  add(kOverhead, "", {.count = counts.calls});
  add(kExchange, "", {.count = 0, .bytes = counts.exchange_bytes});
  add(kInstruction, "", {.count = counts.instructions});
  add(kHash, "", {.count = 0, .bytes = counts.hashed_bytes});
  add(kStep, "", {.count = 1});
  return seconds;
}

absl::StatusOr<std::vector<CalibrationRun>> RunShapes(
    const std::string& token_file, const ProfileOptions& options, double meter_s,
    const Clock* clock, const std::function<void(absl::string_view)>& progress) {
  std::vector<std::string> precisions = options.precisions;
  if (precisions.empty()) precisions = model::RecipeNames();
  std::vector<CalibrationRun> runs;
  for (const std::string& precision : precisions) {
    for (const Shape& shape : kShapes) {
      CalibrationRun& run = runs.emplace_back();
      run.name = absl::StrCat(shape.name, " ", precision);
      FATHOM_ASSIGN_OR_RETURN(run.training.spec, SpecOf(shape, precision, token_file));
      run.training.steps = (options.steps + kRounds - 1) / kRounds;
      run.training.meter_ops = true;
      FATHOM_ASSIGN_OR_RETURN(run.counts, CountStep(run.training.spec));
    }
  }
  for (int round = 1; round <= kRounds; ++round) {
    progress(absl::StrCat("training ", runs.size(), " small jobs, round ", round, " of ", kRounds));
    for (CalibrationRun& run : runs) {
      FATHOM_ASSIGN_OR_RETURN(MeasuredTraining measured, RunTraining(run.training, clock));
      run.measured.steps.insert(run.measured.steps.end(), measured.ranks[0].steps.begin(),
                                measured.ranks[0].steps.end());
      for (const auto& [op, calls] : measured.ranks[0].ops) {
        std::vector<float>& all = run.measured.ops[op];
        all.insert(all.end(), calls.begin(), calls.end());
      }
    }
  }
  for (CalibrationRun& run : runs) {
    run.step_s = StepSeconds(run.measured);
    run.ops_s =
        (TotalSeconds(run.measured.ops, meter_s) - HostCopySeconds(run.measured.ops, meter_s)) /
        static_cast<double>(run.measured.steps.size());
  }
  return runs;
}

// The built-in profile of a core with what was measured of this one.
absl::StatusOr<v1::DeviceProfile> FrameOf(const ProfileOptions& options) {
  FATHOM_ASSIGN_OR_RETURN(v1::DeviceProfile profile, cluster::FindProfile("cpu"));
  profile.set_title(absl::StrCat("a core of ", options.machine));
  if (options.memory_bytes > 0) {
    profile.set_memory_bytes(options.memory_bytes / options.cores);
    for (v1::Source& source : *profile.mutable_sources()) {
      if (source.figure() == "memory_bytes") source.set_text("this machine's memory per core");
    }
  }
  return profile;
}

}  // namespace

absl::StatusOr<Profiled> RunProfile(const ProfileOptions& options, const Clock* clock,
                                    const std::function<void(absl::string_view)>& progress) {
  Profiled out;
  FATHOM_ASSIGN_OR_RETURN(out.profile, FrameOf(options));
  const std::string token_file = absl::StrCat(options.scratch_folder, "/", kTokenFile);
  FATHOM_RETURN_IF_ERROR(WriteCalibrationTokens(token_file, kTokens));
  const CoreClock core(clock);
  const double meter_s = ProbeClock(&core);
  FATHOM_ASSIGN_OR_RETURN(const std::vector<CalibrationRun> runs,
                          RunShapes(token_file, options, meter_s, &core, progress));
  v1::OpTimes& times = *out.profile.mutable_op_times();
  std::vector<const OpSamples*> samples;
  for (const CalibrationRun& run : runs) samples.push_back(&run.measured.ops);
  for (const v1::OpTime& entry : FitOps(samples, meter_s)) {
    if (entry.op() != "CopyFromHost" && entry.op() != "CopyToHost") *times.add_ops() = entry;
  }
  progress("hashes");
  const double hash = ProbeHash(&core);
  FitRest(runs, hash, &times);
  progress("several ranks at once, messages between them");
  FATHOM_RETURN_IF_ERROR(MeasureSharing(token_file, options, &core, &times));
  FATHOM_RETURN_IF_ERROR(ProbeRanks(token_file, options, clock, &core, &times));
  times.set_machine(options.machine);
  times.set_measured_ms(clock->WallMs());
  for (const CalibrationRun& run : runs) {
    out.runs.push_back({run.name, run.step_s, run.ops_s, FittedStep(times, run.counts)});
  }
  return out;
}

std::string SummaryOf(const Profiled& profiled) {
  std::string out =
      absl::StrFormat("%-24s %12s %12s %8s\n", "training run", "measured ms", "fitted ms", "error");
  double sum = 0;
  for (const ProfiledRun& run : profiled.runs) {
    const double error = run.fitted_s / run.measured_s - 1;
    sum += std::abs(error);
    absl::StrAppendFormat(&out, "%-24s %12.3f %12.3f %+7.1f%%\n", run.name, 1e3 * run.measured_s,
                          1e3 * run.fitted_s, 100 * error);
  }
  const v1::OpTimes& times = profiled.profile.op_times();
  absl::StrAppendFormat(&out, "mean error of the fit %.1f%%, of %d entries\n",
                        100 * sum / static_cast<double>(profiled.runs.size()), times.ops_size());
  absl::StrAppendFormat(&out,
                        "work takes %.2f times as long while %d cores are busy, and %.2f times "
                        "that while ranks take turns\n",
                        times.busy_slowdown(), times.cores(), times.turns_slowdown());
  return out;
}

}  // namespace fathom::calibration
