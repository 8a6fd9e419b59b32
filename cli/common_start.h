// Ranks measure a step from when each of them began it: here their times come onto one axis.
#ifndef FATHOM_CLI_COMMON_START_H_
#define FATHOM_CLI_COMMON_START_H_

#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// Every rank's times from the start of the rank that began first, by what their nodes' clocks say;
// all begin there then. Clocks that are further apart than the step is long say nothing, and are
// not followed.
v1::Timeline WithCommonStart(v1::Timeline timeline);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_COMMON_START_H_
