// data prepare, info and verify.
#ifndef FATHOM_CLI_DATA_VERBS_H_
#define FATHOM_CLI_DATA_VERBS_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// PrepareTokenFile's codes. FAILED_PRECONDITION: the output exists and is no token file.
absl::Status RunDataPrepare(const DataOptions& options, Session& session);

// TokenFile::Open's codes, and Verify's.
absl::Status RunDataInfo(const DataOptions& options, Session& session);
absl::Status RunDataVerify(const DataOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_DATA_VERBS_H_
