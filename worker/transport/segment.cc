#include "worker/transport/segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <limits>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// About two microseconds: enough for an answer from a rank that runs on another core right now, and
// short enough to leave the core to the rank that is waited for.
constexpr int kSpins = 48;

uint64_t RoundUpToPage(uint64_t bytes) {
  return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

struct Sizes {
  uint64_t window_offset = 0;
  uint64_t total = 0;
};

absl::StatusOr<Sizes> SizesOf(uint64_t window_bytes, uint32_t signal_count) {
  Sizes sizes;
  sizes.window_offset = kPageBytes + RoundUpToPage(uint64_t{8} * signal_count);
  if (window_bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a window of ", window_bytes, " bytes is beyond any machine"));
  }
  sizes.total = sizes.window_offset + RoundUpToPage(window_bytes);
  return sizes;
}

absl::StatusOr<std::byte*> MapAll(const Fd& memory, uint64_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  if (at == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "mapping ", bytes, " bytes of window: ", ConnectionError("mmap", errno).message(),
        "; make the window smaller"));
  }
  return static_cast<std::byte*>(at);
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// The first page. `waiting_for` is what the owner sleeps on, plus one; 0 when it doesn't sleep.
struct Segment::Head {
  std::atomic<uint32_t> wakes;  // the futex
  std::atomic<uint32_t> waiting_for;
  std::atomic<uint64_t> waiting_value;
};

static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == 8);
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);

Segment::Segment(Fd memory, std::byte* base, uint64_t total_bytes, uint64_t window_bytes,
                 uint32_t signal_count)
    : memory_(std::move(memory)),
      base_(base),
      total_bytes_(total_bytes),
      signal_count_(signal_count),
      head_(reinterpret_cast<Head*>(base)),
      signals_(reinterpret_cast<std::atomic<uint64_t>*>(base + kPageBytes)),
      window_(base + kPageBytes + RoundUpToPage(uint64_t{8} * signal_count), window_bytes) {}

Segment::~Segment() { munmap(base_, total_bytes_); }

absl::StatusOr<std::shared_ptr<Segment>> Segment::Create(uint64_t window_bytes,
                                                         uint32_t signal_count) {
  FATHOM_ASSIGN_OR_RETURN(const Sizes sizes, SizesOf(window_bytes, signal_count));
  Fd memory(memfd_create("fathom-window", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return ConnectionError("making shared memory (memfd_create)", errno);
  if (ftruncate(memory.get(), static_cast<off_t>(sizes.total)) != 0 ||
      fcntl(memory.get(), F_ADD_SEALS, kSeals) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sizing shared memory of ", sizes.total,
                     " bytes: ", ConnectionError("memfd", errno).message()));
  }
  FATHOM_ASSIGN_OR_RETURN(std::byte * base, MapAll(memory, sizes.total));
  // All-zero memory is these atomics' initial state, here and in the processes that map it.
  return std::shared_ptr<Segment>(
      new Segment(std::move(memory), base, sizes.total, window_bytes, signal_count));
}

absl::StatusOr<std::shared_ptr<Segment>> Segment::Map(Fd memory, uint64_t window_bytes,
                                                      uint32_t signal_count) {
  FATHOM_ASSIGN_OR_RETURN(const Sizes sizes, SizesOf(window_bytes, signal_count));
  struct stat facts {};
  if (!memory.valid() || fstat(memory.get(), &facts) != 0 ||
      static_cast<uint64_t>(facts.st_size) != sizes.total) {
    return absl::FailedPreconditionError(
        absl::StrCat("it passed no shared memory of the ", sizes.total, " bytes that it stated"));
  }
  const int seals = fcntl(memory.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::FailedPreconditionError("the shared memory it passed could still shrink");
  }
  FATHOM_ASSIGN_OR_RETURN(std::byte * base, MapAll(memory, sizes.total));
  return std::shared_ptr<Segment>(
      new Segment(std::move(memory), base, sizes.total, window_bytes, signal_count));
}

void Segment::Raise(uint32_t signal) {
  FATHOM_CHECK(signal < signal_count_) << signal << " of " << signal_count_;
  // Sequentially consistent, as in Wait: either the owner sees the new value before it sleeps, or
  // this sees that it is about to.
  const uint64_t now_at = signals_[signal].fetch_add(1, std::memory_order_seq_cst) + 1;
  if (head_->waiting_for.load(std::memory_order_seq_cst) == signal + 1 &&
      now_at >= head_->waiting_value.load(std::memory_order_seq_cst)) {
    Wake();
  }
}

uint64_t Segment::value(uint32_t signal) const {
  return signals_[signal].load(std::memory_order_acquire);
}

Segment::Outcome Segment::Wait(uint32_t signal, uint64_t value, SteadyTime deadline,
                               absl::FunctionRef<bool()> interrupted) {
  FATHOM_CHECK(signal < signal_count_) << signal << " of " << signal_count_;
  for (int i = 0; i < kSpins; ++i) {
    if (signals_[signal].load(std::memory_order_acquire) >= value) return Outcome::kReached;
    Pause();
  }
  const auto since_boot =
      std::chrono::duration_cast<std::chrono::nanoseconds>(deadline.time_since_epoch());
  timespec until{};
  until.tv_sec = since_boot.count() / 1'000'000'000;
  until.tv_nsec = since_boot.count() % 1'000'000'000;

  head_->waiting_value.store(value, std::memory_order_seq_cst);
  head_->waiting_for.store(signal + 1, std::memory_order_seq_cst);
  Outcome outcome;
  for (bool late = false;;) {
    const uint32_t wakes = head_->wakes.load(std::memory_order_seq_cst);
    // Asked first: what a peer raised before it went is there by then.
    const bool stop = interrupted();
    if (signals_[signal].load(std::memory_order_seq_cst) >= value) {
      outcome = Outcome::kReached;
      break;
    }
    if (stop || late) {
      outcome = stop ? Outcome::kInterrupted : Outcome::kDeadline;
      break;
    }
    // Not FUTEX_PRIVATE_FLAG: peers wake from other processes.
    const long slept = syscall(SYS_futex, &head_->wakes, FUTEX_WAIT_BITSET, wakes, &until, nullptr,
                               FUTEX_BITSET_MATCH_ANY);
    late = slept != 0 && errno == ETIMEDOUT;
  }
  head_->waiting_for.store(0, std::memory_order_seq_cst);
  return outcome;
}

void Segment::Wake() {
  head_->wakes.fetch_add(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &head_->wakes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace fathom::transport
