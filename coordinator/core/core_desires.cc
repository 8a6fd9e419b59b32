// What the coordinator wishes of the nodes, as far as it is committed.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/check.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"
#include "coordinator/core/preflight_policy.h"

namespace fathom {
namespace {

// The head of a DesiredState's next job, whose content takes so many bytes.
void AppendJobHead(size_t bytes, std::string* wire) {
  constexpr int kLengthDelimited = 2;
  wire->push_back(static_cast<char>(v1::DesiredState::kJobsFieldNumber << 3 | kLengthDelimited));
  for (; bytes >= 0x80; bytes >>= 7) wire->push_back(static_cast<char>(bytes | 0x80));
  wire->push_back(static_cast<char>(bytes));
}

// Ranks of the next epoch may meet once they all listen. Where none of their processes was in the
// present one, none would wait for its last step: then only when all ranks of that have left.
bool MayMeet(const Gang& gang, const Gang& present) {
  if (!gang.AllListen()) return false;
  if (gang.plan().epoch() <= present.plan().epoch()) return true;
  std::set<std::pair<std::string, int32_t>> places;
  for (const v1::RankAssignment& rank : present.plan().ranks()) {
    places.emplace(rank.node(), rank.device());
  }
  for (const v1::RankAssignment& rank : gang.plan().ranks()) {
    if (places.contains({rank.node(), rank.device()})) return true;
  }
  return present.CountOf(v1::RANK_STATE_MOVED) == present.Size();
}

bool ReportsFailed(const v1::NodeReport& report, const JobId& job) {
  return std::any_of(report.ranks().begin(), report.ranks().end(), [&](const v1::RankStatus& rank) {
    return rank.state() == v1::RANK_STATE_FAILED && rank.job() == job.value();
  });
}

}  // namespace

CoordinatorCore::Desire CoordinatorCore::DesireOf(const DurableJob& job) const {
  Desire desire;
  const Gang* gang = FindGang(job.id);
  if (!IsActive(job.state) || gang == nullptr) return desire;
  const auto describe = [&](const Gang& of) {
    absl::StrAppend(&desire.signature, of.plan().epoch(), MayMeet(of, *gang) ? " peers" : "", " ",
                    of.DoneBeforeCount(), ";");
    for (const auto& [node, ranks] : of.ranks_on()) desire.nodes.insert(node);
  };
  describe(*gang);
  if (!job.HasCurrentPlan()) {
    desire.signature += " hold";
    return desire;
  }
  absl::StrAppend(&desire.signature, job.park != nullptr ? " park " : " ", job.diagnose);
  const Gang* next = FindNextGang(job.id);
  if (next != nullptr) describe(*next);
  return desire;
}

void CoordinatorCore::MarkChangedDesires() {
  for (const JobId& id : std::exchange(desire_dirty_, {})) {
    common_pieces_.erase(id);
    const auto job = state_.Find(id);
    Desire desire = job == nullptr ? Desire{} : DesireOf(*job);
    std::set<std::string> before;  // nodes
    const auto known = desires_.find(id);
    if (known != desires_.end()) {
      if (known->second.signature == desire.signature && known->second.nodes == desire.nodes) {
        continue;
      }
      before = std::move(known->second.nodes);
      for (const std::string& name : before) {
        changed_nodes_.insert(NodeName(name));
        const auto jobs = desired_on_.find(NodeName(name));
        jobs->second.erase(id);
        if (jobs->second.empty()) desired_on_.erase(jobs);
      }
      desires_.erase(known);
    }
    if (desire.signature.empty()) continue;
    for (const std::string& name : desire.nodes) {
      changed_nodes_.insert(NodeName(name));
      const NodeEntry* entry = nodes_.Find(NodeName(name));
      const bool starts =
          !before.contains(name) || (entry != nullptr && ReportsFailed(entry->report, id));
      if (starts) starting_nodes_.insert(NodeName(name));
      desired_on_[NodeName(name)].insert(id);
    }
    desires_[id] = std::move(desire);
  }
  const auto due = std::exchange(preflights_due_, {});
  changed_nodes_.insert(due.begin(), due.end());
}

std::vector<NodeName> CoordinatorCore::TakeChangedNodes() {
  std::vector<NodeName> changed(starting_nodes_.begin(), starting_nodes_.end());
  for (const NodeName& name : changed_nodes_) {
    if (!starting_nodes_.contains(name)) changed.push_back(name);
  }
  if (!changed.empty()) ++desired_version_;
  for (const NodeName& name : changed) version_of_[name] = desired_version_;
  changed_nodes_.clear();
  starting_nodes_.clear();
  return changed;
}

v1::DesiredState CoordinatorCore::DesiredFor(const NodeName& node) const {
  const auto append = [](std::string* text, const SharedBytes& piece) { text->append(*piece); };
  v1::DesiredState desired;
  const bool parsed = desired.ParseFromString(absl::StrJoin(DesiredPiecesFor(node), "", append));
  FATHOM_CHECK(parsed) << "the desired state of " << node.value();
  return desired;
}

std::vector<SharedBytes> CoordinatorCore::DesiredPiecesFor(const NodeName& node) const {
  v1::DesiredState desired;
  const auto version = version_of_.find(node);
  desired.set_version(version == version_of_.end() ? 1 : version->second);
  desired.set_heartbeat_ms(options_.heartbeat_ms);
  desired.set_lease_ms(options_.lease_ms);
  AddPreflight(node, &desired);
  std::vector<SharedBytes> pieces = {
      std::make_shared<const std::string>(desired.SerializeAsString())};
  const auto here = desired_on_.find(node);
  if (here == desired_on_.end()) return pieces;
  for (const JobId& id : here->second) {
    const auto job = state_.Find(id);
    const Gang* gang = FindGang(id);
    if (job == nullptr || gang == nullptr) continue;
    const bool has_present = gang->ranks_on().contains(node.value());
    if (has_present) AddDesiredJob(*job, *gang, node, &pieces);
    // A node that the next epoch leaves is told of it too, so that its ranks know when to go.
    const Gang* next = FindNextGang(id);
    if (next != nullptr) AddDesiredJob(*job, *next, node, &pieces);
  }
  return pieces;
}

void CoordinatorCore::AddDesiredJob(const DurableJob& job, const Gang& gang, const NodeName& node,
                                    std::vector<SharedBytes>* pieces) const {
  SharedBytes& common = common_pieces_[job.id][gang.plan().epoch()];
  if (common == nullptr) common = CommonPieceOf(job, gang);
  v1::DesiredJob own;
  for (const int32_t rank : gang.WantedOn(node)) own.add_ranks(rank);
  const std::string ranks = own.SerializeAsString();
  std::string head;
  AppendJobHead(common->size() + ranks.size(), &head);
  pieces->push_back(std::make_shared<const std::string>(absl::StrCat(head, ranks)));
  pieces->push_back(common);
}

SharedBytes CoordinatorCore::CommonPieceOf(const DurableJob& job, const Gang& gang) const {
  v1::DesiredJob wanted;
  *wanted.mutable_plan() = gang.plan();
  wanted.set_checkpoint_directory(job.job->spec().checkpoint().directory());
  const auto piece = [&] {
    return std::make_shared<const std::string>(wanted.SerializeAsString());
  };
  if (gang.plan().epoch() < job.epoch) {
    wanted.set_hold(true);
    return piece();
  }
  if (gang.plan().epoch() == job.epoch) {
    wanted.set_park(job.park != nullptr);
    wanted.set_diagnose(static_cast<uint64_t>(job.diagnose));
  }
  if (!MayMeet(gang, *FindGang(job.id))) return piece();
  for (const v1::RankStatus& rank : gang.ranks()) {
    v1::RankEndpoint& peer = *wanted.add_peers();
    peer.set_rank(rank.rank());
    peer.set_node(gang.plan().ranks(rank.rank()).node());
    peer.set_endpoint(rank.endpoint());
  }
  return piece();
}

// A preflight that was asked for and has not been answered yet.
void CoordinatorCore::AddPreflight(const NodeName& name, v1::DesiredState* desired) const {
  const std::shared_ptr<const DurableNode> node = state_.FindNode(name);
  if (node->preflight_request.empty() || node->preflight.id() == node->preflight_request) return;
  const NodeEntry* own = nodes_.Find(name);
  if (own == nullptr || own->report.node().devices().empty()) return;
  v1::PreflightRequest& request = *desired->mutable_preflight();
  request.set_id(node->preflight_request);
  std::vector<const v1::Node*> others;
  std::vector<const v1::PreflightReport*> reports;
  for (const auto& [other, entry] : nodes_.nodes()) {
    if (!entry.IsUp()) continue;
    others.push_back(&entry.report.node());
    const bool same_kind =
        !entry.report.node().devices().empty() &&
        entry.report.node().devices(0).kind() == own->report.node().devices(0).kind();
    if (same_kind && entry.report.has_preflight()) reports.push_back(&entry.report.preflight());
  }
  // The ids of requests rise, so that the peers change from one to the next.
  for (v1::PreflightPeer& peer :
       ChoosePreflightPeers(name.value(), others, static_cast<uint64_t>(node->preflights))) {
    *request.add_peers() = std::move(peer);
  }
  for (v1::PreflightThreshold& threshold : CalibratePreflight(reports)) {
    *request.add_thresholds() = std::move(threshold);
  }
}

}  // namespace fathom
