#include "tests/bench/fleet/scenarios.h"

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "tests/bench/fleet/coordinator_process.h"
#include "tests/bench/fleet/fleet_client.h"

namespace fathom::fleet {
namespace {

constexpr int kRanksPerNode = 8;
constexpr absl::Duration kPatience = absl::Seconds(60);
// The reference job: pipelines of 16 stages, experts over 8 ranks, and as many replicas as fit.
constexpr int kPipeline = 16;
constexpr int kExpert = 8;
constexpr int kSparesPerHundred = 6;
constexpr int kUnfinishedAtOnce = 600;

struct Bench {
  ScenarioOptions options;
  std::string scenario;
  std::vector<Figure>* figures;
  std::string folder;
  std::unique_ptr<CoordinatorProcess> coordinator;
  std::unique_ptr<FleetClient> fleet;

  void Add(const std::string& name, double value, const std::string& unit, double target = 0,
           bool at_most = true) {
    figures->push_back({scenario, name, value, unit, target, at_most});
  }
  absl::Duration Now() const { return options.clock->Steady(); }

  absl::Status StartCoordinator() {
    auto started = CoordinatorProcess::Start(options.coordinator, folder, options.clock);
    if (!started.ok()) return started.status();
    coordinator = *std::move(started);
    return absl::OkStatus();
  }

  // `spares` of the nodes are held back.
  void StartFleet(int nodes, int spares, bool finish_at_once) {
    FleetOptions fleet_options;
    fleet_options.address = coordinator->address();
    fleet_options.nodes_per_channel = options.nodes_per_channel;
    fleet_options.finish_at_once = finish_at_once;
    fleet_options.clock = options.clock;
    for (int i = 0; i < nodes; ++i) {
      NodeShape shape;
      shape.name = absl::StrFormat("node-%04d", i);
      shape.failure_domain = absl::StrCat("rack-", i / 8);
      shape.devices = kRanksPerNode;
      shape.spare = i >= nodes - spares;
      fleet_options.nodes.push_back(shape);
    }
    fleet = std::make_unique<FleetClient>(std::move(fleet_options));
  }
};

v1::SubmitJobRequest JobOf(const std::string& name, const std::string& preset, int pipeline,
                           int expert, int replicas) {
  v1::SubmitJobRequest request;
  v1::Job& job = *request.mutable_job();
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name(name);
  job.mutable_metadata()->set_user("bench");
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset(preset);
  spec.mutable_data()->set_token_file("/data/bench.tokens");
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_parallelism()->set_replicas(replicas);
  spec.mutable_training()->set_steps(1'000'000'000);
  request.set_request_id(absl::StrCat("bench-", name));
  return request;
}

double Percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(part * last + 0.5)];
}

// One job over all nodes but the spares; returns its id once all of its ranks train.
absl::StatusOr<std::string> StartReferenceJob(Bench* bench, int spares) {
  const int nodes = bench->fleet->size() - spares;
  const int replicas = nodes * kRanksPerNode / (kPipeline * kExpert);
  const int busy = replicas * kPipeline * kExpert / kRanksPerNode;
  FATHOM_ASSIGN_OR_RETURN(
      const v1::SubmitJobResponse submitted,
      bench->fleet->Submit(JobOf("reference", "deepseek-v3", kPipeline, kExpert, replicas)));
  const std::string id = submitted.id();
  const bool trains =
      bench->fleet->Await([&] { return bench->fleet->TrainingNodes(id, 1) == busy; }, kPatience);
  if (trains) return id;
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus job, bench->fleet->GetJob(id));
  return absl::DeadlineExceededError(
      absl::StrCat("the reference job does not train on ", busy, " nodes: ", job.reason()));
}

int SparesOf(int nodes) { return std::max(2, nodes * kSparesPerHundred / 100); }

