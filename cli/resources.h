// Jobs, nodes and events as rows of tables and as the objects of -o json.
#ifndef FATHOM_CLI_RESOURCES_H_
#define FATHOM_CLI_RESOURCES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cli/render.h"
#include "cli/value.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

// "RUNNING", "READY": the enum's name without its prefix.
std::string StateText(v1::JobState state);
std::string StateText(v1::NodeState state);
// "WARNING"
std::string SeverityText(v1::Severity severity);

// Whether a node gets ranks: its state, or DRAINING (it still has ranks), DRAINED, CORDONED, or
// UNFIT (it did not pass its preflight).
std::string SchedulabilityText(const v1::NodeStatus& node);

bool HasEnded(v1::JobState state);

// name, id, user, state, reason, step, steps, epoch, loss, validation_loss, tokens_per_second,
// eta_s, ranks, restarts, priority, replicas_shed, submitted, started, finished, checkpoint,
// weights_sha256. What isn't known yet is null.
Value JobValue(const v1::JobStatus& job);
// name, state, schedulability, reason, pid, address, metrics_address, devices, held_devices,
// preflight ("passed" or "failed"), ranks [{job, epoch, rank, pid, state, device}], incarnation,
// last_seen.
Value NodeValue(const v1::NodeStatus& node);
Value EventValue(const v1::Event& event);

// `now_ms`: for ages.
Table JobTable(const std::vector<v1::JobStatus>& jobs, int64_t now_ms);
Table NodeTable(const std::vector<v1::NodeStatus>& nodes, int64_t now_ms);
Table EventTable(const std::vector<v1::Event>& events);

// The waiting jobs, in order.
Table QueueTable(const std::vector<v1::QueueEntry>& queue, int64_t now_ms);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_RESOURCES_H_
