// Finds weights that changed in memory, before the next state is committed.
//
// After every gather a rank hashes the weights it holds. Right before the next commit it hashes
// them again: a difference means that its memory changed under it. Ranks that hold the same weights
// (mirrors and replicas of the same expert rank) also compare their hashes; where three or more
// hold them, those in the minority are named. The hashes travel in a sum that the ranks form
// anyway.
#ifndef FATHOM_WORKER_ENGINE_WEIGHTS_CHECK_H_
#define FATHOM_WORKER_ENGINE_WEIGHTS_CHECK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/engine/rank_parts.h"

namespace fathom::engine {

inline constexpr absl::string_view kCorruption = "CORRUPTION: ";

class WeightsCheck {
 public:
  // Off where the job's spec says so: then all of this does nothing.
  explicit WeightsCheck(RankParts* parts);

  // The weights are now those after `step`.
  void Remember(int64_t step);
  uint64_t hash() const { return hash_; }  // 0: not computed

  // Places that this check needs in the sum over the dense group, and what this rank puts there.
  size_t places() const;
  void Fill(absl::Span<double> places) const;

  // Hashes again, and reads the others' hashes from the sum.
  void Examine(absl::Span<const double> sums);
  bool found() const { return !finding_.empty(); }

  // Once any rank of the world has found something: all tell each other what, and end in an error.
  // INTERNAL on the rank whose memory it is, as far as that is known; ABORTED on the others. The
  // message begins with kCorruption.
  absl::Status Conclude();

 private:
  void CompareWithHolders(absl::Span<const double> sums);

  // Constant.
  RankParts* const parts_;
  const bool enabled_;

  int64_t step_ = 0;
  uint64_t hash_ = 0;
  std::string finding_;
  bool own_fault_ = false;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_WEIGHTS_CHECK_H_
