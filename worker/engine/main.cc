// fathom-rank: one rank of a job, started by the node's daemon and no one else.
#include <csignal>
#include <cstdio>
#include <cstring>

#include "absl/debugging/symbolize.h"
#include "common/base/real_clock.h"
#include "worker/agent/rank_channel.h"
#include "worker/engine/rank_session.h"

int main(int argc, char** argv) {
  absl::InitializeSymbolizer(argv[0]);
  if (argc != 2 || std::strcmp(argv[1], "--channel-fd=3") != 0) {
    std::fprintf(
        stderr,
        "fathom-rank: started by the node's daemon (fathom-worker) with --channel-fd=3 and a "
        "channel there; not meant to be run by hand\n");
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  const fathom::RealClock clock;
  const absl::Status status =
      fathom::engine::RunRankSession(fathom::RankChannel::FromFd(fathom::kRankChannelFd), &clock);
  if (!status.ok()) std::fprintf(stderr, "fathom-rank: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
