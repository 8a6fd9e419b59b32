// The model's expert exchange over the transport's token exchange, with the time spent waiting for
// tokens metered.
#ifndef FATHOM_WORKER_ENGINE_EXCHANGE_ADAPTER_H_
#define FATHOM_WORKER_ENGINE_EXCHANGE_ADAPTER_H_

#include <string>
#include <vector>

#include "worker/engine/step_meter.h"
#include "worker/model/expert_exchange.h"
#include "worker/transport/token_exchange.h"

namespace fathom::engine {

// Name of a stage's lane, under which its channels stand in the layout. A rank's two stages have
// lanes of their own, so that a forward of one and a backward of the other never share a queue.
std::string LaneName(int stage, model::Lane lane);

class ExchangeAdapter : public model::ExpertExchange {
 public:
  ExchangeAdapter(int stage, const std::vector<int>& ranks, int self,
                  transport::ChannelSet* channels, StepMeter* meter);

  int size() const override { return lanes_[0].size(); }
  int index() const override { return lanes_[0].index(); }
  absl::Status Post(model::Lane lane,
                    absl::Span<const absl::Span<const std::byte>> messages) override;
  absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive(model::Lane lane) override;
  absl::Status Release(model::Lane lane) override;

 private:
  std::vector<transport::TokenExchange> lanes_;  // by model::Lane
  StepMeter* meter_;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_EXCHANGE_ADAPTER_H_
