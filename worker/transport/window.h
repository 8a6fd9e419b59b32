// A window: memory of this rank that its peers write into.
//
// The whole data plane is one primitive: put bytes into a peer's window, then raise one of its
// signals; the peer waits on the signal and reads its own memory. Shared memory, TCP, RDMA and
// NVLink are that and nothing more. Everything else (channels, collectives, the all-to-all of the
// experts) is written once over it.
//
// A window belongs to one (job, epoch): a peer of another one is refused when it connects. Every
// wait has a deadline and its error names the peer. Waits sleep (more ranks than cores is the
// normal case on a laptop). One thread of the rank uses a window at a time, but for Abort.
#ifndef FATHOM_WORKER_TRANSPORT_WINDOW_H_
#define FATHOM_WORKER_TRANSPORT_WINDOW_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace fathom::transport {

class Window {
 public:
  virtual ~Window() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;  // ranks of the job, this one included

  // This rank's own receive memory, 64-byte aligned, zeroed at creation.
  virtual absl::Span<std::byte> local() = 0;

  // Copies bytes into `peer`'s window at `offset`; the source may be reused on return. Puts and
  // signals to one peer take effect in the order they were made.
  // UNAVAILABLE: the peer's connection broke. INVALID_ARGUMENT: outside the peer's window.
  virtual absl::Status Put(int peer, uint64_t offset, absl::Span<const std::byte> bytes) = 0;

  // Adds one to the peer's signal `index`, after every earlier put of this rank to it is visible
  // there.
  virtual absl::Status Signal(int peer, uint32_t index) = 0;

  // Returns once this rank's signal `index`, raised by `peer`, has reached `value`.
  // DEADLINE_EXCEEDED (names the peer, its node and how long), UNAVAILABLE (the peer is gone),
  // or what Abort gave.
  virtual absl::Status Wait(int peer, uint32_t index, uint64_t value) = 0;

  // The same without waiting: whether the signal has got there. UNAVAILABLE, or what Abort gave, as
  // Wait would say.
  virtual absl::StatusOr<bool> Poll(int peer, uint32_t index, uint64_t value) = 0;

  // Makes every wait, now and later, return this status. May be called from any thread.
  virtual void Abort(absl::Status status) = 0;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_WINDOW_H_
