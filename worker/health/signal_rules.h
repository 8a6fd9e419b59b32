// What a value of the system's means, by its source and name: whether it counts up or is a level,
// from which rise on it is a fault, and how bad that fault is. Pure: the one table of it.
//
// Rises are between two probes, so per ten seconds unless configured otherwise. Links are allowed
// the few symbol errors of a healthy cable; a corrected error is worth watching and an uncorrected
// one is not survivable for the data that was there.
#ifndef FATHOM_WORKER_HEALTH_SIGNAL_RULES_H_
#define FATHOM_WORKER_HEALTH_SIGNAL_RULES_H_

#include "absl/strings/string_view.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

enum class SignalKind {
  kCounter,  // rises; its rise is the fault
  kEvents,   // how many since the probe before
  kLevel,    // a fault while above zero
  kPort,     // 1 while up; a fault when down after having been up
};

struct SignalRule {
  SignalKind kind = SignalKind::kCounter;
  v1::Severity severity = v1::SEVERITY_WARNING;  // of the fault
  double least_rise = 1;                         // kCounter
  absl::string_view meaning;                     // for people; may be empty
};

// What is not in the table is a counter whose every rise is a warning.
SignalRule RuleOf(absl::string_view source, absl::string_view name);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_SIGNAL_RULES_H_
