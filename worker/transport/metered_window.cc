#include "worker/transport/metered_window.h"

#include <utility>

namespace fathom::transport {

MeteredWindow::MeteredWindow(std::unique_ptr<Window> window, const Clock* clock)
    : window_(std::move(window)),
      clock_(clock),
      traffic_(static_cast<size_t>(window_->size()) + 1) {}

WindowTraffic& MeteredWindow::Of(int peer) {
  return peer >= 0 && peer < size() ? traffic_[static_cast<size_t>(peer)] : traffic_.back();
}

WindowTraffic MeteredWindow::Total() const {
  WindowTraffic total;
  for (const WindowTraffic& one : traffic_) {
    total.puts += one.puts;
    total.put_bytes += one.put_bytes;
    total.signals += one.signals;
    total.waits += one.waits;
    total.sending += one.sending;
    total.waiting += one.waiting;
  }
  return total;
}

void MeteredWindow::Reset() { traffic_.assign(traffic_.size(), WindowTraffic()); }

absl::Status MeteredWindow::Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) {
  const absl::Duration start = clock_->Steady();
  absl::Status status = window_->Put(peer, offset, bytes);
  WindowTraffic& traffic = Of(peer);
  ++traffic.puts;
  traffic.put_bytes += static_cast<int64_t>(bytes.size());
  traffic.sending += clock_->Steady() - start;
  return status;
}

absl::Status MeteredWindow::Signal(int peer, uint32_t index) {
  const absl::Duration start = clock_->Steady();
  absl::Status status = window_->Signal(peer, index);
  WindowTraffic& traffic = Of(peer);
  ++traffic.signals;
  traffic.sending += clock_->Steady() - start;
  return status;
}

absl::Status MeteredWindow::Wait(int peer, uint32_t index, uint64_t value) {
  const absl::Duration start = clock_->Steady();
  absl::Status status = window_->Wait(peer, index, value);
  WindowTraffic& traffic = Of(peer);
  ++traffic.waits;
  traffic.waiting += clock_->Steady() - start;
  return status;
}

absl::StatusOr<bool> MeteredWindow::Poll(int peer, uint32_t index, uint64_t value) {
  return window_->Poll(peer, index, value);
}

}  // namespace fathom::transport
