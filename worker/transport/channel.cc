#include "worker/transport/channel.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

std::string Name(const ChannelSpec& spec) {
  return absl::StrCat("channel ", spec.name, " from rank ", spec.from, " to ", spec.to);
}

uint64_t SlotOffset(const ChannelPlace& place, uint64_t message) {
  return place.ring_offset +
         message % static_cast<uint64_t>(place.spec.slots) * SlotStride(place.spec);
}

}  // namespace

ChannelSender::ChannelSender(Window* window, ChannelPlace place)
    : window_(window), place_(std::move(place)) {
  FATHOM_CHECK(place_.spec.from == window_->rank()) << Name(place_.spec);
}

absl::Status ChannelSender::Send(absl::Span<const std::byte> message) {
  return SendPieces({message});
}

absl::Status ChannelSender::SendPieces(absl::Span<const absl::Span<const std::byte>> pieces) {
  const ChannelSpec& spec = place_.spec;
  uint64_t bytes = 0;
  for (const absl::Span<const std::byte> piece : pieces) bytes += piece.size();
  if (bytes > spec.slot_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(Name(spec), ": a message of ", bytes,
                                                   " bytes; its slots hold ", spec.slot_bytes));
  }
  const uint64_t slots = static_cast<uint64_t>(spec.slots);
  const auto send = [&]() -> absl::Status {
    if (sent_ >= slots) {
      FATHOM_RETURN_IF_ERROR(window_->Wait(spec.to, place_.credit_signal, sent_ - slots + 1));
    }
    uint64_t at = SlotOffset(place_, sent_);
    FATHOM_RETURN_IF_ERROR(
        window_->Put(spec.to, at, {reinterpret_cast<const std::byte*>(&bytes), sizeof(bytes)}));
    at += kSlotHeaderBytes;
    for (const absl::Span<const std::byte> piece : pieces) {
      FATHOM_RETURN_IF_ERROR(window_->Put(spec.to, at, piece));
      at += piece.size();
    }
    return window_->Signal(spec.to, place_.arrived_signal);
  };
  const absl::Status sent = send();
  if (!sent.ok()) return WithContext(sent, Name(spec));
  ++sent_;
  return absl::OkStatus();
}

absl::StatusOr<bool> ChannelSender::Ready() {
  const uint64_t slots = static_cast<uint64_t>(place_.spec.slots);
  if (sent_ < slots) return true;
  absl::StatusOr<bool> ready =
      window_->Poll(place_.spec.to, place_.credit_signal, sent_ - slots + 1);
  if (!ready.ok()) return WithContext(ready.status(), Name(place_.spec));
  return ready;
}

ChannelReceiver::ChannelReceiver(Window* window, ChannelPlace place)
    : window_(window), place_(std::move(place)) {
  FATHOM_CHECK(place_.spec.to == window_->rank()) << Name(place_.spec);
}

absl::StatusOr<absl::Span<const std::byte>> ChannelReceiver::Receive() {
  const ChannelSpec& spec = place_.spec;
  FATHOM_CHECK(received_ - released_ < static_cast<uint64_t>(spec.slots))
      << Name(spec) << ": all slots are held";
  const absl::Status arrived = window_->Wait(spec.from, place_.arrived_signal, received_ + 1);
  if (!arrived.ok()) return WithContext(arrived, Name(spec));
  const std::byte* slot = window_->local().data() + SlotOffset(place_, received_);
  uint64_t bytes = 0;
  std::memcpy(&bytes, slot, sizeof(bytes));
  if (bytes > spec.slot_bytes) {
    return absl::DataLossError(absl::StrCat(Name(spec), ": the sender wrote a length of ", bytes,
                                            " into a slot of ", spec.slot_bytes));
  }
  ++received_;
  return absl::Span<const std::byte>(slot + kSlotHeaderBytes, bytes);
}

absl::StatusOr<bool> ChannelReceiver::Ready() {
  absl::StatusOr<bool> ready =
      window_->Poll(place_.spec.from, place_.arrived_signal, received_ + 1);
  if (!ready.ok()) return WithContext(ready.status(), Name(place_.spec));
  return ready;
}

absl::Status ChannelReceiver::Release() {
  FATHOM_CHECK(released_ < received_) << Name(place_.spec) << ": no slot is held";
  ++released_;
  return WithContext(window_->Signal(place_.spec.from, place_.credit_signal), Name(place_.spec));
}

ChannelSet::ChannelSet(Window* window, const ChannelLayout& layout) {
  for (const ChannelPlace& place : layout.channels) {
    if (place.spec.from == window->rank()) {
      senders_[{place.spec.name, place.spec.to}] = std::make_unique<ChannelSender>(window, place);
    }
    if (place.spec.to == window->rank()) {
      receivers_[{place.spec.name, place.spec.from}] =
          std::make_unique<ChannelReceiver>(window, place);
    }
  }
}

ChannelSender* ChannelSet::sender(const std::string& name, int to) {
  const auto found = senders_.find({name, to});
  FATHOM_CHECK(found != senders_.end()) << "no channel " << name << " to rank " << to;
  return found->second.get();
}

ChannelReceiver* ChannelSet::receiver(const std::string& name, int from) {
  const auto found = receivers_.find({name, from});
  FATHOM_CHECK(found != receivers_.end()) << "no channel " << name << " from rank " << from;
  return found->second.get();
}

}  // namespace fathom::transport
