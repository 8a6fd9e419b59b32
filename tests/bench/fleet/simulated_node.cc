#include "tests/bench/fleet/simulated_node.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace fathom::fleet {
namespace {

constexpr char kHash[] = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

// As full as a real rank's, so that it costs the same to carry.
void FillStep(int64_t step, int64_t now_ms, v1::StepReport* report) {
  report->set_step(step);
  report->set_loss(2.5);
  report->set_mtp_loss(2.75);
  report->set_balance_loss(0.001);
  report->set_gradient_norm(0.5);
  report->set_learning_rate(2e-4);
  report->set_tokens(61'440 * 64);
  report->set_seconds(0.05);
  report->set_forward_seconds(0.25);
  report->set_backward_seconds(0.5);
  report->set_weight_seconds(0.125);
  report->set_overlapped_seconds(0.125);
  report->set_wait_seconds(0.0625);
  report->set_reduce_seconds(0.125);
  report->set_optimizer_seconds(0.0625);
  report->set_max_violation(0.1);
  report->set_bytes_sent(1 << 30);
  report->set_finished_ms(now_ms);
  report->set_snapshot_seconds(0.01);
  report->set_snapshot_step(step - 1);
}

}  // namespace

SimulatedNode::SimulatedNode(NodeShape shape, bool finish_at_once)
    : shape_(std::move(shape)), finish_at_once_(finish_at_once), preflight_("start") {}

v1::NodeReport SimulatedNode::Report(int64_t step, int64_t now_ms) {
  wants_report_ = false;
  v1::NodeReport report;
  v1::Node& node = *report.mutable_node();
  node.set_name(shape_.name);
  node.set_address("127.0.0.1");
  node.set_failure_domain(shape_.failure_domain);
  for (int i = 0; i < shape_.devices; ++i) {
    v1::Device& device = *node.add_devices();
    device.set_index(i);
    device.set_kind("h800");
    device.set_memory_bytes(int64_t{80} << 30);
  }
  report.set_incarnation(incarnation_);
  report.set_pid(1000 + incarnation_);
  report.set_spare(shape_.spare);
  report.set_desired_version(version_);
  v1::PreflightReport& preflight = *report.mutable_preflight();
  preflight.set_id(preflight_);
  preflight.set_passed(true);
  preflight.set_started_ms(1);
  preflight.set_finished_ms(2);
  for (auto& [key, ranks] : ranks_) {
    for (auto& [number, rank] : ranks) {
      if (rank.state() == v1::RANK_STATE_TRAINING) {
        FillStep(step, now_ms, rank.mutable_last_step());
        if (rank.timeline().first_step_ms() == 0) {
          rank.mutable_timeline()->set_first_step_ms(now_ms);
        }
      }
      *report.add_ranks() = rank;
      if (finish_at_once_ && rank.state() == v1::RANK_STATE_TRAINING) {
        rank.set_state(v1::RANK_STATE_FINISHED);
        wants_report_ = true;
        if (number == 0) rank.set_weights_sha256(kHash);
      }
    }
  }
  return report;
}

bool SimulatedNode::Obey(const v1::DesiredState& desired, int64_t step, int64_t now_ms) {
  version_ = desired.version();
  bool changed = false;
  if (desired.has_preflight() && desired.preflight().id() != preflight_) {
    preflight_ = desired.preflight().id();
    changed = true;
  }
  std::set<Key> wanted;
  for (const v1::DesiredJob& job : desired.jobs()) {
    wanted.insert({job.plan().job(), job.plan().epoch()});
  }
  const size_t gone = std::erase_if(ranks_, [&](const auto& entry) {
    if (wanted.contains(entry.first)) return false;
    const auto first = entry.second.find(0);
    const bool ended =
        first != entry.second.end() && first->second.state() == v1::RANK_STATE_FINISHED;
    ended_jobs_ += ended ? 1 : 0;
    return true;
  });
  changed = changed || gone > 0;
  for (const v1::DesiredJob& job : desired.jobs()) {
    changed |= Start(job, now_ms);
    changed |= Advance(job, &ranks_[{job.plan().job(), job.plan().epoch()}], step, now_ms);
  }
  return changed;
}

bool SimulatedNode::Start(const v1::DesiredJob& job, int64_t now_ms) {
  const Key key{job.plan().job(), job.plan().epoch()};
  if (ranks_.contains(key)) return false;
  Ranks& ranks = ranks_[key];
  for (const int32_t number : job.ranks()) {
    v1::RankStatus& rank = ranks[number];
    rank.set_job(key.first);
    rank.set_epoch(key.second);
    rank.set_rank(number);
    rank.set_pid(2000 + number);
    rank.set_state(v1::RANK_STATE_LISTENING);
    rank.set_endpoint(absl::StrCat("127.0.0.1:", 10'000 + number));
    rank.mutable_timeline()->set_started_ms(now_ms);
    rank.mutable_timeline()->set_listening_ms(now_ms);
  }
  return true;
}

bool SimulatedNode::Advance(const v1::DesiredJob& job, Ranks* ranks, int64_t step, int64_t now_ms) {
  bool changed = false;
  for (auto& [number, rank] : *ranks) {
    if (job.hold() && rank.state() != v1::RANK_STATE_HELD &&
        rank.state() != v1::RANK_STATE_FAILED) {
      rank.set_state(v1::RANK_STATE_HELD);
      rank.set_held_step(rank.last_step().step());
      changed = true;
    }
    if (!job.hold() && !job.peers().empty() && rank.state() == v1::RANK_STATE_LISTENING) {
      rank.set_state(v1::RANK_STATE_TRAINING);
      v1::RankTimeline& timeline = *rank.mutable_timeline();
      timeline.set_connected_ms(now_ms);
      timeline.set_loaded_ms(now_ms);
      v1::RestoreReport& restored = *rank.mutable_restored();
      restored.set_step(step > 0 ? step - 1 : 0);
      restored.set_source(step > 0 ? "memory" : "initial");
      changed = true;
    }
  }
  return changed;
}

void SimulatedNode::Blame(const std::string& node, int64_t now_ms) {
  for (auto& [key, ranks] : ranks_) {
    for (auto& [number, rank] : ranks) {
      if (rank.state() != v1::RANK_STATE_TRAINING) continue;
      rank.set_state(v1::RANK_STATE_HELD);
      rank.set_held_step(rank.last_step().step());
      rank.set_blamed_node(node);
      rank.set_message(absl::StrCat("the connection to node ", node, " broke"));
      rank.mutable_timeline()->set_fenced_ms(now_ms);
    }
  }
}

bool SimulatedNode::FailRank() {
  for (auto& [key, ranks] : ranks_) {
    for (auto& [number, rank] : ranks) {
      if (rank.state() != v1::RANK_STATE_TRAINING) continue;
      rank.set_state(v1::RANK_STATE_FAILED);
      rank.set_message("ended by signal 9");
      return true;
    }
  }
  return false;
}

void SimulatedNode::Restart() {
  ++incarnation_;
  version_ = 0;
  ranks_.clear();
}

uint64_t SimulatedNode::TrainingEpoch(const std::string& job) const {
  uint64_t epoch = 0;
  for (const auto& [key, ranks] : ranks_) {
    if (key.first != job || ranks.empty()) continue;
    bool all = true;
    for (const auto& [number, rank] : ranks) {
      all = all && rank.state() == v1::RANK_STATE_TRAINING;
    }
    if (all) epoch = key.second;
  }
  return epoch;
}

bool SimulatedNode::HasJob(const std::string& job) const {
  for (const auto& [key, ranks] : ranks_) {
    if (key.first == job) return true;
  }
  return false;
}

}  // namespace fathom::fleet
