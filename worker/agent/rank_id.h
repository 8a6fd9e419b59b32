// One rank process for ever: a job's rank in one epoch is started at most once, so this names it.
#ifndef FATHOM_WORKER_AGENT_RANK_ID_H_
#define FATHOM_WORKER_AGENT_RANK_ID_H_

#include <compare>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/ids.h"

namespace fathom {

struct RankId {
  JobId job;
  uint64_t epoch = 0;
  int32_t rank = 0;

  friend bool operator==(const RankId&, const RankId&) = default;
  friend auto operator<=>(const RankId&, const RankId&) = default;
};

// "tiny-7 epoch 2 rank 0"
std::string ToString(const RankId& id);

// Whether a job's id may name a folder: letters, digits, '-', '_' and '.', the first a letter or a
// digit, at most 128 bytes.
bool IsSafeJobId(absl::string_view id);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_RANK_ID_H_
