// Commands about nodes: drain, undrain, cordon, preflight.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {}  // namespace fathom
