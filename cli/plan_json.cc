#include "cli/plan_json.h"

namespace fathom::cli {

Value PlanValue(const v1::Prediction& prediction) { return ValueOf(prediction, Fields::kAll); }

}  // namespace fathom::cli
