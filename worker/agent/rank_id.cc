#include "worker/agent/rank_id.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace fathom {
namespace {

// A job's name of at most kMaxNameBytes and a number behind it fit easily.
constexpr size_t kMaxJobIdBytes = 128;

}  // namespace

std::string ToString(const RankId& id) {
  return absl::StrCat(id.job.value(), " epoch ", id.epoch, " rank ", id.rank);
}

bool IsSafeJobId(absl::string_view id) {
  if (id.empty() || id.size() > kMaxJobIdBytes || !absl::ascii_isalnum(id[0])) return false;
  return std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
  });
}

}  // namespace fathom
