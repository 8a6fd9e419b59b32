// The Synchronize streams between daemons and the coordinator. Within a stream order holds and
// nothing is lost; a stream may break at any moment, and what was under way is lost then, or comes
// late. Each end learns of a break for itself; while the network is shut, only after a while.
#ifndef FATHOM_TESTS_SIM_STREAMS_H_
#define FATHOM_TESTS_SIM_STREAMS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>

#include "proto/fathom/v1/worker.pb.h"
#include "tests/sim/event_queue.h"
#include "tests/sim/network.h"
#include "tests/sim/random.h"

namespace fathom::sim {

using StreamId = uint64_t;  // 0: none
using ReportPtr = std::shared_ptr<const v1::NodeReport>;

struct WishedState {
  std::shared_ptr<const v1::DesiredState> desired;
  uint64_t appended = 0;  // records durable when it was made
};

struct StreamEnds {
  std::function<bool()> coordinator_is_up;
  std::function<bool(Place)> node_runs;
  // At the coordinator.
  std::function<void(StreamId, Place, ReportPtr)> on_report;
  std::function<void(StreamId, Place)> on_closed;
  // At the node.
  std::function<void(Place, StreamId, const WishedState&)> on_desired;
  std::function<void(Place, StreamId, bool refused)> on_lost;
};

class Streams {
 public:
  Streams(EventQueue* queue, Network* network, Random* random)
      : queue_(queue), network_(network), random_(random) {}
  void Connect(StreamEnds ends) { ends_ = std::move(ends); }

  // 0: the coordinator can't be reached.
  StreamId Open(Place node);
  void SendReport(StreamId id, ReportPtr report);
  // The newest unsent one counts.
  void SendDesired(StreamId id, WishedState wished);
  // The coordinator ends it; `refused`: with FAILED_PRECONDITION.
  void CloseByCoordinator(StreamId id, bool refused);

  // --- Faults ---
  void Reset(StreamId id);  // both ends hear of it; what was under way is lost or late
  void NodeDown(Place node);
  void CoordinatorDown();
  void NetworkChanged();

 private:
  struct Stream {
    StreamId id = 0;
    Place node = 0;
    bool node_end = true;  // open, as far as this end knows
    bool coordinator_end = true;
    std::deque<ReportPtr> up;
    std::deque<WishedState> down;
    bool up_moves = false;
    bool down_moves = false;
  };
  void PumpUp(StreamId id);
  void PumpDown(StreamId id);
  void MoveUp(StreamId id);
  void MoveDown(StreamId id);
  void CloseNodeEnd(Stream& stream, bool refused, int64_t delay_us);
  void CloseCoordinatorEnd(Stream& stream, int64_t delay_us);
  Stream* Find(StreamId id);

  EventQueue* const queue_;
  Network* const network_;
  Random* const random_;
  StreamEnds ends_;
  StreamId last_id_ = 0;
  std::map<StreamId, Stream> streams_;
};

}  // namespace fathom::sim

#endif  // FATHOM_TESTS_SIM_STREAMS_H_
