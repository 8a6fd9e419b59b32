#include "worker/transport/meeting.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(2);
constexpr absl::Duration kLongestPause = absl::Milliseconds(250);
// How long a connection may take to say its Hello.
constexpr absl::Duration kHelloTimeout = absl::Seconds(10);
// On a loaded machine the deadline may pass while the peers wait at the door: those are let in.
constexpr int kRoundsAfterDeadline = 16;

absl::Span<const std::byte> AsBytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

}  // namespace

Meeting::Meeting(const RendezvousOptions& options, const std::vector<PeerAddress>& peers,
                 Means means)
    : options_(options),
      peers_(peers),
      means_(means),
      deadline_(DeadlineAfter(options.connect_timeout)),
      met_(peers.size()),
      missing_(static_cast<int>(peers.size()) - 1) {
  for (int peer = options.rank + 1; peer < peers.size(); ++peer) {
    Outgoing outgoing;
    outgoing.peer = peer;
    outgoing.local = !options.force_tcp && peers[peer].node == options.node;
    outgoing.next_try = DeadlineAfter(absl::ZeroDuration());
    outgoing.pause = kFirstPause;
    outgoing_.push_back(std::move(outgoing));
  }
}

Hello Meeting::OwnHello(int to) const {
  Hello hello;
  hello.rank = static_cast<uint32_t>(options_.rank);
  hello.to_rank = static_cast<uint32_t>(to);
  hello.size = static_cast<uint32_t>(peers_.size());
  hello.epoch = options_.epoch;
  hello.window_bytes = options_.window_bytes;
  hello.signal_count = options_.signal_count;
  hello.job = options_.job;
  return hello;
}

std::string Meeting::Name(int peer) const {
  return absl::StrCat("rank ", peer, " on node ", peers_[peer].node, " at ", peers_[peer].endpoint);
}

std::string Meeting::Missing() const {
  std::vector<std::string> names;
  for (int peer = 0; peer < options_.rank; ++peer) {
    if (!met_[peer].socket.valid()) {
      names.push_back(absl::StrCat(Name(peer), " (it did not connect)"));
    }
  }
  for (const Outgoing& outgoing : outgoing_) {
    if (outgoing.step != Outgoing::Step::kDone) {
      names.push_back(absl::StrCat(Name(outgoing.peer), " (", outgoing.last_failure, ")"));
    }
  }
  constexpr size_t kNamesMax = 16;
  if (names.size() > kNamesMax) {
    const size_t more = names.size() - kNamesMax;
    names.resize(kNamesMax);
    names.push_back(absl::StrCat("and ", more, " more"));
  }
  return absl::StrJoin(names, ", ");
}

absl::Status Meeting::LateStatus() const {
  std::string text = absl::StrCat(
      "rank ", options_.rank, " of job ", options_.job, " epoch ", options_.epoch, ": after ",
      absl::FormatDuration(options_.connect_timeout), " these are missing: ", Missing());
  if (refused_.empty()) return absl::DeadlineExceededError(text);
  return absl::FailedPreconditionError(absl::StrCat(text, "; refused ", refused_));
}

void Meeting::Met(int peer, bool local, Fd socket, Fd memory, Hello hello) {
  Acquaintance& met = met_[peer];
  met.socket = std::move(socket);
  met.hello = std::move(hello);
  met.local = local;
  met.memory = std::move(memory);
  --missing_;
}

absl::Status Meeting::Accept(const Fd& listener, bool local) {
  while (true) {
    FATHOM_ASSIGN_OR_RETURN(Fd socket, AcceptOne(listener));
    if (!socket.valid()) return absl::OkStatus();
    // A process of another user gets no word, so it can't learn of this job.
    if (local && !CheckSameUser(socket).ok()) continue;
    if (incoming_.size() >= peers_.size() + limits::kMaxStrangerConnections) incoming_.pop_front();
    Incoming incoming;
    incoming.local = local;
    incoming.expires = DeadlineAfter(kHelloTimeout);
    incoming.socket = std::move(socket);
    incoming_.push_back(std::move(incoming));
  }
}

absl::StatusOr<bool> Meeting::Hear(Incoming* incoming) {
  while (incoming->received.size() < kHelloBytes) {
    const absl::StatusOr<bool> got =
        ReceiveShort(incoming->socket, kHelloBytes - incoming->received.size(), &incoming->received,
                     incoming->local ? &incoming->memory : nullptr);
    if (!got.ok()) return true;
    if (!*got) return false;
  }
  const absl::StatusOr<Hello> theirs = DecodeHello(AsBytes(incoming->received));
  if (!theirs.ok()) return true;
  FATHOM_RETURN_IF_ERROR(Answer(incoming, *theirs));
  return true;
}

