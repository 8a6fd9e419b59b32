#include "common/base/metric_catalog.h"

namespace fathom {
namespace {

constexpr const MetricSpec* kCatalog[] = {
    &metrics::kBuildInfo,
    &metrics::kStartTime,
    &metrics::kJobStep,
    &metrics::kJobTargetStep,
    &metrics::kJobLoss,
    &metrics::kJobMtpLoss,
    &metrics::kJobBalanceLoss,
    &metrics::kJobValidationLoss,
    &metrics::kJobGradientNorm,
    &metrics::kJobLearningRate,
    &metrics::kJobTokensPerSecond,
    &metrics::kJobTokens,
    &metrics::kJobStepSeconds,
    &metrics::kStagePartSeconds,
    &metrics::kStageStepSeconds,
    &metrics::kJobBubbleRatio,
    &metrics::kJobMaxViolation,
    &metrics::kJobSentBytes,
    &metrics::kJobCheckpointStep,
    &metrics::kJobCheckpointSeconds,
    &metrics::kJobCheckpointBytes,
    &metrics::kJobState,
    &metrics::kJobEpoch,
    &metrics::kJobRestarts,
    &metrics::kJobs,
    &metrics::kQueuedJobs,
    &metrics::kNodes,
    &metrics::kNodeUp,
    &metrics::kNodeDevices,
    &metrics::kNodeHeldDevices,
    &metrics::kNodeReportAge,
    &metrics::kCoreEvents,
    &metrics::kPendingEvents,
    &metrics::kLogRecords,
    &metrics::kLogAppendSeconds,
    &metrics::kLogFailures,
    &metrics::kSynchronizeStreams,
    &metrics::kWorkerDevices,
    &metrics::kWorkerRanks,
    &metrics::kRankStarts,
    &metrics::kRankExits,
    &metrics::kRankMoves,
    &metrics::kWorkerIdleProcesses,
    &metrics::kCoordinatorConnected,
    &metrics::kReportsSent,
    &metrics::kReconnects,
    &metrics::kRankStep,
    &metrics::kRankStepSeconds,
    &metrics::kRankPartSeconds,
    &metrics::kRankSentBytes,
    &metrics::kRankMemoryBytes,
    &metrics::kPreflightPassed,
    &metrics::kPreflightSeconds,
    &metrics::kPreflightRuns,
    &metrics::kHealthSignals,
    &metrics::kProbeFailures,
};

}  // namespace

absl::Span<const MetricSpec* const> MetricCatalog() { return kCatalog; }

}  // namespace fathom
