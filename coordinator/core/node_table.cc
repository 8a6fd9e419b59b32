#include "coordinator/core/node_table.h"

#include <algorithm>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/limits.h"
#include "common/base/planted.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom {
namespace {

// Several per device, as ended ones are reported until the coordinator has seen them.
constexpr int kMaxReportedRanks = 64 * limits::kMaxDevicesPerNode;

absl::Status CheckReport(const v1::NodeReport& report) {
  const std::string& name = report.node().name();
  auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("report of node '", CutText(name, limits::kMaxNameBytes), "': ", why));
  };
  if (name.empty()) return bad("it has no name; start the daemon with --node-name");
  if (name.size() > limits::kMaxNodeNameBytes) return bad("its name is too long");
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
  if (!plain) return bad("its name has other characters than letters, digits, '-', '_' and '.'");
  if (report.incarnation() <= 0) return bad("it has no incarnation");
  if (report.node().devices_size() == 0) return bad("it offers no devices");
  if (report.node().devices_size() > limits::kMaxDevicesPerNode) {
    return bad(absl::StrCat("it offers more than ", limits::kMaxDevicesPerNode, " devices"));
  }
  if (report.ranks_size() > kMaxReportedRanks) return bad("it reports too many ranks");
  std::set<int32_t> indices;
  for (const v1::Device& device : report.node().devices()) {
    if (device.index() < 0 || !indices.insert(device.index()).second) {
      return bad(absl::StrCat("device index ", device.index(), " is negative or given twice"));
    }
  }
  return absl::OkStatus();
}

bool SameAdmission(const v1::NodeReport& a, const v1::NodeReport& b) {
  return a.node().failure_domain() == b.node().failure_domain() &&
         a.node().leaf() == b.node().leaf() &&
         a.preflight().finished_ms() == b.preflight().finished_ms() &&
         a.preflight().id() == b.preflight().id() &&
         a.preflight().passed() == b.preflight().passed();
}

bool SameRanks(const v1::NodeReport& a, const v1::NodeReport& b) {
  const bool same_devices =
      std::equal(a.node().devices().begin(), a.node().devices().end(), b.node().devices().begin(),
                 b.node().devices().end(),
                 [](const v1::Device& x, const v1::Device& y) { return x.index() == y.index(); });
  return same_devices &&
         std::equal(a.ranks().begin(), a.ranks().end(), b.ranks().begin(), b.ranks().end(),
                    [](const v1::RankStatus& x, const v1::RankStatus& y) {
                      return x.state() == y.state() && x.rank() == y.rank() &&
                             x.epoch() == y.epoch() && x.job() == y.job();
                    });
}

}  // namespace

absl::Status NodeTable::Report(const v1::NodeReport& report, Moment now, NodeNews* news) {
  FATHOM_RETURN_IF_ERROR(CheckReport(report));
  const NodeName name(report.node().name());
  auto found = nodes_.find(name);
  if (found == nodes_.end()) {
    FATHOM_RETURN_IF_ERROR(MakeRoom());
    found = nodes_.try_emplace(name).first;
  }
  if (last_check_steady_ms_ < 0) last_check_steady_ms_ = now.steady_ms;
  NodeEntry& entry = found->second;
  if (report.incarnation() < entry.report.incarnation() && !FATHOM_PLANT(kStaleIncarnation)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "node ", name.value(), ": a newer daemon of this name (process ", entry.report.pid(),
        ") has reported; stop one of the two, or give this one "
        "another --node-name"));
  }
  news->came_up = !entry.IsUp();
  news->ranks = news->came_up || entry.report.incarnation() != report.incarnation() ||
                entry.report.spare() != report.spare() || !SameRanks(entry.report, report);
  if (news->ranks || !SameAdmission(entry.report, report)) ++version_;
  entry.report = report;
  entry.state = report.spare() ? v1::NODE_STATE_SPARE : v1::NODE_STATE_READY;
  entry.reason = report.spare() ? "held back to replace another node" : "in touch";
  entry.last_seen_ms = now.wall_ms;
  entry.last_seen_steady_ms = now.steady_ms;
  entry.connected = true;
  return absl::OkStatus();
}

