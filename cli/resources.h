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

bool HasEnded(v1::JobState state);

// name, id, user, state, reason, step, steps, epoch, loss, validation_loss, tokens_per_second,
// eta_s, ranks, restarts, submitted, started, finished, checkpoint, weights_sha256. What isn't
// known yet is null.
Value JobValue(const v1::JobStatus& job);
// name, state, reason, pid, address, metrics_address, devices, ranks [{job, epoch, rank, pid,
// state, device}], incarnation, last_seen.
Value NodeValue(const v1::NodeStatus& node);
Value EventValue(const v1::Event& event);

// `now_ms`: for ages.
Table JobTable(const std::vector<v1::JobStatus>& jobs, int64_t now_ms);
Table NodeTable(const std::vector<v1::NodeStatus>& nodes, int64_t now_ms);
Table EventTable(const std::vector<v1::Event>& events);

// Everything about one, with its spec, plan and newest events.
Value JobDescription(const v1::JobStatus& job, const std::vector<v1::Event>& events);
Value NodeDescription(const v1::NodeStatus& node, const std::vector<v1::Event>& events);

// "stage 0: layers 0-3, embedding; ..." and which rank runs where.
Value PlanDescription(const v1::Plan& plan);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_RESOURCES_H_
