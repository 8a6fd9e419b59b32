// Whether a node's own health signals are bad enough to act on: a fatal one in kFatalProbes probes
// in a row. A single probe may be wrong. Pure.
#ifndef FATHOM_COORDINATOR_CORE_HEALTH_DETECTOR_H_
#define FATHOM_COORDINATOR_CORE_HEALTH_DETECTOR_H_

#include <cstdint>
#include <map>
#include <string>

#include "common/base/ids.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom {

inline constexpr int kFatalProbes = 2;

class HealthDetector {
 public:
  // A node's newest probe; one seen before (the same probed_ms) changes nothing. What is wrong, at
  // the moment when it has been fatal in enough probes; empty otherwise.
  std::string Watch(const NodeName& node, const v1::NodeHealth& health);
  void Forget(const NodeName& node) { nodes_.erase(node); }

 private:
  struct Node {
    int64_t probed_ms = 0;
    std::map<std::string, int> fatal_in_a_row;  // by source, subject and name
  };
  std::map<NodeName, Node> nodes_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_HEALTH_DETECTOR_H_
