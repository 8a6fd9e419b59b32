#include "worker/model/expert_exchange.h"

#include "absl/strings/str_cat.h"

namespace fathom::model {

absl::Status LocalExchange::Post(Lane lane,
                                 absl::Span<const absl::Span<const std::byte>> messages) {
  if (messages.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("posting to an expert group of one: ", messages.size(), " messages"));
  }
  lanes_[static_cast<int>(lane)].emplace_back(messages[0].begin(), messages[0].end());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<absl::Span<const std::byte>>> LocalExchange::Receive(Lane lane) {
  const std::deque<std::vector<std::byte>>& queue = lanes_[static_cast<int>(lane)];
  if (queue.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("receiving on lane ", static_cast<int>(lane),
                     " of an expert group of one: nothing was posted"));
  }
  return std::vector<absl::Span<const std::byte>>{absl::MakeConstSpan(queue.front())};
}

absl::Status LocalExchange::Release(Lane lane) {
  std::deque<std::vector<std::byte>>& queue = lanes_[static_cast<int>(lane)];
  if (queue.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("releasing lane ", static_cast<int>(lane),
                                                      " of an expert group of one: it is empty"));
  }
  queue.pop_front();
  return absl::OkStatus();
}

}  // namespace fathom::model
