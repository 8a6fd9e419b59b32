// Nodes that come and go: one loss is bad luck, several within a window are a fault. Pure.
//
// Repeatedly blamed links are counted where links are blamed (core_recovery.cc), by the same
// window.
#ifndef FATHOM_COORDINATOR_CORE_FLAP_DETECTOR_H_
#define FATHOM_COORDINATOR_CORE_FLAP_DETECTOR_H_

#include <cstdint>
#include <deque>
#include <map>

#include "common/base/ids.h"

namespace fathom {

inline constexpr int64_t kFlapWindowMs = 600'000;
inline constexpr int kNodeFlapsMax = 3;  // as many within the window are too many

class FlapDetector {
 public:
  // The node was lost and is back. True: once more than it may, and it has not been said yet; after
  // that its count begins anew.
  bool NodeReturned(const NodeName& node, int64_t now_ms);
  int CountOf(const NodeName& node, int64_t now_ms) const;

 private:
  std::map<NodeName, std::deque<int64_t>> returns_;  // within the window, steady milliseconds
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_FLAP_DETECTOR_H_
