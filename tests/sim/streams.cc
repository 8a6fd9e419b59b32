#include "tests/sim/streams.h"

#include <utility>

namespace fathom::sim {
namespace {

constexpr int64_t kRetryUs = 100 * kMs;
constexpr int64_t kKeepaliveUs = 1500 * kMs;
constexpr size_t kWindow = 64;

}  // namespace

Streams::Stream* Streams::Find(StreamId id) {
  const auto found = streams_.find(id);
  return found == streams_.end() ? nullptr : &found->second;
}

StreamId Streams::Open(Place node) {
  if (!ends_.coordinator_is_up() || !network_->BothWays(node, kCoordinator)) return 0;
  const StreamId id = ++last_id_;
  Stream& stream = streams_[id];
  stream.id = id;
  stream.node = node;
  return id;
}

void Streams::SendReport(StreamId id, ReportPtr report) {
  Stream* stream = Find(id);
  if (stream == nullptr || !stream->node_end) return;
  // As with flow control: a write that waits is replaced by what is newer.
  if (stream->up.size() >= kWindow) stream->up.pop_back();
  stream->up.push_back(std::move(report));
  PumpUp(id);
}

void Streams::SendDesired(StreamId id, WishedState wished) {
  Stream* stream = Find(id);
  if (stream == nullptr || !stream->coordinator_end) return;
  if (stream->down.size() > 1) stream->down.pop_back();
  stream->down.push_back(std::move(wished));
  PumpDown(id);
}

void Streams::PumpUp(StreamId id) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->up_moves || stream->up.empty()) return;
  stream->up_moves = true;
  const bool open = network_->Open(stream->node, kCoordinator);
  queue_->After(open ? network_->DelayUs(stream->node, kCoordinator) : kRetryUs,
                [this, id] { MoveUp(id); });
}

void Streams::MoveUp(StreamId id) {
  Stream* stream = Find(id);
  if (stream == nullptr) return;
  stream->up_moves = false;
  if (stream->up.empty()) return;
  if (network_->Open(stream->node, kCoordinator) && ends_.coordinator_is_up()) {
    const ReportPtr report = std::move(stream->up.front());
    stream->up.pop_front();
    if (stream->coordinator_end) ends_.on_report(id, stream->node, report);
  }
  PumpUp(id);
}

void Streams::PumpDown(StreamId id) {
  Stream* stream = Find(id);
  if (stream == nullptr || stream->down_moves || stream->down.empty()) return;
  stream->down_moves = true;
  const bool open = network_->Open(kCoordinator, stream->node) && ends_.node_runs(stream->node);
  queue_->After(open ? network_->DelayUs(kCoordinator, stream->node) : kRetryUs,
                [this, id] { MoveDown(id); });
}

void Streams::MoveDown(StreamId id) {
  Stream* stream = Find(id);
  if (stream == nullptr) return;
  stream->down_moves = false;
  if (stream->down.empty()) return;
  if (network_->Open(kCoordinator, stream->node) && ends_.node_runs(stream->node)) {
    const WishedState wished = std::move(stream->down.front());
    stream->down.pop_front();
    if (stream->node_end) ends_.on_desired(stream->node, id, wished);
  }
  PumpDown(id);
}

void Streams::CloseNodeEnd(Stream& stream, bool refused, int64_t delay_us) {
  if (!stream.node_end) return;
  stream.node_end = false;
  stream.down.clear();
  queue_->After(delay_us, [this, node = stream.node, id = stream.id, refused] {
    ends_.on_lost(node, id, refused);
  });
}

void Streams::CloseCoordinatorEnd(Stream& stream, int64_t delay_us) {
  if (!stream.coordinator_end) return;
  stream.coordinator_end = false;
  // What had arrived already may still be in its queue, behind the next stream's first words.
  if (!stream.up.empty() && random_->Chance(30)) {
    queue_->After(delay_us + random_->Between(0, 300 * kMs),
                  [this, node = stream.node, id = stream.id, report = stream.up.front()] {
                    if (ends_.coordinator_is_up()) ends_.on_report(id, node, report);
                  });
  }
  stream.up.clear();
  queue_->After(delay_us,
                [this, node = stream.node, id = stream.id] { ends_.on_closed(id, node); });
}

void Streams::CloseByCoordinator(StreamId id, bool refused) {
  Stream* stream = Find(id);
  if (stream == nullptr) return;
  stream->coordinator_end = false;
  CloseNodeEnd(*stream, refused, network_->DelayUs(kCoordinator, stream->node));
}

void Streams::Reset(StreamId id) {
  Stream* stream = Find(id);
  if (stream == nullptr) return;
  CloseNodeEnd(*stream, false, random_->Between(0, 20 * kMs));
  CloseCoordinatorEnd(*stream, random_->Between(0, 20 * kMs));
}

void Streams::NodeDown(Place node) {
  for (auto& [id, stream] : streams_) {
    if (stream.node != node) continue;
    stream.node_end = false;
    stream.down.clear();
    CloseCoordinatorEnd(stream, random_->Between(0, kKeepaliveUs));
  }
}

void Streams::CoordinatorDown() {
  for (auto& [id, stream] : streams_) {
    stream.coordinator_end = false;
    stream.up.clear();
    CloseNodeEnd(stream, false, random_->Between(0, 50 * kMs));
  }
  streams_.clear();
}

void Streams::NetworkChanged() {
  for (const auto& [id, stream] : streams_) {
    if (network_->BothWays(stream.node, kCoordinator)) continue;
    queue_->After(kKeepaliveUs + random_->Between(0, 200 * kMs), [this, stream_id = id] {
      Stream* late = Find(stream_id);
      if (late == nullptr || network_->BothWays(late->node, kCoordinator)) return;
      CloseNodeEnd(*late, false, 0);
      CloseCoordinatorEnd(*late, random_->Between(0, 400 * kMs));
    });
  }
}

}  // namespace fathom::sim
