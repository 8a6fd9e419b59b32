#include "worker/calibration/message_probe.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/hash.h"
#include "common/base/status_util.h"
#include "worker/calibration/core_clock.h"
#include "worker/calibration/op_fit.h"
#include "worker/transport/channel.h"
#include "worker/transport/channel_layout.h"
#include "worker/transport/collectives.h"
#include "worker/transport/rendezvous.h"

namespace fathom::calibration {
namespace {

using transport::ChannelSet;

constexpr uint64_t kLargeBytes = uint64_t{256} << 10;
constexpr int kLargeMessages = 192;  // 48 MiB: state comes from memory, not from caches
constexpr int kLargeSlots = 32;
constexpr int kSmallMessages = 2000;
constexpr int kPausedMessages = 100;
constexpr absl::Duration kPause = absl::Microseconds(300);
constexpr int kRounds = 3;  // the best counts: less was in its way
constexpr size_t kReduceElements = size_t{4} << 20;
constexpr size_t kHashBytes = size_t{16} << 20;

// Two ranks that have met.
struct RankPair {
  transport::ChannelLayout layout;
  std::unique_ptr<transport::Window> windows[2];
  std::unique_ptr<ChannelSet> channels[2];
};

using RankBody = std::function<absl::Status(ChannelSet* channels)>;

absl::Status RunBoth(const RankBody& zero, const RankBody& one, RankPair* pair) {
  absl::Status statuses[2];
  std::thread other([&] { statuses[1] = one(pair->channels[1].get()); });
  statuses[0] = zero(pair->channels[0].get());
  other.join();
  FATHOM_RETURN_IF_ERROR(WithContext(statuses[0], "rank 0"));
  return WithContext(statuses[1], "rank 1");
}

absl::StatusOr<RankPair> Meet(Wire wire) {
  RankPair pair;
  std::vector<transport::ChannelSpec> specs = {{"probe", 0, 1, kLargeSlots, kLargeBytes},
                                               {"probe", 1, 0, kLargeSlots, kLargeBytes}};
  for (transport::ChannelSpec& spec : transport::Group::Channels("probe", {0, 1}, kLargeBytes)) {
    specs.push_back(std::move(spec));
  }
  FATHOM_ASSIGN_OR_RETURN(pair.layout, transport::LayOutChannels(2, std::move(specs)));
  std::vector<std::unique_ptr<transport::Rendezvous>> listeners;
  std::vector<transport::PeerAddress> peers;
  for (int rank = 0; rank < 2; ++rank) {
    FATHOM_ASSIGN_OR_RETURN(auto listener, transport::Rendezvous::Listen("127.0.0.1"));
    const std::string node = wire == Wire::kTcp && rank == 1 ? "other" : "node";
    peers.push_back({rank, node, listener->endpoint()});
    listeners.push_back(std::move(listener));
  }
  absl::Status statuses[2];
  const auto connect = [&](int rank) {
    transport::RendezvousOptions options;
    options.job = "probe";
    options.epoch = 1;
    options.rank = rank;
    options.node = peers[rank].node;
    options.window_bytes = pair.layout.window_bytes[rank];
    options.signal_count = pair.layout.signal_count[rank];
    auto window = listeners[rank]->Connect(options, peers);
    statuses[rank] = window.status();
    if (window.ok()) pair.windows[rank] = *std::move(window);
  };
  std::thread other([&] { connect(1); });
  connect(0);
  other.join();
  for (int rank = 0; rank < 2; ++rank) {
    FATHOM_RETURN_IF_ERROR(WithContext(statuses[rank], "probing messages"));
    pair.channels[rank] = std::make_unique<ChannelSet>(pair.windows[rank].get(), pair.layout);
  }
  return pair;
}

absl::Status Take(ChannelSet* channels, int from) {
  FATHOM_RETURN_IF_ERROR(channels->receiver("probe", from)->Receive().status());
  return channels->receiver("probe", from)->Release();
}

absl::Status PingPong(RankPair* pair) {
  const std::byte message[8] = {};
  const auto body = [&](int self) {
    return [&message, self](ChannelSet* channels) -> absl::Status {
      for (int i = 0; i < kSmallMessages; ++i) {
        if (self == i % 2) {
          FATHOM_RETURN_IF_ERROR(channels->sender("probe", 1 - self)->Send(message));
        } else {
          FATHOM_RETURN_IF_ERROR(Take(channels, 1 - self));
        }
      }
      return absl::OkStatus();
    };
  };
  return RunBoth(body(0), body(1), pair);
}

// Each rank works for a while before it sends, so that the other one's core has gone to sleep:
// seconds from sending to going on, the median.
absl::StatusOr<double> PausedSeconds(const Clock* clock, RankPair* pair) {
  std::vector<double> delays[2];  // by receiver
  const auto body = [&](int self) {
    return [&delays, clock, self](ChannelSet* channels) -> absl::Status {
      for (int i = 0; i < kPausedMessages; ++i) {
        if (self == i % 2) {
          const absl::Duration start = clock->Steady();
          while (clock->Steady() - start < kPause) {
          }
          const int64_t sent = absl::ToInt64Nanoseconds(clock->Steady());
          FATHOM_RETURN_IF_ERROR(
              channels->sender("probe", 1 - self)
                  ->Send({reinterpret_cast<const std::byte*>(&sent), sizeof(sent)}));
        } else {
          transport::ChannelReceiver* from = channels->receiver("probe", 1 - self);
          FATHOM_ASSIGN_OR_RETURN(const absl::Span<const std::byte> message, from->Receive());
          const absl::Duration now = clock->Steady();
          int64_t sent = 0;
          std::memcpy(&sent, message.data(), sizeof(sent));
          delays[self].push_back(absl::ToDoubleSeconds(now - absl::Nanoseconds(sent)));
          FATHOM_RETURN_IF_ERROR(from->Release());
        }
      }
      return absl::OkStatus();
    };
  };
  FATHOM_RETURN_IF_ERROR(RunBoth(body(0), body(1), pair));
  delays[0].insert(delays[0].end(), delays[1].begin(), delays[1].end());
  return Median(std::move(delays[0]));
}

absl::Status Stream(absl::Span<const std::byte> state, RankPair* pair) {
  return RunBoth(
      [&](ChannelSet* channels) -> absl::Status {
        for (int i = 0; i < kLargeMessages; ++i) {
          FATHOM_RETURN_IF_ERROR(
              channels->sender("probe", 1)->Send(state.subspan(i * kLargeBytes, kLargeBytes)));
        }
        return absl::OkStatus();
      },
      [&](ChannelSet* channels) -> absl::Status {
        for (int i = 0; i < kLargeMessages; ++i) FATHOM_RETURN_IF_ERROR(Take(channels, 0));
        return absl::OkStatus();
      },
      pair);
}

// `all`: each rank's gradients.
absl::Status SumOnce(RankPair* pair, std::vector<float>* all) {
  const auto body = [&](int self) {
    return [self, all](ChannelSet* channels) -> absl::Status {
      transport::Group group("probe", {0, 1}, self, channels);
      std::vector<float>& gradients = all[self];
      const std::vector<transport::Range> parts = transport::PartitionEvenly(kReduceElements, 2);
      const transport::Range own = parts[self];
      const absl::Span<float> out = {gradients.data() + own.begin, static_cast<size_t>(own.size())};
      for (int i = 0; i < kRounds; ++i) {
        FATHOM_RETURN_IF_ERROR(group.ReduceScatter(gradients, parts, out));
      }
      return absl::OkStatus();
    };
  };
  return RunBoth(body(0), body(1), pair);
}

}  // namespace

absl::StatusOr<MessageTimes> ProbeMessages(Wire wire, const Clock* clock) {
  FATHOM_ASSIGN_OR_RETURN(RankPair pair, Meet(wire));
  const std::vector<std::byte> state(kLargeMessages * kLargeBytes, std::byte{1});
  FATHOM_RETURN_IF_ERROR(PingPong(&pair));  // warm
  FATHOM_RETURN_IF_ERROR(Stream(state, &pair));
  MessageTimes best = {1, 1, 0};
  for (int round = 0; round < kRounds; ++round) {
    double core = ProcessCoreSeconds();
    FATHOM_RETURN_IF_ERROR(PingPong(&pair));
    const double each = (ProcessCoreSeconds() - core) / kSmallMessages;
    best.seconds_per_message = std::min(best.seconds_per_message, each);
    core = ProcessCoreSeconds();
    FATHOM_RETURN_IF_ERROR(Stream(state, &pair));
    const double stream = ProcessCoreSeconds() - core - kLargeMessages * best.seconds_per_message;
    best.seconds_per_byte = std::min(
        best.seconds_per_byte, std::max(0.0, stream) / (kLargeMessages * double{kLargeBytes}));
  }
  FATHOM_ASSIGN_OR_RETURN(const double paused, PausedSeconds(clock, &pair));
  best.latency_seconds = std::max(0.0, paused - best.seconds_per_message);
  return best;
}

absl::StatusOr<double> ProbeReduce(const MessageTimes& shm) {
  FATHOM_ASSIGN_OR_RETURN(RankPair pair, Meet(Wire::kShm));
  std::vector<float> gradients[2];
  for (std::vector<float>& own : gradients) own.assign(kReduceElements, 1.0f);
  FATHOM_RETURN_IF_ERROR(SumOnce(&pair, gradients));  // warm
  double best = std::numeric_limits<double>::max();
  for (int round = 0; round < kRounds; ++round) {
    const double core = ProcessCoreSeconds();
    FATHOM_RETURN_IF_ERROR(SumOnce(&pair, gradients));
    best = std::min(best, (ProcessCoreSeconds() - core) / kRounds);
  }
  // Each of the two sends the other's half and adds what comes to its own.
  const double bytes = static_cast<double>(kReduceElements) * sizeof(float);
  const double messages = bytes / static_cast<double>(kLargeBytes);
  return std::max(0.0, best - bytes * shm.seconds_per_byte - messages * shm.seconds_per_message) /
         bytes;
}

double ProbeHash(const Clock* clock) {
  const std::vector<std::byte> state(kHashBytes, std::byte{1});
  uint64_t hash = 0;
  double best = std::numeric_limits<double>::max();
  for (int round = 0; round < kRounds; ++round) {
    const absl::Duration start = clock->Steady();
    for (size_t at = 0; at < kHashBytes; at += kLargeBytes) {
      hash = Xxh64(state.data() + at, kLargeBytes, hash);
    }
    best = std::min(best, absl::ToDoubleSeconds(clock->Steady() - start));
  }
  // The hash is used, so that it is computed.
  return hash == 0 ? 0 : best / static_cast<double>(kHashBytes);
}

double ProbeClock(const Clock* clock) {
  constexpr int kReadings = 10000;
  const absl::Duration start = clock->Steady();
  for (int i = 0; i < kReadings; ++i) (void)clock->Steady();
  return absl::ToDoubleSeconds(clock->Steady() - start) / kReadings;
}

}  // namespace fathom::calibration
