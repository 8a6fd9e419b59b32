// The coordinator's process: the real CoordinatorCore, and around it what event_loop and
// worker_service do, over a log that can fail at every point: before an append, after it with the
// answer lost, between the commit and the words that follow from it.
#ifndef FATHOM_TESTS_SIM_SIM_COORDINATOR_H_
#define FATHOM_TESTS_SIM_SIM_COORDINATOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/core/coordinator_core.h"
#include "tests/sim/event_queue.h"
#include "tests/sim/invariants.h"
#include "tests/sim/random.h"
#include "tests/sim/streams.h"
#include "tests/sim/trace.h"

namespace fathom::sim {

enum class StoreFault {
  kNone,
  kRefuse,        // the log says no, and nothing was written
  kCrashBefore,   // the process dies before the append
  kCrashBetween,  // after it, before anything follows from it
  kCrashAfter,    // after commands were answered, before desired states go out
  kAnswerLost,    // written, and the core is told that it was not
};

struct SimCoordinatorOptions {
  CoreOptions core;
  EventQueue* queue = nullptr;
  Streams* streams = nullptr;
  Random* random = nullptr;
  Trace* trace = nullptr;
  Invariants* invariants = nullptr;
  std::map<std::string, Place> places;  // of nodes, by name
};

class SimCoordinator {
 public:
  using Decide = std::function<void(CoordinatorCore&, Moment)>;
  // OK: durable. Not called if the process dies first.
  using Done = std::function<void(const absl::Status&)>;

  explicit SimCoordinator(SimCoordinatorOptions options) : options_(std::move(options)) {}

  void Boot();
  void Crash();
  // At the next append of records.
  void FailNextAppend(StoreFault fault) { fault_ = fault; }
  void RepeatNextReport() { repeat_report_ = true; }
  void JumpClock(int64_t by_us) { clock_offset_us_ += by_us; }
  // SIGSTOP.
  void SetStopped(bool stopped) { stopped_ = stopped; }

  bool up() const { return core_ != nullptr; }
  const CoordinatorCore* core() const { return core_.get(); }

  // False: it is down.
  bool Post(Decide decide, Done done);
  void OnReport(StreamId stream, Place node, const ReportPtr& report);
  void OnStreamClosed(StreamId stream, Place node);

 private:
  struct Event {
    Decide decide;
    Done done;
  };
  struct Speaker {
    Place node = 0;
    std::string name;
    int64_t incarnation = 0;
  };

  Moment Now() const;
  void Tick();
  void Drain();
  // False: the process died.
  bool HandleBatch(const std::deque<Event>& batch);
  void Append();
  void AfterReport(StreamId stream, Place node, const ReportPtr& report,
                   const absl::Status& status);
  void SendDesired(StreamId stream, const std::string& name);

  const SimCoordinatorOptions options_;
  std::unique_ptr<CoordinatorCore> core_;
  std::vector<v1::Record> log_;
  StoreFault fault_ = StoreFault::kNone;
  int64_t life_ = 0;
  int64_t clock_offset_us_ = 0;
  int64_t steady_origin_us_ = 0;
  bool stopped_ = false;
  bool draining_ = false;
  bool repeat_report_ = false;
  std::string fingerprint_;  // of what was durable when it died
  std::deque<Event> queue_;
  std::map<StreamId, Speaker> speakers_;
  std::map<std::string, StreamId> stream_of_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_SIM_COORDINATOR_H_
