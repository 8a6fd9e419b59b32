// Ranks for tests: threads of one process, or a forked process that can be killed, that meet
// through the real rendezvous as if they sat on the nodes they're told to sit on.
#ifndef FATHOM_WORKER_TRANSPORT_TEST_RANKS_H_
#define FATHOM_WORKER_TRANSPORT_TEST_RANKS_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "worker/transport/channel_layout.h"
#include "worker/transport/rendezvous.h"
#include "worker/transport/window.h"

namespace fathom::transport {

// Where the ranks of a test sit: nodes[rank]. Ranks of one node share memory unless force_tcp.
struct Placement {
  std::string name;
  std::vector<std::string> nodes;
  bool force_tcp = false;

  int ranks() const { return static_cast<int>(nodes.size()); }
};

// n ranks on one node; n ranks on n nodes; n ranks on two nodes.
Placement OneNode(int n);
Placement OwnNodes(int n);
Placement TwoNodes(int n);

struct WindowSizes {
  std::vector<uint64_t> window_bytes;  // per rank
  std::vector<uint32_t> signal_count;  // per rank
  absl::Duration wait_timeout = absl::Seconds(60);
};

// The same for every rank.
WindowSizes EqualSizes(int ranks, uint64_t window_bytes, uint32_t signal_count);

// As a layout wants them.
WindowSizes SizesOf(const ChannelLayout& layout);

// The options of one rank of a placement.
RendezvousOptions OptionsOf(const Placement& placement, const WindowSizes& sizes, int rank);

// Runs the body once per rank, each on its own thread with its window, and closes the windows when
// all are done. A rank that fails to connect is a test failure, and its body isn't run.
// With `wrap`, what it makes of the window takes the window's place.
using WrapWindow = std::function<std::unique_ptr<Window>(std::unique_ptr<Window>)>;
void RunRanks(const Placement& placement, const WindowSizes& sizes,
              const std::function<void(Window& window)>& body, const WrapWindow& wrap = nullptr);

// The last rank of the placement as a process of its own: it connects, runs `life`, says that it
// has, and then only waits to be killed. The others run `body` as threads of this process, each
// with a function that kills that process and returns when it's dead, which may be called from one
// of them. To be called while this process has one thread.
void RunRanksWithMortal(
    const Placement& placement, const WindowSizes& sizes,
    const std::function<void(Window& window)>& life,
    const std::function<void(Window& window, std::function<void()> kill)>& body);

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_TEST_RANKS_H_
