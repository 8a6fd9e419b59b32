// One attempt of a rank to meet all its peers: a single-threaded loop over non-blocking sockets
// that connects to the higher ranks, accepts the lower ones, and exchanges one Hello with each.
//
// Whatever a stranger sends, or doesn't, costs one entry of a bounded list and no waiting.
#ifndef FATHOM_WORKER_TRANSPORT_MEETING_H_
#define FATHOM_WORKER_TRANSPORT_MEETING_H_

#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/transport/rendezvous_options.h"
#include "worker/transport/socket.h"
#include "worker/transport/wire.h"

namespace fathom::transport {

// A peer that was met.
struct Acquaintance {
  Fd socket;    // non-blocking
  Hello hello;  // checked
  bool local = false;
  Fd memory;  // of its segment, if local
  bool hung_up = false;
};

class Meeting {
 public:
  // The listeners, the cancel event (readable: stop) and own_memory outlive the meeting.
  struct Means {
    const Fd* tcp_listener = nullptr;
    const Fd* local_listener = nullptr;
    const Fd* cancel_event = nullptr;
    int own_memory = -1;  // file descriptor of this rank's segment
  };

  // `peers` fit `options`: the caller has checked that.
  Meeting(const RendezvousOptions& options, const std::vector<PeerAddress>& peers, Means means);

  // As Rendezvous::Connect. On success the acquaintances are in rank order, this rank's empty.
  absl::StatusOr<std::vector<Acquaintance>> Run();

 private:
  // A higher rank, which this one connects to.
  struct Outgoing {
    enum class Step { kIdle, kConnecting, kGreeting, kDone };
    int peer = 0;
    bool local = false;
    Step step = Step::kIdle;
    SteadyTime next_try;
    absl::Duration pause;
    Fd socket;
    Fd memory;
    std::string received;
    std::string last_failure = "no answer yet";
  };
  // A connection to this rank whose Hello isn't complete yet.
  struct Incoming {
    bool local = false;
    SteadyTime expires;
    Fd socket;
    Fd memory;
    std::string received;
  };

  Hello OwnHello(int to) const;
  std::string Name(int peer) const;
  std::string Missing() const;
  absl::Status LateStatus() const;

  absl::Status Accept(const Fd& listener, bool local);
  // True when this connection is dealt with, well or badly.
  absl::StatusOr<bool> Hear(Incoming* incoming);
  absl::Status Answer(Incoming* incoming, const Hello& theirs);

  void Try(Outgoing* outgoing);
  void TryLater(Outgoing* outgoing, const absl::Status& failure);
  absl::Status Greet(Outgoing* outgoing);
  absl::Status HearAnswer(Outgoing* outgoing);

  // UNAVAILABLE unless the peer, whose socket has closed, left in an orderly way.
  absl::Status CheckHungUp(int peer);
  void Met(int peer, bool local, Fd socket, Fd memory, Hello hello);
  SteadyTime NextEvent() const;

  const RendezvousOptions& options_;
  const std::vector<PeerAddress>& peers_;
  const Means means_;
  const SteadyTime deadline_;
  std::vector<Outgoing> outgoing_;
  std::deque<Incoming> incoming_;  // oldest first
  std::vector<Acquaintance> met_;  // by rank
  int missing_ = 0;
  std::string refused_;  // the last connection that was refused, and why
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_MEETING_H_
