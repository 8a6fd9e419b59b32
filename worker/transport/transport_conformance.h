// What every transport has to do: one suite, run over any placement of ranks.
//
// A transport's test file instantiates it with the placements that lead over that transport:
//   INSTANTIATE_TEST_SUITE_P(Shm, TransportConformance, testing::Values(OneNode(2)),
//   PlacementName);
#ifndef FATHOM_WORKER_TRANSPORT_TRANSPORT_CONFORMANCE_H_
#define FATHOM_WORKER_TRANSPORT_TRANSPORT_CONFORMANCE_H_

#include <string>

#include "gtest/gtest.h"
#include "worker/transport/test_ranks.h"

namespace fathom::transport {

class TransportConformance : public testing::TestWithParam<Placement> {};

inline std::string PlacementName(const testing::TestParamInfo<Placement>& info) {
  return info.param.name + (info.param.force_tcp ? "ForcedTcp" : "");
}

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_TRANSPORT_CONFORMANCE_H_
