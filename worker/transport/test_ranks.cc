#include "worker/transport/test_ranks.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "gtest/gtest.h"

namespace fathom::transport {
namespace {

std::vector<PeerAddress> Table(const Placement& placement,
                               const std::vector<std::string>& endpoints) {
  std::vector<PeerAddress> peers;
  for (int rank = 0; rank < placement.ranks(); ++rank) {
    peers.push_back({rank, placement.nodes[rank], endpoints[rank]});
  }
  return peers;
}

std::vector<std::unique_ptr<Rendezvous>> ListenAll(int ranks, std::vector<std::string>* endpoints) {
  std::vector<std::unique_ptr<Rendezvous>> all;
  for (int rank = 0; rank < ranks; ++rank) {
    auto listening = Rendezvous::Listen("127.0.0.1");
    FATHOM_CHECK(listening.ok()) << listening.status().ToString();
    endpoints->push_back((*listening)->endpoint());
    all.push_back(*std::move(listening));
  }
  return all;
}

// Windows outlive the bodies of all ranks, so that no rank's end disturbs another's test.
void RunThreads(const Placement& placement, const WindowSizes& sizes,
                const std::vector<std::unique_ptr<Rendezvous>>& listening,
                const std::vector<PeerAddress>& peers,
                const std::function<void(Window& window)>& body, const WrapWindow& wrap) {
  std::vector<std::unique_ptr<Window>> windows(listening.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < listening.size(); ++rank) {
    threads.emplace_back([&, rank] {
      auto window = listening[rank]->Connect(OptionsOf(placement, sizes, rank), peers);
      ASSERT_TRUE(window.ok()) << window.status();
      windows[rank] = wrap == nullptr ? *std::move(window) : wrap(*std::move(window));
      body(*windows[rank]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  threads.clear();
  // Together: a closing window waits for its peers to take what it sent.
  for (auto& window : windows) {
    threads.emplace_back([&window] { window.reset(); });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Pipe {
  Pipe() {
    int ends[2];
    FATHOM_CHECK(pipe(ends) == 0);
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close(read_end);
    close(write_end);
  }
  void WriteLine(const std::string& line) const {
    const std::string text = line + "\n";
    FATHOM_CHECK(write(write_end, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  std::string ReadLine() const {
    std::string line;
    char c = 0;
    while (read(read_end, &c, 1) == 1 && c != '\n') line += c;
    return line;
  }
  int read_end;
  int write_end;
};

}  // namespace

Placement OneNode(int n) {
  return {absl::StrCat("OneNode", n), std::vector<std::string>(static_cast<size_t>(n), "a"), false};
}

Placement OwnNodes(int n) {
  Placement placement{absl::StrCat("OwnNodes", n), {}, false};
  for (int rank = 0; rank < n; ++rank) placement.nodes.push_back(absl::StrCat("node-", rank));
  return placement;
}

Placement TwoNodes(int n) {
  Placement placement{absl::StrCat("TwoNodes", n), {}, false};
  for (int rank = 0; rank < n; ++rank) placement.nodes.push_back(rank < n / 2 ? "a" : "b");
  return placement;
}

WindowSizes EqualSizes(int ranks, uint64_t window_bytes, uint32_t signal_count) {
  WindowSizes sizes;
  sizes.window_bytes.assign(static_cast<size_t>(ranks), window_bytes);
  sizes.signal_count.assign(static_cast<size_t>(ranks), signal_count);
  return sizes;
}

WindowSizes SizesOf(const ChannelLayout& layout) {
  WindowSizes sizes;
  sizes.window_bytes = layout.window_bytes;
  sizes.signal_count = layout.signal_count;
  return sizes;
}

RendezvousOptions OptionsOf(const Placement& placement, const WindowSizes& sizes, int rank) {
  RendezvousOptions options;
  options.job = "a-test";
  options.epoch = 7;
  options.rank = rank;
  options.node = placement.nodes[rank];
  options.window_bytes = sizes.window_bytes[rank];
  options.signal_count = sizes.signal_count[rank];
  options.wait_timeout = sizes.wait_timeout;
  options.force_tcp = placement.force_tcp;
  return options;
}

void RunRanks(const Placement& placement, const WindowSizes& sizes,
              const std::function<void(Window& window)>& body, const WrapWindow& wrap) {
  std::vector<std::string> endpoints;
  const auto listening = ListenAll(placement.ranks(), &endpoints);
  RunThreads(placement, sizes, listening, Table(placement, endpoints), body, wrap);
}

void RunRanksWithMortal(
    const Placement& placement, const WindowSizes& sizes,
    const std::function<void(Window& window)>& life,
    const std::function<void(Window& window, std::function<void()> kill)>& body) {
  const int mortal = placement.ranks() - 1;
  Pipe to_child;
  Pipe to_parent;
  const pid_t child = fork();
  FATHOM_CHECK(child >= 0);
  if (child == 0) {
    auto listening = Rendezvous::Listen("127.0.0.1");
    FATHOM_CHECK(listening.ok()) << listening.status().ToString();
    to_parent.WriteLine((*listening)->endpoint());
    const std::vector<std::string> endpoints = absl::StrSplit(to_child.ReadLine(), ' ');
    auto window =
        (*listening)->Connect(OptionsOf(placement, sizes, mortal), Table(placement, endpoints));
    FATHOM_CHECK(window.ok()) << window.status().ToString();
    life(**window);
    to_parent.WriteLine("lived");
    while (true) pause();
  }
  const std::string child_endpoint = to_parent.ReadLine();
  std::vector<std::string> endpoints;
  const auto listening = ListenAll(mortal, &endpoints);
  endpoints.push_back(child_endpoint);
  std::string line;
  for (const std::string& endpoint : endpoints)
    absl::StrAppend(&line, line.empty() ? "" : " ", endpoint);
  to_child.WriteLine(line);
  bool dead = false;
  const auto kill_child = [&] {
    EXPECT_EQ(to_parent.ReadLine(), "lived");
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    dead = true;
  };
  RunThreads(
      placement, sizes, listening, Table(placement, endpoints),
      [&](Window& window) { body(window, kill_child); }, nullptr);
  if (!dead) kill_child();
}

}  // namespace fathom::transport