absl::Status Meeting::Answer(Incoming* incoming, const Hello& theirs) {
  const Hello mine = OwnHello(static_cast<int>(theirs.rank));
  absl::Status check = CheckHello(mine, theirs, theirs.rank);
  if (check.ok() && theirs.rank >= mine.rank) {
    check = absl::FailedPreconditionError(
        absl::StrCat("its rank is ", theirs.rank, ", and one below ", mine.rank, " was expected"));
  }
  if (check.ok() && met_[theirs.rank].socket.valid()) {
    check = absl::FailedPreconditionError("that rank is connected already");
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string answer, EncodeHello(mine));
  if (!check.ok()) {
    // The answer lets it see what differs. If it can't be sent, the other end sees it close.
    SendShort(incoming->socket, answer, -1).IgnoreError();
    refused_ =
        absl::StrCat("a connection that gave itself as rank ", theirs.rank, ": ", check.message());
    const bool overtaken =
        theirs.version == mine.version && theirs.job == mine.job && theirs.epoch > mine.epoch;
    if (!overtaken) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat("rank ", mine.rank, " of job ", mine.job,
                                                      " is of the past: refused ", refused_));
  }
  // It said its Hello and gave up before it was heard: met, it would be a peer that's gone.
  if (HasEnded(incoming->socket)) return absl::OkStatus();
  const absl::Status sent =
      SendShort(incoming->socket, answer, incoming->local ? means_.own_memory : -1);
  if (sent.ok()) {
    Met(static_cast<int>(theirs.rank), incoming->local, std::move(incoming->socket),
        std::move(incoming->memory), theirs);
  }
  return absl::OkStatus();
}

void Meeting::TryLater(Outgoing* outgoing, const absl::Status& failure) {
  outgoing->last_failure = std::string(failure.message());
  outgoing->step = Outgoing::Step::kIdle;
  outgoing->socket.Close();
  outgoing->memory.Close();
  outgoing->received.clear();
  outgoing->next_try = DeadlineAfter(outgoing->pause);
  outgoing->pause = std::min(outgoing->pause * 2, kLongestPause);
}

void Meeting::Try(Outgoing* outgoing) {
  const auto endpoint = ParseHostPort(peers_[outgoing->peer].endpoint);
  if (!endpoint.ok()) return TryLater(outgoing, endpoint.status());
  absl::StatusOr<Fd> socket = outgoing->local ? StartConnectLocal(endpoint->port)
                                              : StartConnectTcp(endpoint->host, endpoint->port);
  if (!socket.ok()) return TryLater(outgoing, socket.status());
  outgoing->socket = *std::move(socket);
  outgoing->step = Outgoing::Step::kConnecting;
}

absl::Status Meeting::Greet(Outgoing* outgoing) {
  FATHOM_RETURN_IF_ERROR(FinishConnect(outgoing->socket));
  if (outgoing->local) FATHOM_RETURN_IF_ERROR(CheckSameUser(outgoing->socket));
  FATHOM_ASSIGN_OR_RETURN(const std::string hello, EncodeHello(OwnHello(outgoing->peer)));
  FATHOM_RETURN_IF_ERROR(
      SendShort(outgoing->socket, hello, outgoing->local ? means_.own_memory : -1));
  outgoing->last_failure = "it took the connection and did not answer";
  outgoing->step = Outgoing::Step::kGreeting;
  return absl::OkStatus();
}

absl::Status Meeting::HearAnswer(Outgoing* outgoing) {
  while (outgoing->received.size() < kHelloBytes) {
    FATHOM_ASSIGN_OR_RETURN(
        const bool got,
        ReceiveShort(outgoing->socket, kHelloBytes - outgoing->received.size(), &outgoing->received,
                     outgoing->local ? &outgoing->memory : nullptr));
    if (!got) return absl::OkStatus();
  }
  absl::StatusOr<Hello> theirs = DecodeHello(AsBytes(outgoing->received));
  // Something else has that port for now; the rank may still come.
  if (!theirs.ok()) return absl::UnavailableError(theirs.status().message());
  const absl::Status check = CheckHello(OwnHello(outgoing->peer), *theirs, outgoing->peer);
  if (!check.ok()) {
    return WithContext(
        check, absl::StrCat("rank ", options_.rank, " cannot connect to ", Name(outgoing->peer)));
  }
  outgoing->step = Outgoing::Step::kDone;
  Met(outgoing->peer, outgoing->local, std::move(outgoing->socket), std::move(outgoing->memory),
      *std::move(theirs));
  return absl::OkStatus();
}

