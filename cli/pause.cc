#include "cli/pause.h"

#include <poll.h>

#include <algorithm>
#include <climits>

namespace fathom::cli {

bool RealPause::For(absl::Duration duration) {
  const int64_t wait_ms = std::clamp<int64_t>(absl::ToInt64Milliseconds(duration), 0, INT_MAX);
  poll(nullptr, 0, static_cast<int>(wait_ms));
  return true;
}

}  // namespace fathom::cli
