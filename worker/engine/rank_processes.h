// Rank processes inside a test: each is a session on a thread behind a real channel, whose other
// end the test holds as the node's daemon would.
#ifndef FATHOM_WORKER_ENGINE_RANK_PROCESSES_H_
#define FATHOM_WORKER_ENGINE_RANK_PROCESSES_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/real_clock.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_channel.h"

namespace fathom::engine {

class RankProcess {
 public:
  explicit RankProcess(std::string name);
  ~RankProcess();  // kills it if it still runs
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  // --- Orders. One to a process that has ended is lost. ---
  void Send(const v1::RankCommand& command);
  // rank -1: no part in the plan.
  void Start(const v1::Plan& plan, int rank, const std::string& checkpoints, bool at_boundary);
  void Peers(const v1::RankPeers& peers);
  void Hold(uint64_t epoch);
  void Park(uint64_t epoch);
  void Stop();
  // Asks, and waits for the answer.
  v1::RankDiagnosis Diagnose();

  // Asks until it is at that.
  void AwaitBeing(const std::string& what);

  // Its training stops for now when it has done so many steps, before it tells of the last. To be
  // called before it gets there.
  void PauseAfter(int64_t steps) { clock_.PauseAfter(steps); }
  void Resume() { clock_.PauseAfter(0); }

  // As a crash: peers get no goodbye.
  void Kill();
  // The daemon reads nothing more, so the rank hangs as soon as it has told enough.
  void StopListening();

  // The next event, after those that Await has returned or passed over, that matches. Fails the
  // test when the process ends, or a long time passes, before there is one.
  using Match = std::function<bool(const v1::RankEvent&)>;
  v1::RankEvent Await(const std::string& what, const Match& match);
  v1::RankEvent AwaitStep(int64_t step);  // or a later one
  v1::RankEvent AwaitHeld(uint64_t epoch);
  v1::RankEvent AwaitFinished();

  // Everything it told so far, and the steps among it.
  std::vector<v1::RankEvent> Events();
  std::vector<int64_t> Steps();
  bool Told(const Match& match);

  // Waits for its end.
  absl::Status Join();

 private:
  RankProcess(std::string name, std::pair<RankChannel, RankChannel> ends);
  void ReceiveEvents();

  // Of the training's readings of the wall clock, the nth is in the report of the nth step.
  class PausingClock : public Clock {
   public:
    absl::Time Wall() const override;
    absl::Duration Steady() const override { return clock_.Steady(); }
    void PauseAfter(int64_t readings);

   private:
    const RealClock clock_;
    mutable std::mutex mutex_;
    mutable std::condition_variable resumed_;
    // Guarded by mutex_.
    mutable int64_t readings_ = 0;
    int64_t pause_after_ = 0;  // 0: never
  };

  const std::string name_;
  PausingClock clock_;
  RankChannel daemon_;
  std::thread session_;
  std::thread receiver_;
  absl::Status end_;
  uint64_t last_token_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::vector<v1::RankEvent> events_;
  size_t seen_ = 0;
  bool closed_ = false;
  bool listening_ = true;
};

// Orders an epoch: starts the processes (in rank order) with it, and once all listen gives them
// their peer table.
void Launch(const v1::Plan& plan, const std::vector<RankProcess*>& processes,
            const std::string& checkpoints, bool at_boundary);
// The first half; the table.
v1::RankPeers StartAll(const v1::Plan& plan, const std::vector<RankProcess*>& processes,
                       const std::string& checkpoints, bool at_boundary);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_PROCESSES_H_
