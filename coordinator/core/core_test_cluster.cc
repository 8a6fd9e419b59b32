#include "coordinator/core/core_test_cluster.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "coordinator/core/job_state.h"
#include "coordinator/planner/replan.h"

namespace fathom {
namespace {

planner::ReplanRequest RequestOf(const ReplanInput& input) {
  planner::ReplanRequest request;
  request.previous = input.previous;
  request.epoch = input.epoch;
  request.asked = input.asked;
  request.vacate = input.vacate;
  request.successor = input.successor;
  for (const FreeNode& node : input.free) {
    planner::ReplanNode& copy = request.nodes.emplace_back();
    copy.capacity.name = node.name;
    copy.capacity.free_devices = {node.free_devices.begin(), node.free_devices.end()};
    copy.spare = node.spare;
  }
  return request;
}

}  // namespace

PlanningFunctions SimplePlanning() {
  PlanningFunctions planning;
  planning.resolve = [](const v1::Job& job) -> absl::StatusOr<v1::Job> {
    if (job.spec().data().token_file().empty()) {
      return absl::InvalidArgumentError("spec.data.token_file: give a token file");
    }
    v1::Job resolved = job;
    if (resolved.spec().training().steps() == 0) {
      resolved.mutable_spec()->mutable_training()->set_steps(100);
    }
    v1::JobSpec& spec = *resolved.mutable_spec();
    v1::Parallelism& shape = *spec.mutable_parallelism();
    if (shape.pipeline() == 0) shape.set_pipeline(1);
    if (shape.expert() == 0) shape.set_expert(1);
    if (shape.replicas() == 0) shape.set_replicas(1);
    if (spec.training().micro_batches() == 0) spec.mutable_training()->set_micro_batches(12);
    return resolved;
  };
  planning.make_plan = [](const std::string& job, uint64_t epoch, const v1::JobSpec& spec,
                          const std::vector<FreeNode>& nodes) -> absl::StatusOr<v1::Plan> {
    if (spec.parallelism().pipeline() == kUnplannablePipeline) {
      return absl::InvalidArgumentError("spec.parallelism.pipeline: no model has so many layers");
    }
    v1::Plan plan;
    plan.set_job(job);
    plan.set_epoch(epoch);
    *plan.mutable_spec() = spec;
    const int64_t ranks = RanksOf(spec);
    for (const FreeNode& node : nodes) {
      for (const int32_t device : node.free_devices) {
        if (plan.ranks_size() == ranks) return plan;
        v1::RankAssignment& rank = *plan.add_ranks();
        rank.set_rank(plan.ranks_size() - 1);
        rank.set_node(node.name);
        rank.set_device(device);
        rank.set_expert_rank(rank.rank() % spec.parallelism().expert());
        rank.set_replica(rank.rank() / spec.parallelism().expert());
      }
    }
    if (plan.ranks_size() == ranks) return plan;
    return absl::ResourceExhaustedError("too few devices");
  };
  planning.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
  planning.predict = [](const v1::Plan& plan,
                        const std::vector<v1::Node>& known) -> absl::StatusOr<v1::Prediction> {
    if (plan.ranks_size() > kPredictedRanksMax) {
      return absl::FailedPreconditionError("devices of an unknown kind");
    }
    v1::Prediction prediction;
    prediction.set_devices(static_cast<int32_t>(known.size()));
    prediction.mutable_step()->set_seconds(kPredictedSecondsPerRank * plan.ranks_size());
    return prediction;
  };
  planning.replan = [](const ReplanInput& input) { return planner::Replan(RequestOf(input)); };
  planning.reshape = [](const ReplanInput& input) { return planner::Reshape(RequestOf(input)); };
  return planning;
}

// --- TestNode ---

v1::NodeReport TestNode::Report() const {
  v1::NodeReport report;
  report.mutable_node()->set_name(name);
  for (int i = 0; i < devices; ++i) report.mutable_node()->add_devices()->set_index(i);
  report.set_incarnation(incarnation);
  report.set_spare(spare);
  for (const auto& [key, status] : ranks) *report.add_ranks() = status;
  report.set_desired_version(desired.version());
  return report;
}

bool TestNode::Obey() {
  bool changed = false;
  std::set<RankKey> wanted;
  const auto set_state = [&](v1::RankStatus* status, v1::RankState state) {
    changed = changed || status->state() != state;
    status->set_state(state);
  };
  for (const v1::DesiredJob& job : desired.jobs()) {
    const v1::Plan& plan = job.plan();
    for (const int32_t rank : job.ranks()) {
      const RankKey key(plan.job(), plan.epoch(), rank);
      wanted.insert(key);
      const auto known = ranks.find(key);
      if (known == ranks.end()) {
        if (!job.hold()) Start(plan, rank);
        changed = changed || !job.hold();
        continue;
      }
      v1::RankStatus& status = known->second;
      const bool runs = status.state() == v1::RANK_STATE_LISTENING ||
                        status.state() == v1::RANK_STATE_LOADING ||
                        status.state() == v1::RANK_STATE_TRAINING;
      if (job.hold() && runs) {
        set_state(&status, v1::RANK_STATE_HELD);
      } else if (job.park() && status.state() == v1::RANK_STATE_TRAINING) {
        set_state(&status, v1::RANK_STATE_PARKED);
      } else if (status.state() == v1::RANK_STATE_LISTENING && job.peers_size() > 0) {
        set_state(&status, plan.epoch() == 1 ? v1::RANK_STATE_TRAINING : v1::RANK_STATE_LOADING);
      }
    }
    // Ranks leave an epoch once those that stay know all peers of the later one; at once where none
    // of their processes stays.
    if (job.hold() || (job.peers_size() == 0 && SharesDevices(plan))) continue;
    for (auto& [key, status] : ranks) {
      if (std::get<0>(key) == plan.job() && std::get<1>(key) < plan.epoch() &&
          status.state() == v1::RANK_STATE_TRAINING) {
        set_state(&status, v1::RANK_STATE_MOVED);
      }
    }
  }
  for (auto it = ranks.begin(); it != ranks.end();) {
    changed = changed || !wanted.contains(it->first);
    it = wanted.contains(it->first) ? std::next(it) : ranks.erase(it);
  }
  return changed;
}

bool TestNode::SharesDevices(const v1::Plan& later) const {
  std::set<std::pair<std::string, int32_t>> places;
  for (const v1::RankAssignment& rank : later.ranks()) places.emplace(rank.node(), rank.device());
  for (const v1::DesiredJob& job : desired.jobs()) {
    if (job.plan().job() != later.job() || job.plan().epoch() >= later.epoch()) continue;
    for (const v1::RankAssignment& rank : job.plan().ranks()) {
      if (places.contains({rank.node(), rank.device()})) return true;
    }
  }
  return false;
}

void TestNode::Start(const v1::Plan& plan, int32_t rank) {
  v1::RankStatus& status = ranks[RankKey(plan.job(), plan.epoch(), rank)];
  status.set_job(plan.job());
  status.set_epoch(plan.epoch());
  status.set_rank(rank);
  status.set_pid(1000 * incarnation + rank);
  status.set_endpoint(absl::StrCat(name, ":", 7000 + rank));
  status.set_state(v1::RANK_STATE_LISTENING);
}

// --- TestCluster ---

TestCluster::TestCluster(const v1::Detectors& detectors) {
  options_.detectors = detectors;
  options_.checkpoint_root = "/state/checkpoints";
  options_.planning = SimplePlanning();
  core = std::make_unique<CoordinatorCore>(options_);
}

TestNode& TestCluster::AddNode(const std::string& name, int devices, bool spare) {
  TestNode& node = nodes[name];
  node.name = name;
  node.devices = devices;
  node.spare = spare;
  Report(node);
  return node;
}

v1::SubmitJobRequest TestCluster::JobOf(int ranks, const std::string& name, int64_t steps,
                                        int replicas) {
  v1::SubmitJobRequest request;
  request.mutable_job()->mutable_metadata()->set_name(name);
  request.mutable_job()->mutable_metadata()->set_user("ada");
  v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_model()->set_preset("tiny");
  spec.mutable_data()->set_token_file("/data/tokens");
  spec.mutable_parallelism()->set_expert(ranks / replicas);
  spec.mutable_parallelism()->set_replicas(replicas);
  spec.mutable_training()->set_steps(steps);
  return request;
}

std::string TestCluster::Submit(int ranks, const std::string& name, int64_t steps, int replicas) {
  const auto response = core->Submit(JobOf(ranks, name, steps, replicas), {}, now);
  FATHOM_CHECK(response.ok()) << response.status().ToString();
  FATHOM_CHECK(Commit());
  return response->id();
}

v1::DrainNodeResponse TestCluster::Drain(const std::string& node, const std::string& replacement,
                                         double deadline_s) {
  v1::DrainNodeRequest request;
  request.set_node(node);
  request.set_reason("new fan");
  request.set_actor("ada");
  request.set_replacement(replacement);
  request.set_deadline_s(deadline_s);
  const auto response = core->Drain(request, now);
  FATHOM_CHECK(response.ok()) << response.status().ToString();
  FATHOM_CHECK(Commit());
  return *response;
}

std::vector<std::string> TestCluster::Events(const std::string& kind) const {
  std::vector<std::string> messages;
  for (const v1::Event& event : core->state().events()) {
    if (event.kind() == kind) messages.push_back(event.message());
  }
  return messages;
}

std::string TestCluster::Placement(const std::string& job) const {
  std::string text;
  const v1::JobStatus status = Job(job);
  for (const v1::RankAssignment& rank : status.plan().ranks()) {
    absl::StrAppend(&text, text.empty() ? "" : " ", rank.node(), rank.device());
  }
  return text;
}

bool TestCluster::Commit() {
  if (log_refuses && !core->records().empty()) {
    core->Rollback();
    return false;
  }
  log.insert(log.end(), core->records().begin(), core->records().end());
  core->Commit();
  for (const NodeName& name : core->TakeChangedNodes()) {
    const auto node = nodes.find(name.value());
    if (node != nodes.end() && node->second.up) node->second.desired = core->DesiredFor(name);
  }
  return true;
}

void TestCluster::Report(TestNode& node) {
  const absl::Status status = core->Report(node.Report(), now);
  FATHOM_CHECK(status.ok()) << status.ToString();
  Commit();
}

void TestCluster::ReportAll() {
  for (auto& [name, node] : nodes) {
    if (node.up) Report(node);
  }
}

void TestCluster::Settle() {
  for (int round = 0; round < 40; ++round) {
    bool changed = false;
    for (auto& [name, node] : nodes) {
      if (!node.up) continue;
      const uint64_t version = node.desired.version();
      node.desired = core->DesiredFor(NodeName(name));
      changed = node.desired.version() != version || changed;
      changed = node.Obey() || changed;
    }
    changed = Connect() || changed;
    const size_t records = log.size();
    ReportAll();
    if (!changed && log.size() == records) return;
  }
  FATHOM_CHECK(false) << "the cluster does not settle";
}

bool TestCluster::Connect() {
  std::map<std::pair<std::string, uint64_t>, std::vector<v1::RankStatus*>> loading;
  for (auto& [name, node] : nodes) {
    if (!node.up) continue;
    for (auto& [key, status] : node.ranks) {
      if (status.state() != v1::RANK_STATE_LOADING) continue;
      loading[{status.job(), status.epoch()}].push_back(&status);
    }
  }
  bool changed = false;
  for (const auto& [key, ranks] : loading) {
    const auto job = core->state().Find(JobId(key.first));
    const v1::Plan* plan = job == nullptr ? nullptr : job->PlanOf(key.second);
    if (plan == nullptr || static_cast<int>(ranks.size()) < plan->ranks_size()) continue;
    for (v1::RankStatus* rank : ranks) rank->set_state(v1::RANK_STATE_TRAINING);
    changed = true;
  }
  return changed;
}

void TestCluster::Advance(int64_t ms, bool tick) {
  now.wall_ms += ms;
  now.steady_ms += ms;
  if (!tick) return;
  core->Tick(now);
  Commit();
}

std::vector<v1::RankStatus*> TestCluster::Ranks(const std::string& job) {
  const uint64_t epoch = Job(job).epoch();
  std::vector<v1::RankStatus*> found;
  for (auto& [name, node] : nodes) {
    for (auto& [key, status] : node.ranks) {
      if (std::get<0>(key) == job && std::get<1>(key) == epoch) found.push_back(&status);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const auto* a, const auto* b) { return a->rank() < b->rank(); });
  return found;
}

v1::RankStatus& TestCluster::Rank(const std::string& job, int32_t rank) {
  for (v1::RankStatus* status : Ranks(job)) {
    if (status->rank() == rank) return *status;
  }
  FATHOM_CHECK(false) << job << " has no rank " << rank;
  __builtin_unreachable();
}

void TestCluster::StepTo(const std::string& job, int64_t step) {
  for (v1::RankStatus* rank : Ranks(job)) {
    rank->mutable_last_step()->set_step(step);
    rank->mutable_last_step()->set_tokens(1000);
    rank->mutable_last_step()->set_seconds(0.5);
    rank->mutable_last_step()->set_finished_ms(now.wall_ms);
  }
  ReportAll();
}

void TestCluster::Checkpoint(const std::string& job, int64_t step) {
  v1::CheckpointReport& checkpoint = *Rank(job, 0).mutable_checkpoint();
  checkpoint.set_step(step);
  checkpoint.set_manifest(absl::StrCat("/checkpoints/", job, "/", step, "/manifest.json"));
  ReportAll();
}

void TestCluster::Finish(const std::string& job) {
  for (v1::RankStatus* rank : Ranks(job)) {
    rank->set_state(v1::RANK_STATE_FINISHED);
    if (rank->rank() == 0) rank->set_weights_sha256("abc123");
  }
  ReportAll();
}

v1::JobStatus TestCluster::Job(const std::string& job) const {
  v1::GetJobRequest request;
  request.set_name(job);
  const auto status = core->GetJob(request);
  FATHOM_CHECK(status.ok()) << status.status().ToString();
  return *status;
}

std::string TestCluster::State(const std::string& job) const {
  return NameOfState(Job(job).state());
}

void TestCluster::RestartCoordinator() {
  core = std::make_unique<CoordinatorCore>(options_);
  for (const v1::Record& record : log) {
    const absl::Status status = core->Replay(record);
    FATHOM_CHECK(status.ok()) << status.ToString();
  }
  now.steady_ms = 90'000;  // another process, another origin
  core->Tick(now);
  Commit();
}

std::string TestCluster::Replayed() const {
  DurableState state;
  for (const v1::Record& record : log) {
    v1::Record copy;
    FATHOM_CHECK(copy.ParseFromString(record.SerializeAsString()));
    const absl::Status status = state.Apply(copy);
    FATHOM_CHECK(status.ok()) << status.ToString();
  }
  return state.Fingerprint();
}

}  // namespace fathom
