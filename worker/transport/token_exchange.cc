#include "worker/transport/token_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

constexpr int kInFlight = 2;

std::string ChannelName(const std::string& lane) { return absl::StrCat("exchange.", lane); }

}  // namespace

std::vector<ChannelSpec> TokenExchange::Channels(const std::string& lane,
                                                 const std::vector<int>& ranks,
                                                 uint64_t max_message_bytes) {
  std::vector<ChannelSpec> channels;
  for (const int from : ranks) {
    for (const int to : ranks) {
      if (from == to) continue;
      channels.push_back({ChannelName(lane), from, to, kInFlight, max_message_bytes});
    }
  }
  return channels;
}

TokenExchange::TokenExchange(const std::string& lane, std::vector<int> ranks, int self,
                             ChannelSet* channels)
    : lane_(lane), ranks_(std::move(ranks)) {
  const auto at = std::find(ranks_.begin(), ranks_.end(), self);
  FATHOM_CHECK(at != ranks_.end()) << "rank " << self << " is not in exchange " << lane;
  index_ = static_cast<int>(at - ranks_.begin());
  for (const int rank : ranks_) {
    to_.push_back(rank == self ? nullptr : channels->sender(ChannelName(lane), rank));
    from_.push_back(rank == self ? nullptr : channels->receiver(ChannelName(lane), rank));
  }
}

absl::Status TokenExchange::Post(absl::Span<const absl::Span<const std::byte>> messages) {
  FATHOM_CHECK(messages.size() == ranks_.size()) << messages.size() << " for " << ranks_.size();
  FATHOM_CHECK(own_.size() < kInFlight) << lane_ << ": two exchanges are in flight already";
  own_.emplace_back(messages[index_].begin(), messages[index_].end());
  // Each begins with the next member, so that not all send to the first one at once.
  for (int step = 1; step < size(); ++step) {
    const int to = (index_ + step) % size();
    FATHOM_RETURN_IF_ERROR(to_[to]->Send(messages[to]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::Span<const std::byte>>> TokenExchange::Receive() {
  FATHOM_CHECK(own_received_ < own_.size()) << lane_ << ": nothing was posted";
  std::vector<absl::Span<const std::byte>> messages(ranks_.size());
  messages[index_] = own_[own_received_];
  for (int from = 0; from < size(); ++from) {
    if (from == index_) continue;
    FATHOM_ASSIGN_OR_RETURN(messages[from], from_[from]->Receive());
  }
  ++own_received_;
  return messages;
}

absl::Status TokenExchange::Release() {
  FATHOM_CHECK(own_received_ > 0) << lane_ << ": nothing was received";
  own_.pop_front();
  --own_received_;
  for (ChannelReceiver* from : from_) {
    if (from != nullptr) FATHOM_RETURN_IF_ERROR(from->Release());
  }
  return absl::OkStatus();
}

}  // namespace fathom::transport
