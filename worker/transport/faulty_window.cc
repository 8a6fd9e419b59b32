#include "worker/transport/faulty_window.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {

std::vector<Fault> RandomDelays(uint64_t seed, int rank, int ranks, int count,
                                uint64_t operations) {
  FATHOM_CHECK(ranks > 1 && operations > 0) << ranks << " ranks, " << operations << " operations";
  std::mt19937_64 next(seed);
  std::vector<Fault> script;
  for (int i = 0; i < count; ++i) {
    const int others = static_cast<int>(next() % static_cast<uint64_t>(ranks - 1));
    script.push_back({Fault::Kind::kDelay, others < rank ? others : others + 1, next() % operations,
                      1 + static_cast<int>(next() % 6)});
  }
  return script;
}

FaultyWindow::FaultyWindow(std::unique_ptr<Window> window, std::vector<Fault> script)
    : window_(std::move(window)),
      script_(std::move(script)),
      ways_(static_cast<size_t>(window_->size())) {}

FaultyWindow::~FaultyWindow() {
  for (int peer = 0; peer < size(); ++peer) {
    const absl::Status released = ReleaseHeld(peer);
    // An aborted window or a peer that's gone takes nothing more, which is no fault of this test's.
    if (!released.ok()) break;
  }
}

absl::Status FaultyWindow::Deliver(int peer, const Message& message) {
  return message.is_signal ? window_->Signal(peer, message.signal)
                           : window_->Put(peer, message.offset, message.bytes);
}

absl::Status FaultyWindow::ReleaseHeld(int peer) {
  Way& way = ways_[static_cast<size_t>(peer)];
  way.calls_left = 0;
  while (!way.held.empty()) {
    const Message message = std::move(way.held.front());
    way.held.pop_front();
    FATHOM_RETURN_IF_ERROR(Deliver(peer, message));
  }
  return absl::OkStatus();
}

absl::Status FaultyWindow::CountCall() {
  for (int peer = 0; peer < size(); ++peer) {
    Way& way = ways_[static_cast<size_t>(peer)];
    if (way.calls_left > 0 && --way.calls_left == 0) FATHOM_RETURN_IF_ERROR(ReleaseHeld(peer));
  }
  return absl::OkStatus();
}

absl::Status FaultyWindow::Send(int peer, Message message) {
  FATHOM_RETURN_IF_ERROR(CountCall());
  if (peer < 0 || peer >= size()) return Deliver(peer, message);
  Way& way = ways_[static_cast<size_t>(peer)];
  const uint64_t operation = way.operations++;
  bool drop = false;
  for (const Fault& fault : script_) {
    if (fault.peer != peer || fault.at != operation) continue;
    ++faults_struck_;
    drop = drop || fault.kind == Fault::Kind::kDrop;
    way.cut = way.cut || fault.kind == Fault::Kind::kCut;
    if (fault.kind == Fault::Kind::kDelay) way.calls_left = fault.calls;
  }
  if (way.cut) return absl::UnavailableError(absl::StrCat("the way to rank ", peer, " is cut"));
  if (drop) return absl::OkStatus();
  if (way.calls_left > 0) {
    way.held.push_back(std::move(message));
    return absl::OkStatus();
  }
  return Deliver(peer, message);
}

absl::Status FaultyWindow::Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) {
  return Send(peer, {false, offset, 0, std::vector<std::byte>(bytes.begin(), bytes.end())});
}

absl::Status FaultyWindow::Signal(int peer, uint32_t index) {
  return Send(peer, {true, 0, index, {}});
}

absl::Status FaultyWindow::Wait(int peer, uint32_t index, uint64_t value) {
  for (int to = 0; to < size(); ++to) FATHOM_RETURN_IF_ERROR(ReleaseHeld(to));
  if (peer >= 0 && peer < size() && ways_[static_cast<size_t>(peer)].cut) {
    return absl::UnavailableError(absl::StrCat("the way to rank ", peer, " is cut"));
  }
  return window_->Wait(peer, index, value);
}

absl::StatusOr<bool> FaultyWindow::Poll(int peer, uint32_t index, uint64_t value) {
  if (peer >= 0 && peer < size() && ways_[static_cast<size_t>(peer)].cut) {
    return absl::UnavailableError(absl::StrCat("the way to rank ", peer, " is cut"));
  }
  return window_->Poll(peer, index, value);
}

}  // namespace fathom::transport
