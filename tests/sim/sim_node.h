// One node: the real AgentCore, and around it what agent_loop and synchronize_client do in a real
// daemon, with modelled rank processes and a modelled stream.
#ifndef FATHOM_TESTS_SIM_SIM_NODE_H_
#define FATHOM_TESTS_SIM_SIM_NODE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "tests/sim/event_queue.h"
#include "tests/sim/invariants.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"
#include "tests/sim/rank_model.h"
#include "tests/sim/streams.h"
#include "tests/sim/trace.h"
#include "worker/agent/agent_core.h"

namespace fathom::sim {

struct SimNodeOptions {
  Place place = 0;
  std::string name;
  int devices = 1;
  bool spare = false;
  int32_t heartbeat_ms = 500;
  EventQueue* queue = nullptr;
  Streams* streams = nullptr;
  RankModel* ranks = nullptr;
  Random* random = nullptr;
  Trace* trace = nullptr;
  Invariants* invariants = nullptr;
};

class SimNode {
 public:
  explicit SimNode(SimNodeOptions options);

  // --- Faults ---
  void Boot();
  void Crash();
  // Set up anew, its clock is right: one that is behind the last daemon's would be locked out.
  void LoseDisk() { last_incarnation_ = 0; }
  void SetStopped(bool stopped);  // SIGSTOP of daemon and ranks
  void JumpClock(int64_t by_us) {
    clock_offset_us_ += by_us;
    furthest_clock_us_ = std::max(furthest_clock_us_, clock_offset_us_);
  }

  bool up() const { return up_; }
  bool stopped() const { return stopped_; }
  bool runs() const { return up_ && !stopped_; }
  const std::string& name() const { return options_.name; }
  StreamId stream() const { return stream_; }
  const AgentCore* agent() const { return agent_.get(); }

  // --- From the stream ---
  void OnDesired(StreamId stream, const WishedState& wished);
  void OnStreamLost(StreamId stream, bool refused);

  // --- From its ranks ---
  void OnRankEvent(int pid, const v1::RankEvent& event);
  void OnRankExited(int pid, bool exit_code_zero);

 private:
  // Runs `action` in this life of the daemon, when it is not stopped.
  void Later(int64_t delay_us, EventQueue::Action action);
  AgentMoment Now() const;
  void Converge();
  void Do(const AgentAction& action);
  void ArmDeadline();
  void Publish();
  void SendReport();
  void OpenStream();
  void Heartbeat();

  const SimNodeOptions options_;
  bool up_ = false;
  bool stopped_ = false;
  int64_t life_ = 0;
  int64_t last_incarnation_ = 0;  // on disk
  int64_t clock_offset_us_ = 0;
  int64_t furthest_clock_us_ = 0;
  std::unique_ptr<AgentCore> agent_;
  std::map<ProcessId, int> pid_of_;
  std::map<int, ProcessId> process_of_;
  std::map<ProcessId, int32_t> device_of_;
  StreamId stream_ = 0;
  uint64_t published_revision_ = 0;
  bool report_due_ = false;
  int64_t last_sent_us_ = 0;
  int64_t armed_us_ = 0;
  int64_t backoff_us_ = 0;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_SIM_NODE_H_
