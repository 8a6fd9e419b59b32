#include "cli/resources.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace fathom::cli {
namespace {

constexpr size_t kReasonWidth = 60;

std::string Cut(const std::string& text, size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 3) + "...";
}

std::string Age(int64_t now_ms, int64_t then_ms) {
  if (then_ms == 0) return "-";
  return DurationText(static_cast<double>(std::max<int64_t>(now_ms - then_ms, 0)) / 1000);
}

std::string StepText(const v1::JobStatus& job) {
  return absl::StrCat(job.last_step().step(), "/", job.job().spec().training().steps());
}

// As the spec asks for them; a list of jobs carries no plans.
int64_t RanksOf(const v1::JobStatus& job) {
  const v1::Parallelism& parallelism = job.job().spec().parallelism();
  return int64_t{parallelism.pipeline()} * parallelism.expert() * parallelism.replicas();
}

// What an operator gave, which says more than the state's own.
std::string ReasonOf(const v1::NodeStatus& node) {
  if (!node.admin().reason().empty()) {
    return absl::StrCat(node.admin().reason(), " (", node.admin().actor(), ")");
  }
  if (node.has_preflight() && !node.preflight().passed()) return node.preflight().verdict();
  return node.reason();
}

std::string PreflightText(const v1::NodeStatus& node) {
  if (!node.has_preflight()) return "";
  return node.preflight().passed() ? "passed" : "failed";
}

}  // namespace

