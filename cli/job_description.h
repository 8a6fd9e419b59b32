// Everything about one job: its spec, its plan, its ranks, and the story of its epochs.
#ifndef FATHOM_CLI_JOB_DESCRIPTION_H_
#define FATHOM_CLI_JOB_DESCRIPTION_H_

#include <string>
#include <vector>

#include "cli/value.h"
#include "proto/fathom/v1/operator.pb.h"

namespace fathom::cli {

// JobValue with story, recoveries, diagnoses, spec, plans, rank states and newest events.
Value JobDescription(const v1::JobStatus& job, const std::vector<v1::Event>& events);

// "stage 0: layers 0-3, embedding; ..." and which rank runs where.
Value PlanDescription(const v1::Plan& plan);

// What the planner expects of a step: its seconds, their parts, and what each pipeline rank is busy
// and waits; or, where it isn't known, why.
Value ExpectationValue(bool known, const v1::Prediction& expected, const std::string& note);

// cause, node, epoch, steps_redone, pause_seconds, the phases detect, decide, fence, load, rejoin
// and first_step, all in seconds, and what is known beyond. What isn't known is null.
Value RecoveryValue(const v1::RecoveryRecord& recovery);

// One change of epoch as a sentence or two.
std::string RecoveryStory(const v1::RecoveryRecord& recovery);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_JOB_DESCRIPTION_H_
