// How a MoE layer reaches the other ranks of its expert group: an all-to-all of byte messages,
// posted without waiting and received later, on one lane per direction of travel. The engine
// supplies the implementation over its transport; LocalExchange serves a group of one rank.
#ifndef FATHOM_WORKER_MODEL_EXPERT_EXCHANGE_H_
#define FATHOM_WORKER_MODEL_EXPERT_EXCHANGE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace fathom::model {

enum class Lane : uint8_t {
  kDispatchForward,
  kCombineForward,
  kDispatchBackward,
  kCombineBackward
};
inline constexpr int kLanes = 4;

class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  virtual int size() const = 0;   // ranks of the expert group
  virtual int index() const = 0;  // this rank's expert rank

  // messages[i] goes to expert rank i (also to this one); bytes may be reused on return. At most
  // two exchanges of a lane may be in flight.
  virtual absl::Status Post(Lane lane, absl::Span<const absl::Span<const std::byte>> messages) = 0;

  // One message from every expert rank, of the lane's oldest exchange; valid until Release.
  virtual absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive(Lane lane) = 0;
  virtual absl::Status Release(Lane lane) = 0;
};

// An expert group of one.
class LocalExchange : public ExpertExchange {
 public:
  int size() const override { return 1; }
  int index() const override { return 0; }
  absl::Status Post(Lane lane, absl::Span<const absl::Span<const std::byte>> messages) override;
  absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive(Lane lane) override;
  absl::Status Release(Lane lane) override;

 private:
  std::deque<std::vector<std::byte>> lanes_[kLanes];
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_EXPERT_EXCHANGE_H_