// A node that was lost long ago makes room for a new one.
absl::Status NodeTable::MakeRoom() {
  if (nodes_.size() < limits::kMaxNodes) return absl::OkStatus();
  auto oldest = nodes_.end();
  for (auto it = nodes_.begin(); it != nodes_.end(); ++it) {
    if (it->second.state != v1::NODE_STATE_LOST) continue;
    if (oldest == nodes_.end() ||
        it->second.last_seen_steady_ms < oldest->second.last_seen_steady_ms) {
      oldest = it;
    }
  }
  if (oldest == nodes_.end()) {
    return absl::ResourceExhaustedError(absl::StrCat("the cluster has ", limits::kMaxNodes,
                                                     " nodes already, which is the maximum"));
  }
  nodes_.erase(oldest);
  ++version_;
  return absl::OkStatus();
}

void NodeTable::Disconnect(const NodeName& name, int64_t incarnation) {
  auto found = nodes_.find(name);
  if (found == nodes_.end() || found->second.report.incarnation() != incarnation) return;
  found->second.connected = false;
  if (found->second.IsUp()) found->second.reason = "its connection closed; its lease still holds";
}

void NodeTable::Expect(const NodeName& name, Moment now) {
  auto [place, is_new] = nodes_.try_emplace(name);
  if (!is_new) return;
  place->second.report.mutable_node()->set_name(name.value());
  place->second.reason = "has ranks in a plan; not heard of since the coordinator started";
  place->second.last_seen_steady_ms = now.steady_ms;
}

std::vector<NodeName> NodeTable::ExpireLeases(Moment now) {
  const int64_t pause_ms = last_check_steady_ms_ < 0 ? 0 : now.steady_ms - last_check_steady_ms_;
  last_check_steady_ms_ = now.steady_ms;
  const bool stood_still = pause_ms > lease_ms_ / 2;
  int watched = 0;
  int silent = 0;
  for (auto& [name, entry] : nodes_) {
    if (entry.state == v1::NODE_STATE_LOST) continue;
    if (stood_still) {
      entry.last_seen_steady_ms = std::min(entry.last_seen_steady_ms + pause_ms, now.steady_ms);
    }
    ++watched;
    if (now.steady_ms - entry.last_seen_steady_ms > lease_ms_ / 2) ++silent;
  }
  most_are_silent_ = watched >= kMassSilenceNodesMin && 2 * silent > watched;
  const int64_t patience_ms = most_are_silent_ ? kMassSilenceLeases * lease_ms_ : lease_ms_;
  std::vector<NodeName> lost;
  for (auto& [name, entry] : nodes_) {
    const int64_t silence_ms = now.steady_ms - entry.last_seen_steady_ms;
    if (entry.state == v1::NODE_STATE_LOST || silence_ms <= patience_ms) continue;
    entry.state = v1::NODE_STATE_LOST;
    entry.connected = false;
    entry.reason = absl::StrFormat("no report for %.1f s (its lease is %.1f s)",
                                   silence_ms / 1000.0, lease_ms_ / 1000.0);
    lost.push_back(name);
  }
  if (!lost.empty()) ++version_;
  return lost;
}

void NodeTable::Suspect(const NodeName& name, const std::string& reason) {
  const auto found = nodes_.find(name);
  if (found == nodes_.end()) return;
  found->second.state = v1::NODE_STATE_LOST;
  found->second.connected = false;
  ++version_;
  found->second.reason = reason;
}

const NodeEntry* NodeTable::Find(const NodeName& name) const {
  auto found = nodes_.find(name);
  return found == nodes_.end() ? nullptr : &found->second;
}

bool NodeTable::IsUp(const NodeName& name) const {
  const NodeEntry* entry = Find(name);
  return entry != nullptr && entry->IsUp();
}

}  // namespace fathom
