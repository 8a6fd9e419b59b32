#include "tests/sim/event_queue.h"

#include <algorithm>
#include <utility>

namespace fathom::sim {

void EventQueue::After(int64_t delay_us, Action action) {
  heap_.push_back({now_us_ + std::max<int64_t>(delay_us, 0), order_++, std::move(action)});
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

bool EventQueue::RunNext() {
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), Later);
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_us_ = event.time_us;
  event.action();
  return true;
}

}  // namespace fathom::sim
