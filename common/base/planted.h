// Bugs planted on purpose, to prove that the simulation finds them (tests/sim). In a normal build
// FATHOM_PLANT is false and leaves no trace; with FATHOM_PLANTED_BUGS defined, one bug at a time
// can be chosen at run time.
#ifndef FATHOM_COMMON_BASE_PLANTED_H_
#define FATHOM_COMMON_BASE_PLANTED_H_

#ifdef FATHOM_PLANTED_BUGS

namespace fathom::planted {

enum Bug {
  kNone,
  kShedDropsSamples,            // fewer replicas, and no more micro-batches for each
  kAnsweredBeforeDurable,       // a command is answered before its records are durable
  kSentBeforeDurable,           // desired states go out though the log refused their records
  kRequestsForgottenAtRestart,  // a command's request_id is not kept over a restart
  kStaleIncarnation,            // an earlier daemon of a node is believed
  kResumeNotDurable,            // a plan begins from a checkpoint that is not published
  kDrainedNodeGetsRanks,        // new ranks are placed on closed nodes
  kPromotedTooEarly,            // the next epoch is taken while the present one still trains
  kEpochUsedAgain,              // a dropped plan's epoch is given to another
  kOldEpochsReportCounts,       // a report of another epoch's rank counts for this one
  kParkedBeforeSaved,           // a job is parked before its state is saved
  kUnlistedRankRuns,            // a rank that is not wished any more is not stopped
  kDeviceTakenTwice,            // a rank is started on a device that has a process
};

inline constexpr Bug kAll[] = {
    kShedDropsSamples, kAnsweredBeforeDurable, kSentBeforeDurable,    kRequestsForgottenAtRestart,
    kStaleIncarnation, kResumeNotDurable,      kDrainedNodeGetsRanks, kPromotedTooEarly,
    kEpochUsedAgain,   kOldEpochsReportCounts, kParkedBeforeSaved,    kUnlistedRankRuns,
    kDeviceTakenTwice,
};
inline const char* NameOf(Bug bug) {
  static constexpr const char* kNames[] = {
      "None",
      "ShedDropsSamples",
      "AnsweredBeforeDurable",
      "SentBeforeDurable",
      "RequestsForgottenAtRestart",
      "StaleIncarnation",
      "ResumeNotDurable",
      "DrainedNodeGetsRanks",
      "PromotedTooEarly",
      "EpochUsedAgain",
      "OldEpochsReportCounts",
      "ParkedBeforeSaved",
      "UnlistedRankRuns",
      "DeviceTakenTwice",
  };
  return kNames[bug];
}

inline Bug active = kNone;

}  // namespace fathom::planted

#define FATHOM_PLANT(bug) (::fathom::planted::active == ::fathom::planted::bug)

#else

#define FATHOM_PLANT(bug) false

#endif  // FATHOM_PLANTED_BUGS

#endif  // FATHOM_COMMON_BASE_PLANTED_H_