std::string StateText(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

std::string StateText(v1::NodeState state) {
  return std::string(absl::StripPrefix(v1::NodeState_Name(state), "NODE_STATE_"));
}

std::string SeverityText(v1::Severity severity) {
  return std::string(absl::StripPrefix(v1::Severity_Name(severity), "SEVERITY_"));
}

std::string SchedulabilityText(const v1::NodeStatus& node) {
  const bool up = node.state() == v1::NODE_STATE_READY || node.state() == v1::NODE_STATE_SPARE;
  if (!up) return StateText(node.state());
  const bool empty = node.ranks_size() == 0 && node.held_devices() == 0;
  if (node.admin().draining()) return empty ? "DRAINED" : "DRAINING";
  if (node.admin().cordoned()) return "CORDONED";
  if (node.has_preflight() && !node.preflight().passed()) return "UNFIT";
  return StateText(node.state());
}

bool HasEnded(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

Value JobValue(const v1::JobStatus& job) {
  Value value = Value::Object();
  value.Set("name", job.name()).Set("id", job.id()).Set("user", job.user());
  value.Set("state", StateText(job.state())).Set("reason", job.reason());
  value.Set("step", job.last_step().step()).Set("steps", job.job().spec().training().steps());
  value.Set("epoch", job.epoch());
  value.Set("loss", job.has_last_step() ? Value(job.last_step().loss()) : Value());
  value.Set("validation_loss", job.has_validation() ? Value(job.validation().loss()) : Value());
  value.Set("tokens_per_second",
            job.tokens_per_second() > 0 ? Value(job.tokens_per_second()) : Value());
  const bool moving = job.has_last_step() && !HasEnded(job.state()) && job.eta_s() >= 0;
  value.Set("eta_s", moving ? Value(job.eta_s()) : Value());
  value.Set("ranks", RanksOf(job)).Set("restarts", job.restarts());
  value.Set("priority", job.job().spec().scheduling().priority());
  value.Set("replicas_shed", job.replicas_shed());
  value.Set("submitted", TimeValue(job.submitted_ms()));
  value.Set("started", TimeValue(job.started_ms())).Set("finished", TimeValue(job.finished_ms()));
  value.Set("checkpoint", TextOrNull(job.checkpoint().manifest()));
  value.Set("weights_sha256", TextOrNull(job.weights_sha256()));
  return value;
}

Value NodeValue(const v1::NodeStatus& node) {
  Value ranks = Value::List();
  for (const v1::NodeRank& rank : node.ranks()) {
    Value value = Value::Object();
    value.Set("job", rank.job()).Set("epoch", rank.epoch()).Set("rank", rank.rank());
    value.Set("pid", rank.pid()).Set("state", rank.state()).Set("device", rank.device());
    ranks.Add(std::move(value));
  }
  Value value = Value::Object();
  value.Set("name", node.node().name()).Set("state", StateText(node.state()));
  value.Set("schedulability", SchedulabilityText(node));
  value.Set("reason", ReasonOf(node)).Set("pid", node.pid());
  value.Set("address", node.node().address());
  value.Set("metrics_address", node.node().metrics_address());
  value.Set("devices", node.node().devices_size()).Set("held_devices", node.held_devices());
  value.Set("preflight", TextOrNull(PreflightText(node))).Set("ranks", std::move(ranks));
  value.Set("incarnation", node.incarnation()).Set("last_seen", TimeValue(node.last_seen_ms()));
  return value;
}

Value EventValue(const v1::Event& event) {
  Value value = Value::Object();
  value.Set("sequence", event.sequence()).Set("time", TimeValue(event.time_ms()));
  value.Set("kind", event.kind()).Set("job", TextOrNull(event.job()));
  value.Set("node", TextOrNull(event.node())).Set("message", event.message());
  value.Set("actor", event.actor());
  return value;
}

Table JobTable(const std::vector<v1::JobStatus>& jobs, int64_t now_ms) {
  Table table;
  table.columns = {{"NAME"},
                   {"STATE"},
                   {"STEP", false, true},
                   {"LOSS", false, true},
                   {"TOKENS/S", false, true},
                   {"ETA", false, true},
                   {"AGE", false, true},
                   {"PRIORITY", false, true},
                   {"SHED", false, true},
                   {"ID", true},
                   {"USER", true},
                   {"EPOCH", true, true},
                   {"RANKS", true, true},
                   {"RESTARTS", true, true},
                   {"VALIDATION", true, true},
                   {"REASON"}};
  table.none = "no jobs";
  for (const v1::JobStatus& job : jobs) {
    const bool moving = job.has_last_step() && !HasEnded(job.state());
    Row row;
    row.name = job.name();
    row.cells = {job.name(),
                 StateText(job.state()),
                 StepText(job),
                 job.has_last_step() ? LossText(job.last_step().loss()) : "",
                 job.tokens_per_second() > 0 ? CountText(job.tokens_per_second()) : "",
                 moving ? DurationText(job.eta_s()) : "",
                 Age(now_ms, job.submitted_ms()),
                 absl::StrCat(job.job().spec().scheduling().priority()),
                 job.replicas_shed() > 0 ? absl::StrCat(job.replicas_shed()) : "",
                 job.id(),
                 job.user(),
                 absl::StrCat(job.epoch()),
                 absl::StrCat(RanksOf(job)),
                 absl::StrCat(job.restarts()),
                 job.has_validation() ? LossText(job.validation().loss()) : "",
                 Cut(job.reason(), kReasonWidth)};
    row.value = JobValue(job);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table NodeTable(const std::vector<v1::NodeStatus>& nodes, int64_t now_ms) {
  Table table;
  table.columns = {{"NAME"},
                   {"STATE"},
                   {"RANKS", false, true},
                   {"HELD", false, true},
                   {"PREFLIGHT"},
                   {"ADDRESS"},
                   {"PID", false, true},
                   {"SEEN", false, true},
                   {"DEVICE", true},
                   {"METRICS", true},
                   {"REASON"}};
  table.none = "no nodes";
  for (const v1::NodeStatus& node : nodes) {
    const auto& devices = node.node().devices();
    Row row;
    row.name = node.node().name();
    row.cells = {row.name,
                 SchedulabilityText(node),
                 absl::StrCat(node.ranks_size(), "/", devices.size()),
                 absl::StrCat(node.held_devices()),
                 PreflightText(node),
                 node.node().address(),
                 absl::StrCat(node.pid()),
                 Age(now_ms, node.last_seen_ms()),
                 devices.empty() ? "" : devices.Get(0).kind(),
                 node.node().metrics_address(),
                 Cut(ReasonOf(node), kReasonWidth)};
    row.value = NodeValue(node);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table EventTable(const std::vector<v1::Event>& events) {
  Table table;
  table.columns = {{"TIME"},        {"KIND"},   {"JOB"}, {"NODE"}, {"SEQUENCE", true, true},
                   {"ACTOR", true}, {"MESSAGE"}};
  table.none = "no events";
  for (const v1::Event& event : events) {
    Row row;
    row.name = absl::StrCat(event.sequence());
    row.cells = {TimeText(event.time_ms()),
                 event.kind(),
                 event.job(),
                 event.node(),
                 row.name,
                 event.actor(),
                 event.message()};
    row.value = EventValue(event);
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table QueueTable(const std::vector<v1::QueueEntry>& queue, int64_t now_ms) {
  Table table;
  table.columns = {{"PLACE", false, true},   {"JOB"},     {"USER"},     {"PRIORITY", false, true},
                   {"DEVICES", false, true}, {"WAITING"}, {"WAITS FOR"}};
  table.none = "no job waits";
  for (const v1::QueueEntry& entry : queue) {
    Row row;
    row.name = entry.job();
    row.cells = {absl::StrCat(table.rows.size() + 1),
                 entry.job(),
                 entry.user(),
                 absl::StrCat(entry.priority()),
                 absl::StrCat(entry.devices()),
                 Age(now_ms, entry.queued_ms()),
                 entry.waits_for()};
    row.value = Value::Object();
    row.value.Set("place", table.rows.size() + 1).Set("job", entry.job()).Set("user", entry.user());
    row.value.Set("priority", entry.priority()).Set("devices", entry.devices());
    row.value.Set("queued", TimeValue(entry.queued_ms())).Set("waits_for", entry.waits_for());
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace fathom::cli
