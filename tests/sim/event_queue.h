// The virtual clock and what is to happen on it. Events of one moment run in the order in which
// they were asked for, so that a run is a function of its seed.
#ifndef FATHOM_TESTS_SIM_EVENT_QUEUE_H_
#define FATHOM_TESTS_SIM_EVENT_QUEUE_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace fathom::sim {

inline constexpr int64_t kMs = 1000;  // in microseconds
inline constexpr int64_t kSecond = 1000 * kMs;
// Unix time where the virtual clock is 0.
inline constexpr int64_t kWallStartUs = int64_t{1'700'000'000} * kSecond;

class EventQueue {
 public:
  using Action = std::function<void()>;

  int64_t now_us() const { return now_us_; }
  void After(int64_t delay_us, Action action);
  // Runs the next event. False: there is none.
  bool RunNext();

 private:
  struct Event {
    int64_t time_us;
    uint64_t order;
    Action action;
  };
  static bool Later(const Event& a, const Event& b) {
    return a.time_us != b.time_us ? a.time_us > b.time_us : a.order > b.order;
  }

  int64_t now_us_ = 1000 * kSecond;  // so that nothing mistakes an early moment for "never"
  uint64_t order_ = 0;
  std::vector<Event> heap_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_EVENT_QUEUE_H_
