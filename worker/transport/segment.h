// The memory behind a window: the window's bytes, its signals, and what is needed to sleep on them,
// in one anonymous shared-memory file (memfd). The file has no name; it goes when the last process
// that maps it ends, however that ends.
//
// Its owner waits; those that put raise. A raiser makes a system call only when the owner sleeps on
// just this signal. One thread of the owner waits at a time.
#ifndef FATHOM_WORKER_TRANSPORT_SEGMENT_H_
#define FATHOM_WORKER_TRANSPORT_SEGMENT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/transport/socket.h"

namespace fathom::transport {

class Segment {
 public:
  // Zeroed. RESOURCE_EXHAUSTED when the memory is not to be had.
  static absl::StatusOr<std::shared_ptr<Segment>> Create(uint64_t window_bytes,
                                                         uint32_t signal_count);
  // A peer's, from the file it passed. FAILED_PRECONDITION when that isn't of the stated size, or
  // could still shrink under this process.
  static absl::StatusOr<std::shared_ptr<Segment>> Map(Fd memory, uint64_t window_bytes,
                                                      uint32_t signal_count);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  int fd() const { return memory_.get(); }  // to be passed to peers
  absl::Span<std::byte> window() const { return window_; }
  uint32_t signal_count() const { return signal_count_; }

  // Adds one to the signal, after all that this thread wrote to the window before.
  void Raise(uint32_t signal);
  uint64_t value(uint32_t signal) const;

  enum class Outcome { kReached, kInterrupted, kDeadline };
  // Sleeps until the signal is at `value`. Whoever makes `interrupted` true calls Wake after it. A
  // signal that has got there counts as reached, whatever else is so.
  Outcome Wait(uint32_t signal, uint64_t value, SteadyTime deadline,
               absl::FunctionRef<bool()> interrupted);
  void Wake();

 private:
  struct Head;

  Segment(Fd memory, std::byte* base, uint64_t total_bytes, uint64_t window_bytes,
          uint32_t signal_count);

  Fd memory_;
  std::byte* base_;
  uint64_t total_bytes_;
  uint32_t signal_count_;
  Head* head_;
  std::atomic<uint64_t>* signals_;
  absl::Span<std::byte> window_;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_SEGMENT_H_
