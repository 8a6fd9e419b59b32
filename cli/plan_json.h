// A prediction as data, for JSON and YAML: every field there, zero or not, numbers as numbers.
#ifndef FATHOM_CLI_PLAN_JSON_H_
#define FATHOM_CLI_PLAN_JSON_H_

#include "cli/value.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// The message's fields by their names, and those of the messages within.
Value PlanValue(const v1::Prediction& prediction);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PLAN_JSON_H_
