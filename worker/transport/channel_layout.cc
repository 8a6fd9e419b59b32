#include "worker/transport/channel_layout.h"

#include <limits>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::transport {
namespace {

constexpr uint64_t kAlignBytes = 64;
// Of one rank's rings together: far beyond any machine, far from overflow.
constexpr uint64_t kWindowBytesMax = uint64_t{1} << 48;

}  // namespace

uint64_t SlotStride(const ChannelSpec& spec) {
  return kSlotHeaderBytes + (spec.slot_bytes + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
}

absl::StatusOr<ChannelLayout> LayOutChannels(int ranks, std::vector<ChannelSpec> channels) {
  if (ranks < 1) return absl::InvalidArgumentError(absl::StrCat("a job of ", ranks, " ranks"));
  ChannelLayout layout;
  layout.window_bytes.assign(static_cast<size_t>(ranks), 0);
  layout.signal_count.assign(static_cast<size_t>(ranks), 0);
  layout.channels.reserve(channels.size());
  std::set<std::tuple<std::string, int, int>> seen;
  for (ChannelSpec& spec : channels) {
    const auto wrong = [&](const auto&... what) {
      return absl::InvalidArgumentError(absl::StrCat("channel ", spec.name, " from rank ",
                                                     spec.from, " to ", spec.to, ": ", what...));
    };
    if (spec.from < 0 || spec.from >= ranks || spec.to < 0 || spec.to >= ranks) {
      return wrong("the job has ", ranks, " ranks");
    }
    if (spec.from == spec.to) return wrong("a rank has no channel to itself");
    if (spec.slots < 1) return wrong("it has ", spec.slots, " slots");
    if (!seen.emplace(spec.name, spec.from, spec.to).second) return wrong("it is listed twice");
    uint64_t& window_bytes = layout.window_bytes[spec.to];
    if (spec.slot_bytes > kWindowBytesMax ||
        SlotStride(spec) > (kWindowBytesMax - window_bytes) / static_cast<uint64_t>(spec.slots)) {
      return wrong(spec.slots, " slots of ", spec.slot_bytes, " bytes make rank ", spec.to,
                   "'s window larger than ", kWindowBytesMax);
    }
    if (layout.signal_count[spec.to] == std::numeric_limits<uint32_t>::max() ||
        layout.signal_count[spec.from] == std::numeric_limits<uint32_t>::max()) {
      return wrong("there are too many channels");
    }
    ChannelPlace place;
    place.ring_offset = window_bytes;
    place.arrived_signal = layout.signal_count[spec.to]++;
    place.credit_signal = layout.signal_count[spec.from]++;
    window_bytes += SlotStride(spec) * static_cast<uint64_t>(spec.slots);
    place.spec = std::move(spec);
    layout.channels.push_back(std::move(place));
  }
  return layout;
}

}  // namespace fathom::transport
