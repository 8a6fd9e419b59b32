// A prediction as a page that people read: what the job costs, how it is laid out, where memory and
// time go, what limits it, what it survives, and what was taken for granted.
#ifndef FATHOM_CLI_PLAN_PAGE_H_
#define FATHOM_CLI_PLAN_PAGE_H_

#include <string>

#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::cli {

// At most kPageColumns wide where names allow it. `wide`: the times of every stage as well.
std::string PlanPage(const v1::Prediction& prediction, bool wide = false);

// "pipeline 16 × experts over 64 × 2 replicas, dualpipe, 120 micro-batches of 1 sequence, ...".
std::string LayoutText(const v1::PredictedLayout& layout);

// What survives the loss of what, in lines indented by two.
std::string SurvivabilityText(const v1::Survivability& survivability);

// One paragraph each, the greatest first.
std::string AssumptionsText(const google::protobuf::RepeatedPtrField<v1::Assumption>& assumptions);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PLAN_PAGE_H_
