// What happened in a run: folded into one hash always, and kept as lines when somebody will read
// them.
#ifndef FATHOM_TESTS_SIM_TRACE_H_
#define FATHOM_TESTS_SIM_TRACE_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <string>

#include "tests/sim/event_queue.h"
#include "tests/sim/random.h"

namespace fathom::sim {

class Trace {
 public:
  Trace(const EventQueue* queue, bool verbose) : queue_(queue), verbose_(verbose) {}

  // `say` is called only when lines are wished; `kind` and `numbers` tell the event's hash.
  template <typename Say>
  void Add(uint64_t kind, std::initializer_list<int64_t> numbers, const Say& say) {
    hash_ = Mix(hash_, kind ^ (static_cast<uint64_t>(queue_->now_us()) << 8));
    for (const int64_t number : numbers) hash_ = Mix(hash_, static_cast<uint64_t>(number));
    if (!verbose_) return;
    const std::string text = say();
    std::printf("%10.3f  %s\n", static_cast<double>(queue_->now_us()) / kSecond - 1000,
                text.c_str());
  }

  uint64_t hash() const { return hash_; }
  bool verbose() const { return verbose_; }

 private:
  const EventQueue* const queue_;
  const bool verbose_;
  uint64_t hash_ = 0;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_TRACE_H_