absl::Status Heartbeats(Bench* bench) {
  FATHOM_RETURN_IF_ERROR(bench->StartCoordinator());
  const int spares = SparesOf(bench->options.nodes);
  bench->StartFleet(bench->options.nodes, spares, false);
  FATHOM_RETURN_IF_ERROR(StartReferenceJob(bench, spares).status());
  const absl::Duration settle = absl::Seconds(2);
  bench->fleet->Await([] { return false; }, settle);
  const absl::Duration begin = bench->Now();
  const absl::Duration cpu = bench->coordinator->CpuTime();
  const int64_t reports = bench->fleet->reports();
  bench->fleet->Await([] { return false; }, absl::Seconds(bench->options.seconds));
  const absl::Duration took = bench->Now() - begin;
  const absl::Duration used = bench->coordinator->CpuTime() - cpu;
  const auto count = static_cast<double>(bench->fleet->reports() - reports);
  bench->Add("reports", count / absl::ToDoubleSeconds(took), "1/s");
  bench->Add("coordinator's CPU", 100 * absl::FDivDuration(used, took), "% of a core", 3);
  bench->Add("per report", absl::ToDoubleMicroseconds(used) / count, "us");
  bench->Add("coordinator's memory", bench->coordinator->MegabytesResident(), "MB");
  return absl::OkStatus();
}

// Times of one failure, in milliseconds.
struct Recovery {
  double replacement_ms = 0;  // the new plan at the node that takes the place
  double everywhere_ms = 0;   // at every node of the job
  double training_ms = 0;     // all ranks train again
  double cpu_ms = 0;          // the coordinator's until then
};

// Waits until every node of the job has the epoch after `epoch`, and trains in it.
absl::StatusOr<Recovery> AwaitRecovery(Bench* bench, const std::string& job, uint64_t* epoch,
                                       int nodes, int failed, absl::Duration since) {
  FleetClient& fleet = *bench->fleet;
  if (!fleet.Await([&] { return fleet.TrainingNodes(job, *epoch + 1) >= nodes; }, kPatience)) {
    FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus status, fleet.GetJob(job));
    return absl::DeadlineExceededError(absl::StrCat("the job did not recover from epoch ", *epoch,
                                                    " (now ", status.epoch(),
                                                    "): ", status.reason()));
  }
  Recovery recovery;
  const auto ms = [&](absl::Duration at) { return absl::ToDoubleMilliseconds(at - since); };
  recovery.training_ms = ms(bench->Now());
  for (const Arrival& arrival : fleet.Arrivals(job)) {
    if (arrival.epoch <= *epoch) continue;
    recovery.everywhere_ms = std::max(recovery.everywhere_ms, ms(arrival.at));
    const bool replacement = !arrival.had_job || arrival.node == failed;
    if (replacement) recovery.replacement_ms = std::max(recovery.replacement_ms, ms(arrival.at));
  }
  FATHOM_ASSIGN_OR_RETURN(const v1::JobStatus status, fleet.GetJob(job));
  *epoch = status.epoch();
  return recovery;
}

void AddRecoveries(Bench* bench, const std::string& what, const std::vector<Recovery>& all,
                   double target_ms) {
  std::vector<double> replacement;
  std::vector<double> everywhere;
  std::vector<double> training;
  double cpu_ms = 0;
  for (const Recovery& one : all) {
    replacement.push_back(one.replacement_ms);
    everywhere.push_back(one.everywhere_ms);
    training.push_back(one.training_ms);
    cpu_ms += one.cpu_ms / static_cast<double>(all.size());
  }
  bench->Add(absl::StrCat(what, " to new plan, p50"), Percentile(replacement, 0.5), "ms");
  bench->Add(absl::StrCat(what, " to new plan, p99"), Percentile(replacement, 0.99), "ms",
             target_ms);
  bench->Add(absl::StrCat(what, " to plan at all nodes, p99"), Percentile(everywhere, 0.99), "ms");
  bench->Add(absl::StrCat(what, " to all training, p99"), Percentile(training, 0.99), "ms");
  bench->Add(absl::StrCat(what, ": coordinator's CPU until then, mean"), cpu_ms, "ms");
}

