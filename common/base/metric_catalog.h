// Every metric of the house, by Prometheus' rules for names: base units, counters end in _total,
// the unit is the name's last word. Dashboards, rules and code all quote this list; nothing else
// may be exported (common/metrics creates metrics from here only).
#ifndef FATHOM_COMMON_BASE_METRIC_CATALOG_H_
#define FATHOM_COMMON_BASE_METRIC_CATALOG_H_

#include <array>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace fathom {

enum class MetricKind { kGauge, kCounter, kHistogram };

struct MetricSpec {
  absl::string_view name;
  MetricKind kind;
  absl::string_view unit;  // "seconds", "bytes", "tokens", "ratio", "1", ...
  absl::string_view help;
  std::array<absl::string_view, 3> labels = {};  // unused ones empty

  int label_count() const {
    int count = 0;
    while (count < 3 && !labels[count].empty()) ++count;
    return count;
  }
};

namespace metrics {

// --- Every daemon ---
inline constexpr MetricSpec kBuildInfo{
    "fathom_build_info",
    MetricKind::kGauge,
    "1",
    "Always 1; the labels say which program and version this is.",
    {"program", "version"}};
inline constexpr MetricSpec kStartTime{"fathom_start_time_seconds", MetricKind::kGauge, "seconds",
                                       "Unix time at which this daemon started."};

// --- Coordinator: a job's training ---
inline constexpr MetricSpec kJobStep{
    "fathom_job_step", MetricKind::kGauge, "steps", "Optimizer steps done.", {"job"}};
inline constexpr MetricSpec kJobTargetStep{"fathom_job_target_step",
                                           MetricKind::kGauge,
                                           "steps",
                                           "Optimizer steps the job is to do.",
                                           {"job"}};
inline constexpr MetricSpec kJobLoss{"fathom_job_loss",
                                     MetricKind::kGauge,
                                     "nats per token",
                                     "Next-token cross-entropy of the newest step.",
                                     {"job"}};
inline constexpr MetricSpec kJobMtpLoss{"fathom_job_mtp_loss",
                                        MetricKind::kGauge,
                                        "nats per token",
                                        "Unweighted loss of the MTP module in the newest step.",
                                        {"job"}};
inline constexpr MetricSpec kJobBalanceLoss{"fathom_job_balance_loss",
                                            MetricKind::kGauge,
                                            "1",
                                            "Sequence-wise balance loss of the newest step.",
                                            {"job"}};
inline constexpr MetricSpec kJobValidationLoss{"fathom_job_validation_loss",
                                               MetricKind::kGauge,
                                               "nats per token",
                                               "Cross-entropy on the held-out part, newest.",
                                               {"job"}};
inline constexpr MetricSpec kJobGradientNorm{"fathom_job_gradient_norm",
                                             MetricKind::kGauge,
                                             "1",
                                             "2-norm of the whole gradient before clipping.",
                                             {"job"}};
inline constexpr MetricSpec kJobLearningRate{"fathom_job_learning_rate",
                                             MetricKind::kGauge,
                                             "1",
                                             "Learning rate of the newest step.",
                                             {"job"}};
inline constexpr MetricSpec kJobTokensPerSecond{"fathom_job_tokens_per_second",
                                                MetricKind::kGauge,
                                                "tokens per second",
                                                "Tokens trained on per second over the last steps.",
                                                {"job"}};
inline constexpr MetricSpec kJobTokens{"fathom_job_tokens_total",
                                       MetricKind::kCounter,
                                       "tokens",
                                       "Tokens trained on, redone steps counted again.",
                                       {"job"}};
inline constexpr MetricSpec kJobStepSeconds{"fathom_job_step_seconds",
                                            MetricKind::kGauge,
                                            "seconds",
                                            "Wall time of the newest step, as rank 0 saw it.",
                                            {"job"}};
inline constexpr MetricSpec kStagePartSeconds{
    "fathom_stage_part_seconds",
    MetricKind::kGauge,
    "seconds",
    "Time of the newest step by pipeline rank and part (forward, backward, weight, overlapped, "
    "wait, reduce, optimizer), mean over the ranks there.",
    {"job", "pipeline_rank", "part"}};
inline constexpr MetricSpec kStageStepSeconds{
    "fathom_stage_step_seconds",
    MetricKind::kGauge,
    "seconds",
    "Wall time of the newest step by pipeline rank, the slowest rank there.",
    {"job", "pipeline_rank"}};
inline constexpr MetricSpec kJobExpectedStepSeconds{
    "fathom_job_expected_step_seconds",
    MetricKind::kGauge,
    "seconds",
    "Time that a step of the present plan should take, by the planner; compare with "
    "fathom_job_step_seconds. Absent where the planner can't tell.",
    {"job"}};
inline constexpr MetricSpec kStageExpectedSeconds{
    "fathom_stage_expected_seconds",
    MetricKind::kGauge,
    "seconds",
    "Time of a step by pipeline rank and part (busy, wait) that the planner expects; busy compares "
    "with the sum of forward, backward, weight and overlapped of fathom_stage_part_seconds.",
    {"job", "pipeline_rank", "part"}};
inline constexpr MetricSpec kJobBubbleRatio{"fathom_job_bubble_ratio",
                                            MetricKind::kGauge,
                                            "ratio",
                                            "Share of the newest step that ranks waited for peers: "
                                            "the bubble and communication not hidden.",
                                            {"job"}};
inline constexpr MetricSpec kJobMaxViolation{
    "fathom_job_expert_max_violation_ratio",
    MetricKind::kGauge,
    "ratio",
    "MaxVio: (load of the fullest expert - mean) / mean, mean over MoE layers.",
    {"job"}};
inline constexpr MetricSpec kJobSentBytes{"fathom_job_sent_bytes",
                                          MetricKind::kGauge,
                                          "bytes",
                                          "Bytes all ranks sent in the newest step.",
                                          {"job"}};
inline constexpr MetricSpec kJobCheckpointStep{"fathom_job_checkpoint_step",
                                               MetricKind::kGauge,
                                               "steps",
                                               "Step of the newest durable checkpoint.",
                                               {"job"}};
inline constexpr MetricSpec kJobCheckpointSeconds{
    "fathom_job_checkpoint_seconds",
    MetricKind::kGauge,
    "seconds",
    "From the copy of the state to durable, newest checkpoint.",
    {"job"}};
inline constexpr MetricSpec kJobCheckpointBytes{"fathom_job_checkpoint_bytes",
                                                MetricKind::kGauge,
                                                "bytes",
                                                "Size of the newest durable checkpoint.",
                                                {"job"}};

// --- Coordinator: a job's life ---
inline constexpr MetricSpec kJobState{"fathom_job_state",
                                      MetricKind::kGauge,
                                      "1",
                                      "1 for the state the job is in.",
                                      {"job", "state"}};
inline constexpr MetricSpec kJobEpoch{
    "fathom_job_epoch", MetricKind::kGauge, "1", "Number of the job's newest plan.", {"job"}};
inline constexpr MetricSpec kJobRestarts{"fathom_job_restarts_total",
                                         MetricKind::kCounter,
                                         "restarts",
                                         "Times the job was brought up again.",
                                         {"job"}};
inline constexpr MetricSpec kJobRecoveries{"fathom_job_recoveries_total",
                                           MetricKind::kCounter,
                                           "recoveries",
                                           "Changes of the job's epoch, by cause.",
                                           {"job", "cause"}};
inline constexpr MetricSpec kJobRecoveryPhaseSeconds{
    "fathom_job_recovery_phase_seconds",
    MetricKind::kGauge,
    "seconds",
    "Of the job's newest finished recovery, by phase (detect, decide, fence, rejoin, load, "
    "first_step).",
    {"job", "phase"}};
inline constexpr MetricSpec kJobRecoveryPauseSeconds{
    "fathom_job_recovery_pause_seconds",
    MetricKind::kGauge,
    "seconds",
    "Training that the job's newest finished recovery cost.",
    {"job"}};
inline constexpr MetricSpec kJobRedoneSteps{"fathom_job_redone_steps_total",
                                            MetricKind::kCounter,
                                            "steps",
                                            "Steps done again after recoveries.",
                                            {"job"}};
inline constexpr MetricSpec kJobReplicasShed{"fathom_job_replicas_shed",
                                             MetricKind::kGauge,
                                             "replicas",
                                             "Replicas below what the job asked for.",
                                             {"job"}};
inline constexpr MetricSpec kJobWaitingSeconds{
    "fathom_job_waiting_seconds",
    MetricKind::kGauge,
    "seconds",
    "How long the job has waited for devices; 0 while it has them.",
    {"job"}};
inline constexpr MetricSpec kRecoveryPhaseSeconds{"fathom_recovery_phase_seconds",
                                                  MetricKind::kHistogram,
                                                  "seconds",
                                                  "Phases of all finished recoveries.",
                                                  {"phase"}};
inline constexpr MetricSpec kJobs{
    "fathom_jobs", MetricKind::kGauge, "jobs", "Jobs remembered, by state.", {"state"}};
inline constexpr MetricSpec kQueuedJobs{"fathom_queued_jobs", MetricKind::kGauge, "jobs",
                                        "Jobs that wait for devices."};

// --- Coordinator: the cluster ---
inline constexpr MetricSpec kNodes{
    "fathom_nodes", MetricKind::kGauge, "nodes", "Nodes by state (ready, lost, spare).", {"state"}};
inline constexpr MetricSpec kNodesBySchedulability{
    "fathom_nodes_by_schedulability",
    MetricKind::kGauge,
    "nodes",
    "Nodes by whether they get ranks (ready, spare, cordoned, draining, drained, unfit, lost, "
    "expected).",
    {"schedulability"}};
inline constexpr MetricSpec kNodeLosses{"fathom_node_losses_total",
                                        MetricKind::kCounter,
                                        "losses",
                                        "Times the node was lost.",
                                        {"node"}};
inline constexpr MetricSpec kNodeUp{"fathom_node_up",
                                    MetricKind::kGauge,
                                    "1",
                                    "1 while the node's lease holds, 0 once it is lost.",
                                    {"node"}};
inline constexpr MetricSpec kNodeDevices{
    "fathom_node_devices", MetricKind::kGauge, "devices", "Devices the node offers.", {"node"}};
inline constexpr MetricSpec kNodeHeldDevices{"fathom_node_held_devices",
                                             MetricKind::kGauge,
                                             "devices",
                                             "Devices that ranks of a job hold.",
                                             {"node"}};
inline constexpr MetricSpec kNodeReportAge{"fathom_node_report_age_seconds",
                                           MetricKind::kGauge,
                                           "seconds",
                                           "Since the node's last report.",
                                           {"node"}};

// --- Coordinator: itself ---
inline constexpr MetricSpec kCoreEvents{"fathom_core_events_total",
                                        MetricKind::kCounter,
                                        "events",
                                        "Commands and reports the core took, by kind.",
                                        {"kind"}};
inline constexpr MetricSpec kLoggedEvents{
    "fathom_logged_events_total",
    MetricKind::kCounter,
    "events",
    "What `fathomctl get events` lists, by kind, since this coordinator started.",
    {"kind"}};
inline constexpr MetricSpec kPendingEvents{"fathom_core_pending_events", MetricKind::kGauge,
                                           "events", "Events that wait for the core's thread."};
inline constexpr MetricSpec kLogRecords{"fathom_log_records_total", MetricKind::kCounter, "records",
                                        "Records made durable."};
inline constexpr MetricSpec kLogAppendSeconds{"fathom_log_append_seconds", MetricKind::kHistogram,
                                              "seconds",
                                              "Time to make one batch of records durable."};
inline constexpr MetricSpec kLogFailures{"fathom_log_failures_total", MetricKind::kCounter,
                                         "failures", "Batches the log could not make durable."};
inline constexpr MetricSpec kSynchronizeStreams{"fathom_synchronize_streams", MetricKind::kGauge,
                                                "streams", "Nodes connected right now."};

// --- Worker daemon ---
inline constexpr MetricSpec kWorkerDevices{"fathom_worker_devices", MetricKind::kGauge, "devices",
                                           "Devices this daemon looks after."};
inline constexpr MetricSpec kWorkerRanks{"fathom_worker_ranks",
                                         MetricKind::kGauge,
                                         "ranks",
                                         "Ranks that this daemon reports, by state.",
                                         {"state"}};
inline constexpr MetricSpec kRankStarts{"fathom_worker_rank_starts_total", MetricKind::kCounter,
                                        "ranks", "Rank processes started."};
inline constexpr MetricSpec kRankExits{
    "fathom_worker_rank_exits_total",
    MetricKind::kCounter,
    "ranks",
    "Rank processes ended, by how (finished, parked, left, failed, stopped, signal).",
    {"how"}};
inline constexpr MetricSpec kRankMoves{
    "fathom_worker_rank_moves_total",
    MetricKind::kCounter,
    "moves",
    "Rank processes that went on to a later epoch: at a step boundary, or at once.",
    {"at"}};
inline constexpr MetricSpec kWorkerIdleProcesses{
    "fathom_worker_idle_processes", MetricKind::kGauge, "processes",
    "Rank processes started ahead, that wait for a rank."};
inline constexpr MetricSpec kCoordinatorConnected{"fathom_worker_coordinator_connected",
                                                  MetricKind::kGauge, "1",
                                                  "1 while the stream to the coordinator is open."};
inline constexpr MetricSpec kReportsSent{"fathom_worker_reports_total", MetricKind::kCounter,
                                         "reports", "Reports sent to the coordinator."};
inline constexpr MetricSpec kReconnects{"fathom_worker_reconnects_total", MetricKind::kCounter,
                                        "streams", "Streams to the coordinator opened."};
inline constexpr MetricSpec kRankStep{"fathom_rank_step",
                                      MetricKind::kGauge,
                                      "steps",
                                      "Optimizer steps done by a rank of this node.",
                                      {"job", "rank"}};
inline constexpr MetricSpec kRankStepSeconds{"fathom_rank_step_seconds",
                                             MetricKind::kGauge,
                                             "seconds",
                                             "Wall time of a rank's newest step.",
                                             {"job", "rank"}};
inline constexpr MetricSpec kRankPartSeconds{
    "fathom_rank_part_seconds",
    MetricKind::kGauge,
    "seconds",
    "Time of a rank's newest step by part (forward, backward, weight, overlapped, wait, reduce, "
    "optimizer).",
    {"job", "rank", "part"}};
inline constexpr MetricSpec kRankSentBytes{"fathom_rank_sent_bytes",
                                           MetricKind::kGauge,
                                           "bytes",
                                           "Bytes a rank sent in its newest step.",
                                           {"job", "rank"}};
inline constexpr MetricSpec kRankMemoryBytes{"fathom_rank_resident_memory_bytes",
                                             MetricKind::kGauge,
                                             "bytes",
                                             "Resident memory of a rank's process.",
                                             {"job", "rank"}};

// --- Worker daemon: the node's own health ---
inline constexpr MetricSpec kPreflightPassed{
    "fathom_worker_preflight_passed", MetricKind::kGauge, "1",
    "1 when the newest preflight of this node passed, 0 when it did not."};
inline constexpr MetricSpec kPreflightSeconds{"fathom_worker_preflight_seconds", MetricKind::kGauge,
                                              "seconds", "How long the newest preflight took."};
inline constexpr MetricSpec kPreflightRuns{"fathom_worker_preflights_total",
                                           MetricKind::kCounter,
                                           "preflights",
                                           "Preflights done, by result (passed, failed).",
                                           {"result"}};
inline constexpr MetricSpec kHealthSignals{
    "fathom_worker_health_signals",
    MetricKind::kGauge,
    "signals",
    "Faults that the system shows right now, by source and severity (warning, fatal).",
    {"source", "severity"}};
inline constexpr MetricSpec kProbeFailures{
    "fathom_worker_health_probe_failures_total", MetricKind::kCounter, "probes",
    "Probes of the system's signals that told nothing, as when a driver hung."};

}  // namespace metrics

// All of the above, in that order.
absl::Span<const MetricSpec* const> MetricCatalog();

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_METRIC_CATALOG_H_
