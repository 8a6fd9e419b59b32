// How fast windows are, beside what they can't beat: a copy in memory, and a bare loopback socket.
//
//   bazel run //worker/transport:transport_bench
#include <poll.h>
#include <sys/socket.h>

#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "benchmark/benchmark.h"
#include "worker/transport/socket.h"
#include "worker/transport/test_ranks.h"

namespace fathom::transport {
namespace {

constexpr uint64_t kWindowBytes = 16 << 20;

// Two ranks, and a thread that answers every ping of rank 0 until it is told to stop.
class Pair {
 public:
  explicit Pair(const Placement& placement) {
    const WindowSizes sizes = EqualSizes(2, kWindowBytes, 2);
    std::vector<std::unique_ptr<Rendezvous>> listening;
    std::vector<PeerAddress> table;
    for (int rank = 0; rank < 2; ++rank) {
      listening.push_back(Rendezvous::Listen("127.0.0.1").value());
      table.push_back({rank, placement.nodes[rank], listening.back()->endpoint()});
    }
    auto one = std::async(std::launch::async, [&] {
      return listening[1]->Connect(OptionsOf(placement, sizes, 1), table).value();
    });
    ping_ = listening[0]->Connect(OptionsOf(placement, sizes, 0), table).value();
    pong_ = one.get();
  }
  ~Pair() {
    pong_->Abort(absl::CancelledError("done"));
    if (answerer_.joinable()) answerer_.join();
  }

  // Answers a signal with `bytes` and a signal.
  void AnswerWith(size_t bytes) {
    answerer_ = std::thread([this, bytes] {
      const std::vector<std::byte> answer(bytes);
      for (uint64_t i = 1; pong_->Wait(0, 0, i).ok(); ++i) {
        if (!pong_->Put(0, 0, answer).ok() || !pong_->Signal(0, 0).ok()) return;
      }
    });
  }
  Window& ping() { return *ping_; }

 private:
  std::unique_ptr<Window> ping_;
  std::unique_ptr<Window> pong_;
  std::thread answerer_;
};

void PingPong(benchmark::State& state, const Placement& placement) {
  const size_t bytes = static_cast<size_t>(state.range(0));
  Pair pair(placement);
  pair.AnswerWith(bytes);
  const std::vector<std::byte> message(bytes);
  uint64_t round = 0;
  for (auto _ : state) {
    const bool ok = pair.ping().Put(1, 0, message).ok() && pair.ping().Signal(1, 0).ok() &&
                    pair.ping().Wait(1, 0, ++round).ok();
    if (!ok) state.SkipWithError("the window failed");
  }
}

// Puts of a size with a signal each, and an answer per 16 MiB, which bounds what is under way.
void Bandwidth(benchmark::State& state, const Placement& placement) {
  const size_t bytes = static_cast<size_t>(state.range(0));
  const size_t puts = kWindowBytes / bytes;
  Pair pair(placement);
  pair.AnswerWith(0);
  const std::vector<std::byte> block(bytes);
  uint64_t round = 0;
  for (auto _ : state) {
    bool ok = true;
    for (size_t i = 0; i < puts; ++i) {
      ok = ok && pair.ping().Put(1, i * bytes, block).ok() && pair.ping().Signal(1, 1).ok();
    }
    ok = ok && pair.ping().Signal(1, 0).ok() && pair.ping().Wait(1, 0, ++round).ok();
    if (!ok) state.SkipWithError("the window failed");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * puts * bytes));
}

void MemcpyFloor(benchmark::State& state) {
  const size_t bytes = static_cast<size_t>(state.range(0));
  const std::vector<std::byte> from(bytes, std::byte{1});
  std::vector<std::byte> to(kWindowBytes);
  for (auto _ : state) {
    for (size_t i = 0; i < kWindowBytes / bytes; ++i) {
      std::memcpy(to.data() + i * bytes, from.data(), bytes);
      benchmark::ClobberMemory();
    }
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kWindowBytes));
}

// A blocking loopback connection without any of ours on it.
struct RawPair {
  RawPair() {
    const TcpListener listener = ListenTcp("127.0.0.1").value();
    ping = StartConnectTcp("127.0.0.1", listener.port).value();
    pollfd wait{listener.fd.get(), POLLIN, 0};
    poll(&wait, 1, 10'000);
    pong = AcceptOne(listener.fd).value();
    if (!TuneTcp(ping, absl::Minutes(1)).ok() || !TuneTcp(pong, absl::Minutes(1)).ok())
      std::abort();
  }
  // The whole of it, sleeping in poll where there's nothing.
  static bool Move(const Fd& fd, std::vector<char>* data, bool sending) {
    for (size_t done = 0; done < data->size();) {
      const ssize_t n = sending
                            ? send(fd.get(), data->data() + done, data->size() - done, MSG_NOSIGNAL)
                            : recv(fd.get(), data->data() + done, data->size() - done, 0);
      if (n == 0) return false;
      if (n < 0) {
        if (errno != EAGAIN) return false;
        pollfd wait{fd.get(), static_cast<int16_t>(sending ? POLLOUT : POLLIN), 0};
        poll(&wait, 1, 10'000);
        continue;
      }
      done += static_cast<size_t>(n);
    }
    return true;
  }
  Fd ping;
  Fd pong;
};

void SocketPingPongFloor(benchmark::State& state) {
  RawPair pair;
  std::vector<char> message(static_cast<size_t>(state.range(0)));
  std::thread answerer([&] {
    std::vector<char> answer(message.size());
    while (RawPair::Move(pair.pong, &answer, false)) RawPair::Move(pair.pong, &answer, true);
  });
  for (auto _ : state) {
    RawPair::Move(pair.ping, &message, true);
    RawPair::Move(pair.ping, &message, false);
  }
  shutdown(pair.ping.get(), SHUT_RDWR);
  answerer.join();
}

void SocketBandwidthFloor(benchmark::State& state) {
  RawPair pair;
  std::thread drain([&] {
    std::vector<char> block(1 << 20);
    std::vector<char> answer(1);
    while (true) {
      for (uint64_t got = 0; got < kWindowBytes; got += block.size()) {
        if (!RawPair::Move(pair.pong, &block, false)) return;
      }
      RawPair::Move(pair.pong, &answer, true);
    }
  });
  std::vector<char> block(kWindowBytes);
  std::vector<char> answer(1);
  for (auto _ : state) {
    RawPair::Move(pair.ping, &block, true);
    RawPair::Move(pair.ping, &answer, false);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kWindowBytes));
  shutdown(pair.ping.get(), SHUT_RDWR);
  drain.join();
}

BENCHMARK_CAPTURE(PingPong, shm, OneNode(2))->Arg(8)->Arg(4096)->UseRealTime();
BENCHMARK_CAPTURE(PingPong, tcp, OwnNodes(2))->Arg(8)->Arg(4096)->UseRealTime();
BENCHMARK(SocketPingPongFloor)->Arg(8)->Arg(4096)->UseRealTime();
BENCHMARK_CAPTURE(Bandwidth, shm, OneNode(2))->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK(MemcpyFloor)->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK_CAPTURE(Bandwidth, tcp, OwnNodes(2))->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK(SocketBandwidthFloor)->UseRealTime();

}  // namespace
}  // namespace fathom::transport

BENCHMARK_MAIN();