// Nodes that notice a loss by themselves: a few neighbours.
std::vector<int> Neighbours(const std::vector<int>& nodes, int lost) {
  std::vector<int> near;
  const auto found = std::find(nodes.begin(), nodes.end(), lost);
  const auto size = static_cast<std::ptrdiff_t>(nodes.size());
  for (const std::ptrdiff_t step : {1, 2, 3, 4}) {
    near.push_back(nodes[static_cast<size_t>((found - nodes.begin() + step) % size)]);
  }
  return near;
}

absl::Status Failures(Bench* bench) {
  FATHOM_RETURN_IF_ERROR(bench->StartCoordinator());
  const int spares = SparesOf(bench->options.nodes);
  bench->StartFleet(bench->options.nodes, spares, false);
  FATHOM_ASSIGN_OR_RETURN(const std::string job, StartReferenceJob(bench, spares));
  FleetClient& fleet = *bench->fleet;
  const double target_ms = bench->options.nodes <= 256 ? 100 : 1000;
  uint64_t epoch = 1;
  std::vector<Recovery> of_nodes;
  std::vector<Recovery> of_ranks;
  for (int i = 0; i < bench->options.failures; ++i) {
    // So that a step is done in between, and what the last recovery left behind is dealt with.
    fleet.Await([] { return false; }, absl::Milliseconds(1500));
    const std::vector<int> nodes = fleet.NodesOf(job);
    const int lost = nodes[static_cast<size_t>(i * 37) % nodes.size()];
    const absl::Duration cpu = bench->coordinator->CpuTime();
    const absl::Duration since = bench->Now();
    const bool whole_node = i % 2 == 0;
    if (whole_node) {
      fleet.Kill(lost);
    } else if (!fleet.FailRank(lost)) {
      return absl::InternalError("no rank trains on a node of the job");
    }
    fleet.Blame(Neighbours(nodes, lost), lost);
    FATHOM_ASSIGN_OR_RETURN(
        Recovery recovery,
        AwaitRecovery(bench, job, &epoch, static_cast<int>(nodes.size()), lost, since));
    recovery.cpu_ms = absl::ToDoubleMilliseconds(bench->coordinator->CpuTime() - cpu);
    (whole_node ? of_nodes : of_ranks).push_back(recovery);
    if (whole_node) fleet.Revive(lost);
  }
  AddRecoveries(bench, "lost node", of_nodes, target_ms);
  AddRecoveries(bench, "failed rank", of_ranks, target_ms);
  return absl::OkStatus();
}

absl::Status RunJobs(Bench* bench, const std::vector<v1::SubmitJobRequest>& requests) {
  FATHOM_RETURN_IF_ERROR(bench->fleet->SubmitMany(requests, kUnfinishedAtOnce));
  absl::StatusOr<int64_t> left = int64_t{-1};
  const bool done = bench->fleet->Await(
      [&] {
        left = bench->fleet->CountUnfinished();
        return !left.ok() || *left == 0;
      },
      absl::Minutes(5));
  FATHOM_RETURN_IF_ERROR(left.status());
  if (done) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(*left, " jobs did not end"));
}

absl::Status Jobs(Bench* bench) {
  FATHOM_RETURN_IF_ERROR(bench->StartCoordinator());
  bench->StartFleet(bench->options.nodes, 0, true);
  std::vector<v1::SubmitJobRequest> requests;
  for (int i = 0; i < bench->options.jobs; ++i) {
    requests.push_back(JobOf(absl::StrCat("small-", i), "toy", 1, 1, 1));
  }
  const absl::Duration begin = bench->Now();
  const absl::Duration cpu = bench->coordinator->CpuTime();
  FATHOM_RETURN_IF_ERROR(RunJobs(bench, requests));
  const absl::Duration took = bench->Now() - begin;
  const absl::Duration used = bench->coordinator->CpuTime() - cpu;
  bench->Add("submitted to finished", bench->options.jobs / absl::ToDoubleSeconds(took), "jobs/s",
             500, false);
  bench->Add("coordinator's CPU per job", absl::ToDoubleMicroseconds(used) / bench->options.jobs,
             "us");
  return absl::OkStatus();
}

