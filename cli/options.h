// What the command line asked for: one plain struct per command, filled by command_tree.
#ifndef FATHOM_CLI_OPTIONS_H_
#define FATHOM_CLI_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cli/render.h"

namespace fathom::cli {

enum class Command : uint8_t {
  kNone,
  kLocalUp,
  kLocalDown,
  kLocalStatus,
  kSubmit,
  kGetJobs,
  kGetNodes,
  kGetEvents,
  kGetQueue,
  kGetProfiles,
  kDescribeJob,
  kDescribeNode,
  kLogs,
  kTrace,
  kCancel,
  kSuspend,
  kResume,
  kExplain,
  kWait,
  kTop,
  kDrain,
  kReplace,
  kUndrain,
  kCordon,
  kPreflight,
  kCheckpointList,
  kCheckpointShow,
  kCheckpointVerify,
  kDataPrepare,
  kDataInfo,
  kDataVerify,
  kSchedule,
  kProfileMachine,
  kModel,
  kExpertsPlan,
  kExpertsTraffic,
  kPlan,
  kWhatIfKill,
  kWhatIfDrain,
  kWhatIfCluster,
  kVersion,
  kCompletion,
  kHelpExitCodes,
};

// Taken by every command.
struct GlobalOptions {
  std::string coordinator;  // host:port; empty: found as Session says
  std::string state_dir;    // of the local cluster
  std::string tls_ca;
  std::string tls_certificate;
  std::string tls_key;
  OutputFormat output = OutputFormat::kTable;
};

struct LocalUpOptions {
  // Below 0: as the cluster already has it, else the default (2 nodes, 2 ranks, no spares, ports
  // 7070 and 7071). Port 0: any free one.
  int nodes = -1;
  int ranks_per_node = -1;
  int spares = -1;
  int coordinator_port = -1;
  int metrics_port = -1;
  std::string coordinator_config;  // file of its further settings
  double timeout_s = 60;
};

struct LocalDownOptions {
  double grace_s = 15;  // before a daemon that doesn't end is killed
};

struct SubmitOptions {
  std::string file;                    // "-": standard input
  std::vector<std::string> overrides;  // "spec.training.steps=50"
  std::string name;
  std::string resume_from;
  bool dry_run = false;
  bool wait = false;
  double timeout_s = 0;  // of --wait; 0: none
};

struct GetOptions {
  std::vector<std::string> names;
  std::string job;   // events only
  std::string node;  // events only
  int limit = 0;
  bool watch = false;
  double interval_s = 1;
};

struct DescribeOptions {
  std::string name;
};

struct LogsOptions {
  std::string job;
  int rank = 0;
  int64_t epoch = 0;  // 0: the newest
  int64_t tail_bytes = -1;
  bool follow = false;
};

struct TraceOptions {
  std::string job;
  int lane = 0;
  bool all = false;  // every lane's ranks
  std::string svg;   // files to write; empty: none
  std::string trace;
};

struct CancelOptions {
  std::string job;
  std::string reason;
};

// suspend, resume, explain
struct QueueOptions {
  std::string job;
  std::string reason;
  std::string actor;  // empty: the user
};

// drain, replace, undrain, cordon, preflight
struct NodeOptions {
  std::string node;
  std::string reason;
  std::string actor;        // empty: the user
  std::string replacement;  // empty: the coordinator chooses
  double deadline_s = 0;    // 0: none
  bool dry_run = false;
  bool wait = false;
  double timeout_s = 0;  // of --wait; 0: none
};

struct WaitOptions {
  std::string job;
  double timeout_s = 0;  // 0: none
};

struct TopOptions {
  bool once = false;
  double interval_s = 1;
};

struct CheckpointOptions {
  std::string target;  // a job (list), a folder or a manifest
};

struct DataOptions {
  std::vector<std::string> inputs;  // prepare
  std::string file;
  std::string tokenizer = "bytes";
  std::string source;
  double validation_fraction = 0.01;
  bool overwrite = false;
  bool allow_binary = false;
};

struct ExpertsOptions {
  std::string file;  // "-": standard input
  std::string algorithm = "balanced";
  double tolerance = 0.02;
};

struct ExpertsTrafficOptions {
  std::string trace;           // file
  std::string cluster;         // file
  std::string placement;       // file; empty: equal runs of experts
  int layers = 0;              // the first ones; 0: all
  int64_t dispatch_bytes = 0;  // of a token; 0: as DeepSeek-V3 in FP8
  int64_t combine_bytes = 0;   // the same
};

struct ModelOptions {
  std::string file;                    // "-": standard input
  std::vector<std::string> overrides;  // "spec.parallelism.pipeline=8"
  bool tensors = false;                // every one of them as well
};

struct ScheduleOptions {
  std::string kind;
  int ranks = 0;
  int micro_batches = 0;
  int chunks = 0;  // 0: as the kind has it
  std::string costs = "F=1,B=1,W=1";
  std::string stage_costs;  // "F=1,2;B=1,1", or the file that says so
  double message_time = 0;
  std::string family;       // of a searched schedule; empty: loop
  int max_activations = 0;  // the same; 0: any number
  std::string svg;          // file to write; empty: none
};

struct PlanOptions {
  std::string file;     // the job's; "-": standard input
  std::string cluster;  // file
  std::vector<std::string> overrides;
  std::string schedule;  // kind; empty: the planner's choice
  bool take_best = false;
  bool no_search = false;
  std::string svg;  // files to write; empty: none
  std::string trace;
};

// whatif kill, drain, cluster
struct WhatIfOptions {
  PlanOptions plan;
  std::vector<std::string> nodes;
  std::string other;        // the other cluster's file
  int64_t steps_done = -1;  // below 0: unknown
};

struct ProfileMachineOptions {
  std::string file;                     // empty: in the local state folder
  std::vector<std::string> precisions;  // empty: all
  int rounds = 0;                       // 0: as many as fathom-profile takes by itself
};

struct Options {
  Command command = Command::kNone;
  GlobalOptions global;
  LocalUpOptions local_up;
  LocalDownOptions local_down;
  SubmitOptions submit;
  GetOptions get;
  DescribeOptions describe;
  LogsOptions logs;
  TraceOptions trace;
  CancelOptions cancel;
  QueueOptions queue;
  NodeOptions node;
  WaitOptions wait;
  TopOptions top;
  CheckpointOptions checkpoint;
  DataOptions data;
  ScheduleOptions schedule;
  ProfileMachineOptions profile_machine;
  ModelOptions model;
  ExpertsOptions experts;
  ExpertsTrafficOptions experts_traffic;
  PlanOptions plan;
  WhatIfOptions whatif;
  std::string shell;  // completion
};

}  // namespace fathom::cli

#endif  // FATHOM_CLI_OPTIONS_H_
