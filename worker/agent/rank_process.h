// One rank process: started, spoken to, ended and reaped, without ever waiting for it.
//
// Started by fork and execve of the binary itself, with fixed arguments and an environment of
// OMP_NUM_THREADS=1 only; in a process group of its own, so that a Ctrl-C meant for the daemon does
// not reach it; with /dev/null as input, its log as output and error, and its end of the channel as
// descriptor kRankChannelFd. No other descriptor and no signal setting of the daemon is inherited.
//
// No rank outlives its daemon: it must exit when its channel closes, and in case it hangs the
// kernel kills it when the daemon's thread that started it ends. So start ranks from a thread that
// lives as long as the daemon. (A daemon's restart costs the ranks of its node; the coordinator
// sees the new incarnation and recovers the job. Handing processes over would save little and risk
// two owners.)
//
// The owner watches pid_fd() and channel_fd() with epoll. One thread.
#ifndef FATHOM_WORKER_AGENT_RANK_PROCESS_H_
#define FATHOM_WORKER_AGENT_RANK_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_channel.h"
#include "worker/agent/unique_fd.h"

namespace fathom {

struct RankExit {
  int code = 0;    // when signal is 0
  int signal = 0;  // that ended it; 0: it exited
  bool core_dumped = false;
  bool killed_by_us = false;
  int64_t oom_kills = 0;  // of the whole machine while it ran; -1: not known
};

// "exited with 3", "was killed by signal 11 (SIGSEGV, Segmentation fault)", with a hint when memory
// may have run out.
std::string DescribeExit(const RankExit& exit);

class RankProcess {
 public:
  // `log_fd` stays the caller's. Returns once the binary runs; only the kernel is waited for.
  // Codes of ErrnoStatus, such as NOT_FOUND: no such binary.
  static absl::StatusOr<RankProcess> Start(const std::string& binary,
                                           const std::vector<std::string>& arguments, int log_fd);

  RankProcess(RankProcess&&) noexcept;
  RankProcess& operator=(RankProcess&&) = delete;
  // Kills what is still there.
  ~RankProcess();

  pid_t pid() const { return pid_; }
  int pid_fd() const { return pid_fd_.get(); }       // readable once it has ended
  int channel_fd() const { return channel_.get(); }  // -1 once closed
  // Whether Flush has something to do as soon as channel_fd() is writable.
  bool wants_to_write() const { return !unsent_.empty(); }

  // Queues, and sends what the socket takes. INVALID_ARGUMENT: too large. UNAVAILABLE: the rank has
  // closed its end; its exit will tell.
  absl::Status Send(const v1::RankCommand& command);
  absl::Status Flush();

  // Whatever has arrived. After `closed` no more will, and channel_fd() is closed.
  struct Heard {
    std::vector<v1::RankEvent> events;
    bool closed = false;
    absl::Status why;  // with closed: OK, or what was wrong with the bytes
  };
  Heard Receive();

  // SIGKILL to the whole group.
  void Kill();

  // Once it has ended: reaps it, and kills what it left behind in its group. Once at most.
  std::optional<RankExit> Reap();

 private:
  RankProcess(pid_t pid, UniqueFd pid_fd, UniqueFd channel);

  pid_t pid_;  // 0: reaped or moved from
  UniqueFd pid_fd_;
  UniqueFd channel_;
  std::string unsent_;
  RankFrameDecoder decoder_;
  bool killed_ = false;
  int64_t oom_kills_before_ = -1;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_RANK_PROCESS_H_
