// What the link to one peer gives: half the round trip of a small message, and the bandwidth of one
// TCP stream towards it, checked on arrival. Needs the peer's echo service (echo_server.h).
//
// The figures are TCP's, so those of the path that recovery and small messages take; the bandwidth
// of RDMA is not measured here.
#ifndef FATHOM_WORKER_HEALTH_LINK_CHECK_H_
#define FATHOM_WORKER_HEALTH_LINK_CHECK_H_

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom::health {

struct LinkCheckOptions {
  int pings = 200;
  uint32_t ping_bytes = 64;
  int64_t bandwidth_bytes = 32 << 20;      // rounded down to blocks
  absl::Duration time = absl::Seconds(3);  // each of the two
};

// link_latency and link_bandwidth. What can't be measured in time is a failed check whose message
// names peer and endpoint.
std::vector<v1::PreflightCheck> CheckLink(const v1::PreflightPeer& peer,
                                          const LinkCheckOptions& options, const Clock* clock);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_LINK_CHECK_H_