absl::Status Restart(Bench* bench) {
  FATHOM_RETURN_IF_ERROR(bench->StartCoordinator());
  bench->StartFleet(bench->options.nodes, 0, true);
  std::vector<v1::SubmitJobRequest> requests;
  for (int i = 0; i < bench->options.restart_jobs; ++i) {
    requests.push_back(JobOf(absl::StrCat("past-", i), "toy", 2, 2 + 2 * (i % 2), 2));
  }
  FATHOM_RETURN_IF_ERROR(RunJobs(bench, requests));
  bench->fleet.reset();
  bench->coordinator.reset();  // kill -9
  std::error_code error;
  double bytes = 0;
  for (const char* file : {"/coordinator.db", "/coordinator.db-wal"}) {
    const auto size = std::filesystem::file_size(bench->folder + file, error);
    if (!error) bytes += static_cast<double>(size);
  }
  bench->Add("jobs in the log", bench->options.restart_jobs, "jobs");
  bench->Add("log", bytes / 1e6, "MB");
  std::vector<double> times;
  std::vector<double> cpu_times;
  for (int i = 0; i < 5; ++i) {
    const absl::Duration begin = bench->Now();
    FATHOM_RETURN_IF_ERROR(bench->StartCoordinator());
    FATHOM_RETURN_IF_ERROR(AwaitAnswer(bench->coordinator->address(), kPatience).status());
    times.push_back(absl::ToDoubleSeconds(bench->Now() - begin));
    cpu_times.push_back(absl::ToDoubleSeconds(bench->coordinator->CpuTime()));
    bench->coordinator.reset();
  }
  bench->Add("start to first answer, median of 5", Percentile(times, 0.5), "s", 1);
  bench->Add("start to first answer, worst of 5", Percentile(times, 1), "s", 1);
  bench->Add("coordinator's CPU until then, median", Percentile(cpu_times, 0.5), "s");
  return absl::OkStatus();
}

}  // namespace

absl::Status RunScenario(const std::string& name, const ScenarioOptions& options,
                         std::vector<Figure>* figures) {
  Bench bench;
  bench.options = options;
  bench.scenario = name;
  bench.figures = figures;
  bench.folder = std::filesystem::absolute(absl::StrCat(options.folder, "/", name)).string();
  std::error_code error;
  std::filesystem::remove_all(bench.folder, error);
  if (name == "heartbeats") return Heartbeats(&bench);
  if (name == "failures") return Failures(&bench);
  if (name == "jobs") return Jobs(&bench);
  if (name == "restart") return Restart(&bench);
  return absl::InvalidArgumentError(absl::StrCat(
      "there is no scenario '", name, "'; choose from heartbeats, failures, jobs, restart"));
}

std::string FiguresAsTable(const std::vector<Figure>& figures) {
  std::string text = "| scenario | figure | value | target | held |\n|---|---|---|---|---|\n";
  for (const Figure& figure : figures) {
    std::string target;
    std::string held;
    if (figure.target != 0) {
      target = absl::StrFormat("%s %g", figure.at_most ? "<=" : ">=", figure.target);
      const bool good =
          figure.at_most ? figure.value <= figure.target : figure.value >= figure.target;
      held = good ? "yes" : "no";
    }
    absl::StrAppendFormat(&text, "| %s | %s | %.4g %s | %s | %s |\n", figure.scenario, figure.name,
                          figure.value, figure.unit, target, held);
  }
  return text;
}

std::string FiguresAsJson(const std::vector<Figure>& figures) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Figure& figure : figures) {
    nlohmann::ordered_json one = {{"scenario", figure.scenario},
                                  {"name", figure.name},
                                  {"value", figure.value},
                                  {"unit", figure.unit}};
    if (figure.target != 0) one[figure.at_most ? "at_most" : "at_least"] = figure.target;
    list.push_back(std::move(one));
  }
  return nlohmann::ordered_json{{"figures", std::move(list)}}.dump(2) + "\n";
}

}  // namespace fathom::fleet
