// For tests: a window that fails by a script. The same script gives the same faults.
//
// Only what this rank sends is touched: a dropped message looks to the peer like a slow one, a cut
// way like a peer that fell silent.
#ifndef FATHOM_WORKER_TRANSPORT_FAULTY_WINDOW_H_
#define FATHOM_WORKER_TRANSPORT_FAULTY_WINDOW_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "worker/transport/window.h"

namespace fathom::transport {

struct Fault {
  enum class Kind {
    kDrop,   // this put or signal vanishes
    kDelay,  // it, and those to the same peer behind it, are held back for `calls` further calls of
             // this window, but no longer than to the next Wait: it's late, never lost
    kCut,    // it and everything after it vanishes, and this rank gets UNAVAILABLE from that peer
  };
  Kind kind = Kind::kDrop;
  int peer = 0;
  uint64_t at = 0;  // which of the puts and signals to that peer, counted from 0
  int calls = 1;
};

// `count` delays at random among the first `operations` to random peers other than `rank`.
std::vector<Fault> RandomDelays(uint64_t seed, int rank, int ranks, int count, uint64_t operations);

class FaultyWindow final : public Window {
 public:
  FaultyWindow(std::unique_ptr<Window> window, std::vector<Fault> script);
  ~FaultyWindow() override;

  int faults_struck() const { return faults_struck_; }

  int rank() const override { return window_->rank(); }
  int size() const override { return window_->size(); }
  absl::Span<std::byte> local() override { return window_->local(); }
  absl::Status Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) override;
  absl::Status Signal(int peer, uint32_t index) override;
  absl::Status Wait(int peer, uint32_t index, uint64_t value) override;
  absl::StatusOr<bool> Poll(int peer, uint32_t index, uint64_t value) override;
  void Abort(absl::Status status) override { window_->Abort(std::move(status)); }

 private:
  struct Message {
    bool is_signal = false;
    uint64_t offset = 0;
    uint32_t signal = 0;
    std::vector<std::byte> bytes;
  };
  struct Way {
    uint64_t operations = 0;
    bool cut = false;
    std::deque<Message> held;
    int calls_left = 0;  // until `held` goes out
  };

  absl::Status Send(int peer, Message message);
  absl::Status Deliver(int peer, const Message& message);
  absl::Status ReleaseHeld(int peer);
  absl::Status CountCall();

  const std::unique_ptr<Window> window_;
  const std::vector<Fault> script_;
  std::vector<Way> ways_;  // by peer
  int faults_struck_ = 0;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_FAULTY_WINDOW_H_
