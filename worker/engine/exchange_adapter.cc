#include "worker/engine/exchange_adapter.h"

#include "absl/strings/str_cat.h"

namespace fathom::engine {

std::string LaneName(int stage, model::Lane lane) {
  static constexpr const char* kNames[model::kLanes] = {"dispatch.forward", "combine.forward",
                                                        "dispatch.backward", "combine.backward"};
  return absl::StrCat("stage", stage, ".", kNames[static_cast<int>(lane)]);
}

ExchangeAdapter::ExchangeAdapter(int stage, const std::vector<int>& ranks, int self,
                                 transport::ChannelSet* channels, StepMeter* meter)
    : meter_(meter) {
  for (int lane = 0; lane < model::kLanes; ++lane) {
    lanes_.emplace_back(LaneName(stage, static_cast<model::Lane>(lane)), ranks, self, channels);
  }
}

absl::Status ExchangeAdapter::Post(model::Lane lane,
                                   absl::Span<const absl::Span<const std::byte>> messages) {
  return lanes_[static_cast<int>(lane)].Post(messages);
}

absl::StatusOr<std::vector<absl::Span<const std::byte>>> ExchangeAdapter::Receive(
    model::Lane lane) {
  StepMeter::Scope scope(meter_, Part::kWait);
  return lanes_[static_cast<int>(lane)].Receive();
}

absl::Status ExchangeAdapter::Release(model::Lane lane) {
  return lanes_[static_cast<int>(lane)].Release();
}

}  // namespace fathom::engine
