// Who is to meet whom: what one rank brings to a rendezvous.
#ifndef FATHOM_WORKER_TRANSPORT_RENDEZVOUS_OPTIONS_H_
#define FATHOM_WORKER_TRANSPORT_RENDEZVOUS_OPTIONS_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace fathom::transport {

struct PeerAddress {
  int rank = 0;
  std::string node;      // ranks with one node name share its memory
  std::string endpoint;  // "host:port" of its listener
};

struct RendezvousOptions {
  std::string job;
  uint64_t epoch = 0;
  int rank = 0;
  std::string node;
  std::string bind_host = "127.0.0.1";
  uint64_t window_bytes = 0;  // of this rank's own window
  uint32_t signal_count = 0;  // of this rank's own window
  absl::Duration connect_timeout = absl::Seconds(60);
  absl::Duration wait_timeout = absl::Seconds(120);  // of every Window::Wait
  bool force_tcp = false;                            // TCP between ranks of one node too
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_RENDEZVOUS_OPTIONS_H_
