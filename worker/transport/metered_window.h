// A window that counts: what this rank sent, and how long it sat waiting for whom.
#ifndef FATHOM_WORKER_TRANSPORT_METERED_WINDOW_H_
#define FATHOM_WORKER_TRANSPORT_METERED_WINDOW_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/transport/window.h"

namespace fathom::transport {

// To and from one peer, or all together. Failed operations count too.
struct WindowTraffic {
  int64_t puts = 0;
  int64_t put_bytes = 0;
  int64_t signals = 0;
  int64_t waits = 0;
  absl::Duration sending;  // inside Put and Signal
  absl::Duration waiting;  // inside Wait
};

class MeteredWindow final : public Window {
 public:
  // The clock outlives the window.
  MeteredWindow(std::unique_ptr<Window> window, const Clock* clock);

  // Since the last Reset; read by the thread that uses the window.
  const WindowTraffic& with(int peer) const { return traffic_[static_cast<size_t>(peer)]; }
  WindowTraffic Total() const;
  void Reset();

  int rank() const override { return window_->rank(); }
  int size() const override { return window_->size(); }
  absl::Span<std::byte> local() override { return window_->local(); }
  absl::Status Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) override;
  absl::Status Signal(int peer, uint32_t index) override;
  absl::Status Wait(int peer, uint32_t index, uint64_t value) override;
  absl::StatusOr<bool> Poll(int peer, uint32_t index, uint64_t value) override;
  void Abort(absl::Status status) override { window_->Abort(std::move(status)); }

 private:
  // Of no peer that exists: counted apart, so that Total still holds everything.
  WindowTraffic& Of(int peer);

  const std::unique_ptr<Window> window_;
  const Clock* const clock_;
  std::vector<WindowTraffic> traffic_;  // by peer, then that of none
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_METERED_WINDOW_H_
