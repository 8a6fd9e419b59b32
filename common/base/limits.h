// Every bound of the house in one place, and how they relate. What exceeds one is refused by name.
#ifndef FATHOM_COMMON_BASE_LIMITS_H_
#define FATHOM_COMMON_BASE_LIMITS_H_

#include <cstdint>

namespace fathom::limits {

// The cluster. The reference is 256 nodes of 8 devices; 16 times that must still be bookkept.
inline constexpr int kMaxNodes = 4096;
inline constexpr int kMaxDevicesPerNode = 64;
inline constexpr int kMaxRanksPerJob = 8192;
inline constexpr int kMaxNameBytes = 63;  // of a job; a node may have a host's name
inline constexpr int kMaxNodeNameBytes = 253;
inline constexpr int kMaxTextBytes = 4096;  // a reason, a rank's error: longer ones are cut

// The coordinator's tables.
inline constexpr int kMaxUnfinishedJobs = 1000;  // submitting one more is refused
inline constexpr int kMaxFinishedJobs = 1000;    // the oldest one beyond is forgotten
inline constexpr int kMaxEvents = 10'000;        // the oldest one beyond is forgotten
inline constexpr int kMaxRequestIds = 4096;      // remembered for repeated commands
inline constexpr int kMaxRecoveries = 100;       // remembered of a job
inline constexpr int kMaxRequestIdBytes = 128;
inline constexpr int kMaxListedJobs = 1000;
inline constexpr int kMaxListedEvents = 1000;
inline constexpr int kMaxListedNodePairs = 64;  // whose loss together is fatal; all are counted
inline constexpr int kMaxLabels = 64;
inline constexpr int kMaxJobEpochs = 1'000'000;  // of one job's life

// A cluster file.
inline constexpr int kMaxPools = 64;
inline constexpr int kMaxProfiles = 64;
inline constexpr int kMaxSwitches = 4096;
inline constexpr int kMaxNicsPerNode = 64;
inline constexpr int kMaxCores = 4096;  // of a node

// Queues between threads. Full means the sender is told to come back.
inline constexpr int kMaxPendingEvents = 4096;  // into the core's loop
inline constexpr int kMaxCommitBatch = 256;     // events made durable together
inline constexpr int kMaxWatchers = 256;        // WatchJob streams
inline constexpr int kMaxReportsPerStream = 2;  // of one node, not yet handled

// Messages.
inline constexpr int kMaxGrpcMessageBytes = 16 << 20;
inline constexpr int kMaxJobBytes = 256 << 10;         // a submitted job, serialized
inline constexpr int kMaxRankMessageBytes = 16 << 20;  // daemon to rank
inline constexpr int kMaxHttpBodyBytes = 1 << 20;
inline constexpr int kMaxHttpThreads = 4;

// Transport: connections to a rank, beyond its peers', that haven't said yet who they are.
inline constexpr int kMaxStrangerConnections = 256;

// Files.
inline constexpr int64_t kMaxConfigBytes = 1 << 20;
inline constexpr int64_t kMaxRoutingTraceBytes = int64_t{256} << 20;
inline constexpr int kMaxTracedLayers = 1024;
inline constexpr int64_t kMaxBytesOfToken = int64_t{1} << 30;  // on its way to an expert
inline constexpr int kMaxYamlDepth = 32;
inline constexpr int kMaxYamlNodes = 100'000;  // after aliases are followed
inline constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;

// Times, milliseconds.
inline constexpr int kDefaultHeartbeatMs = 1000;
inline constexpr int kDefaultLeaseMs = 5000;
inline constexpr int kMinHeartbeatMs = 20;
inline constexpr int kMaxLeaseMs = 3'600'000;
inline constexpr int kMinHeartbeatsPerLease = 2;  // one lost report must not cost a node
inline constexpr int kKeepaliveMs = 10'000;
inline constexpr int kKeepaliveTimeoutMs = 5000;
inline constexpr int kHttpTimeoutMs = 5000;
inline constexpr int kTimelineIntervalMs = 1000;  // between recorded steps
inline constexpr int64_t kMaxTimelineBytes = int64_t{4} << 20;
inline constexpr int kDefaultHealthIntervalMs = 10'000;
inline constexpr int kMinHealthIntervalMs = 100;
inline constexpr int kMaxHealthIntervalMs = 3'600'000;

static_assert(kMaxRanksPerJob <= kMaxNodes * kMaxDevicesPerNode);
static_assert(kDefaultHeartbeatMs * kMinHeartbeatsPerLease <= kDefaultLeaseMs);
static_assert(kDefaultLeaseMs <= kMaxLeaseMs && kMinHeartbeatMs <= kDefaultHeartbeatMs);
static_assert(kMaxJobBytes < kMaxGrpcMessageBytes);
// A plan names each rank in under 512 bytes and must fit one message with its peers beside it.
static_assert(int64_t{kMaxRanksPerJob} * 512 + kMaxJobBytes < kMaxGrpcMessageBytes);
static_assert(int64_t{kMaxRanksPerJob} * 512 + kMaxJobBytes < kMaxRankMessageBytes);
static_assert(kMaxCommitBatch <= kMaxPendingEvents);
static_assert(kMaxConfigBytes >= kMaxJobBytes);
static_assert(kMaxTextBytes < kMaxJobBytes);
// A choice of an expert takes two bytes of a trace or more; what all tokens bring fits an int64_t.
static_assert(kMaxRoutingTraceBytes / 2 <= (int64_t{1} << 62) / kMaxBytesOfToken);

}  // namespace fathom::limits

#endif  // FATHOM_COMMON_BASE_LIMITS_H_