absl::Status Meeting::CheckHungUp(int peer) {
  // One that did all it had to and left has said so, and that's still to be read.
  met_[peer].hung_up = true;
  if (!HasEnded(met_[peer].socket)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("rank ", options_.rank, " of job ", options_.job,
                                             " epoch ", options_.epoch, ": ", Name(peer),
                                             " had connected and is gone"));
}

SteadyTime Meeting::NextEvent() const {
  SteadyTime next = deadline_;
  for (const Outgoing& outgoing : outgoing_) {
    if (outgoing.step == Outgoing::Step::kIdle) next = std::min(next, outgoing.next_try);
  }
  if (!incoming_.empty()) next = std::min(next, incoming_.front().expires);
  return next;
}

absl::StatusOr<std::vector<Acquaintance>> Meeting::Run() {
  int rounds_left = kRoundsAfterDeadline;
  while (missing_ > 0) {
    const SteadyTime now = DeadlineAfter(absl::ZeroDuration());
    while (!incoming_.empty() && incoming_.front().expires <= now) incoming_.pop_front();
    for (Outgoing& outgoing : outgoing_) {
      if (outgoing.step == Outgoing::Step::kIdle && outgoing.next_try <= now) Try(&outgoing);
    }

    std::vector<pollfd> polls = {{means_.cancel_event->get(), POLLIN, 0},
                                 {means_.tcp_listener->get(), POLLIN, 0},
                                 {means_.local_listener->get(), POLLIN, 0}};
    for (const Incoming& incoming : incoming_) polls.push_back({incoming.socket.get(), POLLIN, 0});
    const size_t first_outgoing = polls.size();
    for (const Outgoing& outgoing : outgoing_) {
      const bool connecting = outgoing.step == Outgoing::Step::kConnecting;
      // An invalid descriptor is passed over by poll.
      polls.push_back(
          {outgoing.socket.get(), static_cast<int16_t>(connecting ? POLLOUT : POLLIN), 0});
    }
    const size_t first_met = polls.size();
    for (const Acquaintance& met : met_) {
      polls.push_back({met.hung_up ? -1 : met.socket.get(), POLLRDHUP, 0});
    }
    const int ready = poll(polls.data(), polls.size(), MillisecondsUntil(NextEvent()));
    if (ready < 0 && errno != EINTR) return ConnectionError("waiting for peers", errno);
    if (now >= deadline_ && (ready == 0 || --rounds_left == 0)) return LateStatus();

    if (polls[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(
          "rank ", options_.rank, " of job ", options_.job, " epoch ", options_.epoch,
          ": connecting was cancelled", refused_.empty() ? "" : "; refused ", refused_));
    }
    for (size_t i = 0; i < met_.size(); ++i) {
      if (polls[first_met + i].revents == 0) continue;
      FATHOM_RETURN_IF_ERROR(CheckHungUp(static_cast<int>(i)));
    }
    for (size_t i = 0; i < outgoing_.size(); ++i) {
      if (polls[first_outgoing + i].revents == 0) continue;
      Outgoing& outgoing = outgoing_[i];
      const absl::Status status =
          outgoing.step == Outgoing::Step::kConnecting ? Greet(&outgoing) : HearAnswer(&outgoing);
      if (status.code() == absl::StatusCode::kFailedPrecondition) return status;
      if (!status.ok()) TryLater(&outgoing, status);
    }
    for (size_t i = incoming_.size(); i-- > 0;) {
      if (polls[3 + i].revents == 0) continue;
      FATHOM_ASSIGN_OR_RETURN(const bool done, Hear(&incoming_[i]));
      if (done) incoming_.erase(incoming_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (polls[1].revents != 0) FATHOM_RETURN_IF_ERROR(Accept(*means_.tcp_listener, false));
    if (polls[2].revents != 0) FATHOM_RETURN_IF_ERROR(Accept(*means_.local_listener, true));
  }
  return std::move(met_);
}

}  // namespace fathom::transport
