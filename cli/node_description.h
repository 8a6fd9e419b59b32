// What is known of a node beyond its place in a list: its preflight, its health, what was decided
// about it.
#ifndef FATHOM_CLI_NODE_DESCRIPTION_H_
#define FATHOM_CLI_NODE_DESCRIPTION_H_

#include <vector>

#include "cli/render.h"
#include "cli/value.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

// One row per check.
Table PreflightTable(const v1::PreflightReport& report);
// id, passed, verdict, started, finished, checks [...].
Value PreflightValue(const v1::PreflightReport& report);

// NodeValue with admin, preflight, health, devices and newest events.
Value NodeDescription(const v1::NodeStatus& node, const std::vector<v1::Event>& events);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_NODE_DESCRIPTION_H_
