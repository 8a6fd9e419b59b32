// model: what a job's model is, as numbers: parameters, operations, bytes, and every tensor with
// its owners. Needs no coordinator.
#ifndef FATHOM_CLI_MODEL_VERB_H_
#define FATHOM_CLI_MODEL_VERB_H_

#include "absl/status/status.h"
#include "cli/options.h"
#include "cli/session.h"

namespace fathom::cli {

// As LoadJobFile and plan::ResolveJob: NOT_FOUND, INVALID_ARGUMENT with file, line and field.
absl::Status RunModel(const ModelOptions& options, Session& session);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_MODEL_VERB_H_
