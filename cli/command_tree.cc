#include "cli/command_tree.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "cli/exit_code.h"
#include "common/base/limits.h"
#include "common/cluster/device_profiles.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/searched_schedule.h"

namespace fathom::cli {
namespace {

constexpr double kSecondsMax = 1e9;
constexpr double kMessageTimeMax = 1e12;  // in units of the costs, which end there, too
constexpr int kIntMax = std::numeric_limits<int>::max();
constexpr int64_t kLongMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kStepsMax = 1'000'000'000;         // of a job
constexpr int64_t kScheduledMax = int64_t{1} << 20;  // ranks or micro-batches
constexpr char kFooter[] =
    "Options of every command, such as -o and --coordinator: fathomctl --help\n";

class CommandTree {
 public:
  CommandTree() : app_("Trains DeepSeek-V3-shaped models on a cluster.", "fathomctl") {
    app_.fallthrough();
    app_.footer(ExitCodeHelp());
    app_.set_help_flag("-h,--help", "Print this help");
    AddGlobalOptions();
    AddLocal();
    AddSubmit();
    AddGet();
    AddDescribe();
    AddLogs();
    AddTrace();
    AddCancelAndWait();
    AddTop();
    AddQueue();
    AddNode();
    AddCheckpoint();
    AddData();
    AddSchedule();
    AddProfileMachine();
    AddModel();
    AddExperts();
    AddPlan();
    AddWhatIf();
    AddOthers();
  }

  absl::StatusOr<ParsedCommandLine> Parse(std::vector<std::string> arguments) {
    // CLI11 takes them last first.
    std::reverse(arguments.begin(), arguments.end());
    ParsedCommandLine parsed;
    try {
      app_.parse(std::move(arguments));
    } catch (const CLI::CallForHelp&) {
      parsed.help = app_.help();
      return parsed;
    } catch (const CLI::ParseError& error) {
      return absl::InvalidArgumentError(
          absl::StrCat(absl::StrReplaceAll(error.what(), {{"\n", " "}}), "; see ",
                       PathOf(Deepest()), " --help"));
    }
    for (const auto& [command_app, command] : commands_) {
      if (command_app->parsed()) options_.command = command;
    }
    if (options_.command == Command::kNone) {
      return absl::InvalidArgumentError(
          absl::StrCat(PathOf(Deepest()), " needs a command; see ", PathOf(Deepest()), " --help"));
    }
    for (size_t i = 0; i < OutputFormatNames().size(); ++i) {
      if (OutputFormatNames()[i] == output_) options_.global.output = static_cast<OutputFormat>(i);
    }
    parsed.options = options_;
    return parsed;
  }

  CommandNode Describe() const { return Describe(app_); }

 private:
  CLI::App* Group(CLI::App* parent, const std::string& name, const std::string& help) {
    CLI::App* group = parent->add_subcommand(name, help);
    group->footer(kFooter);
    return group;
  }

  CLI::App* Leaf(CLI::App* parent, const std::string& name, Command command,
                 const std::string& help) {
    CLI::App* leaf = parent->add_subcommand(name, help);
    leaf->footer(kFooter);
    commands_.emplace_back(leaf, command);
    return leaf;
  }

  CLI::Option* Mark(CLI::Option* option, ArgumentKind kind) {
    arguments_[option].kind = kind;
    return option;
  }

  CLI::Option* Choices(CLI::Option* option, const std::vector<std::string>& choices) {
    arguments_[option] = {ArgumentKind::kChoice, choices};
    return option->check(CLI::IsMember(choices));
  }

  // CLI11's own checks tell a range in 600 digits, and take what does not fit for what does.
  static CLI::Option* Whole(CLI::Option* option, int64_t least, int64_t most) {
    return option->check([least, most](const std::string& text) {
      int64_t value = 0;
      if (absl::SimpleAtoi(text, &value) && value >= least && value <= most) return std::string();
      return absl::StrCat("'", text, "' is not a whole number from ", least, " to ", most);
    });
  }

  static CLI::Option* Number(CLI::Option* option, double least, double most) {
    return option->check([least, most](const std::string& text) {
      double value = 0;
      if (absl::SimpleAtod(text, &value) && value >= least && value <= most) return std::string();
      return absl::StrCat("'", text, "' is not a number from ", least, " to ", most);
    });
  }

  // "90", "90s", "10m", "1h30m".
  static CLI::Option* Seconds(CLI::Option* option) {
    const auto to_seconds = [](std::string& text) {
      double seconds = 0;
      absl::Duration duration;
      if (!absl::SimpleAtod(text, &seconds)) {
        if (!absl::ParseDuration(text, &duration)) {
          return absl::StrCat("'", text, "' is no time; write 90, 90s, 10m or 1h30m");
        }
        seconds = absl::ToDoubleSeconds(duration);
      }
      if (!(seconds >= 0 && seconds <= kSecondsMax)) {
        return absl::StrCat("'", text, "' is not from 0 to ", kSecondsMax, " seconds");
      }
      text = absl::StrCat(seconds);
      return std::string();
    };
    return option->transform(CLI::Validator(to_seconds, "", "time"))->type_name("TIME");
  }

  void AddGlobalOptions() {
    GlobalOptions& global = options_.global;
    Choices(app_.add_option("-o,--output", output_, "Output format"), OutputFormatNames())
        ->type_name("FORMAT")
        ->default_str("table");
    app_.add_option("--coordinator", global.coordinator,
                    "Coordinator's host:port; default $FATHOM_COORDINATOR, else the local "
                    "cluster's, else 127.0.0.1:7070")
        ->type_name("HOST:PORT");
    Mark(app_.add_option("--state-dir", global.state_dir,
                         "The local cluster's folder; default $FATHOM_STATE_DIR, else "
                         "~/.fathom/local"),
         ArgumentKind::kFile)
        ->type_name("DIR");
    Mark(app_.add_option("--tls-ca", global.tls_ca, "PEM file of whom to trust; turns TLS on"),
         ArgumentKind::kFile)
        ->type_name("FILE");
    Mark(app_.add_option("--tls-certificate", global.tls_certificate, "PEM file to show"),
         ArgumentKind::kFile)
        ->type_name("FILE");
    Mark(app_.add_option("--tls-key", global.tls_key, "PEM file of its key"), ArgumentKind::kFile)
        ->type_name("FILE");
  }

  void AddLocal() {
    CLI::App* local = Group(&app_, "local", "A cluster of background processes on this machine");
    LocalUpOptions& up_options = options_.local_up;
    CLI::App* up = Leaf(local, "up", Command::kLocalUp,
                        "Start a coordinator and node daemons; starts what is missing");
    up->add_option("--nodes", up_options.nodes, "Node daemons; default 2")
        ->check(CLI::Range(0, 1024));
    up->add_option("--ranks-per-node", up_options.ranks_per_node, "Ranks of each; default 2")
        ->check(CLI::Range(1, 64));
    up->add_option("--spares", up_options.spares, "Further nodes held back; default 0")
        ->check(CLI::Range(0, 1024));
    up->add_option("--coordinator-port", up_options.coordinator_port,
                   "Its port on 127.0.0.1; default 7070, 0: any free one")
        ->check(CLI::Range(0, 65535));
    up->add_option("--metrics-port", up_options.metrics_port,
                   "Its port for /metrics; default 7071, 0: any free one")
        ->check(CLI::Range(0, 65535));
    Mark(up->add_option("--coordinator-config", up_options.coordinator_config,
                        "File of the coordinator's further settings, such as detectors and quotas "
                        "(YAML)"),
         ArgumentKind::kFile)
        ->type_name("FILE");
    Seconds(up->add_option("--timeout", up_options.timeout_s, "Until all nodes are ready"))
        ->capture_default_str();
    CLI::App* down = Leaf(local, "down", Command::kLocalDown, "Stop what up started");
    Seconds(down->add_option("--grace", options_.local_down.grace_s,
                             "Before a daemon that doesn't end is killed"))
        ->capture_default_str();
    Leaf(local, "status", Command::kLocalStatus, "What of it runs");
  }

  void AddSubmit() {
    SubmitOptions& options = options_.submit;
    CLI::App* submit = Leaf(&app_, "submit", Command::kSubmit, "Submit a job");
    Mark(submit->add_option("-f,--file", options.file, "Job file (YAML); - for standard input"),
         ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    submit
        ->add_option("--set", options.overrides,
                     "Override a field of the file: spec.training.steps=50; may be repeated")
        ->type_name("FIELD=VALUE")
        ->allow_extra_args(false)
        ->take_all();
    submit->add_option("--name", options.name, "The job's name; overrides metadata.name");
    Mark(submit->add_option("--resume-from", options.resume_from,
                            "Begin from a checkpoint's manifest"),
         ArgumentKind::kFile)
        ->type_name("MANIFEST");
    submit->add_flag("--dry-run", options.dry_run, "Check and plan, change nothing");
    submit->add_flag("-w,--wait", options.wait, "Follow the job until it ends");
    Seconds(submit->add_option("--timeout", options.timeout_s, "Of --wait; 0: none"));
  }

  void AddWatch(CLI::App* command) {
    GetOptions& options = options_.get;
    command->add_flag("--watch", options.watch, "Print again when something changes");
    Seconds(command->add_option("--interval", options.interval_s, "Between two looks"))
        ->capture_default_str();
  }

  void AddGet() {
    GetOptions& options = options_.get;
    CLI::App* get = Group(&app_, "get", "List jobs, nodes, events, the queue or profiles");
    CLI::App* jobs = Leaf(get, "jobs", Command::kGetJobs, "Jobs, oldest first");
    jobs->alias("job");
    Mark(jobs->add_option("names", options.names, "Only these"), ArgumentKind::kJob)
        ->type_name("NAME");
    Whole(jobs->add_option("--limit", options.limit, "Only the newest so many"), 0, kIntMax);
    AddWatch(jobs);
    CLI::App* nodes = Leaf(get, "nodes", Command::kGetNodes, "Nodes");
    nodes->alias("node");
    Mark(nodes->add_option("names", options.names, "Only these"), ArgumentKind::kNode)
        ->type_name("NAME");
    AddWatch(nodes);
    AddWatch(Leaf(get, "queue", Command::kGetQueue,
                  "Jobs that wait, in the order in which they are considered"));
    CLI::App* events = Leaf(get, "events", Command::kGetEvents, "What happened, oldest first");
    events->alias("event");
    Mark(events->add_option("--job", options.job, "Only this job's"), ArgumentKind::kJob);
    Mark(events->add_option("--node", options.node, "Only this node's"), ArgumentKind::kNode);
    Whole(events->add_option("--limit", options.limit, "Only the newest so many"), 0, kIntMax);
    AddWatch(events);
    CLI::App* profiles =
        Leaf(get, "profiles", Command::kGetProfiles,
             "What kinds of device can do, each figure with its source; needs no coordinator");
    profiles->alias("profile");
    CLI::Option* kinds = profiles->add_option("kinds", options.names, "Only these");
    kinds->type_name("KIND");
    arguments_[kinds] = {ArgumentKind::kChoice, cluster::ProfileKinds()};
  }

  void AddDescribe() {
    CLI::App* describe = Group(&app_, "describe", "Everything about one job or node");
    CLI::App* job = Leaf(describe, "job", Command::kDescribeJob, "A job, its plan and its events");
    Mark(job->add_option("name", options_.describe.name, "Name or id"), ArgumentKind::kJob)
        ->required();
    CLI::App* node = Leaf(describe, "node", Command::kDescribeNode, "A node and its ranks");
    Mark(node->add_option("name", options_.describe.name, "Name"), ArgumentKind::kNode)->required();
  }

  void AddTrace() {
    TraceOptions& options = options_.trace;
    CLI::App* trace = Leaf(&app_, "trace", Command::kTrace,
                           "When each instruction of a job's newest recorded step ran, and how "
                           "that compares with what was expected");
    Mark(trace->add_option("job", options.job, "Name or id"), ArgumentKind::kJob)->required();
    Whole(trace->add_option("--lane", options.lane, "Ranks of which lane"), 0, kIntMax)
        ->capture_default_str();
    trace->add_flag("--all", options.all, "Ranks of all lanes");
    Mark(trace->add_option("--svg", options.svg, "Write a picture of the pipeline"),
         ArgumentKind::kFile)
        ->type_name("FILE");
    Mark(trace->add_option("--trace", options.trace,
                           "Write a Chrome trace, for Perfetto or chrome://tracing"),
         ArgumentKind::kFile)
        ->type_name("FILE");
  }

  void AddLogs() {
    LogsOptions& options = options_.logs;
    CLI::App* logs = Leaf(&app_, "logs", Command::kLogs, "What a rank of a job wrote");
    Mark(logs->add_option("job", options.job, "Name or id"), ArgumentKind::kJob)->required();
    Whole(logs->add_option("--rank", options.rank, "Which rank"), 0, kIntMax)
        ->capture_default_str();
    Whole(logs->add_option("--epoch", options.epoch, "Which epoch; default the newest"), 1,
          kLongMax);
    Whole(logs->add_option("--tail", options.tail_bytes, "Only the last so many bytes"), 0,
          kLongMax)
        ->type_name("BYTES");
    logs->add_flag("-f,--follow", options.follow, "Go on until the job ends");
  }

  void AddCancelAndWait() {
    CLI::App* cancel = Leaf(&app_, "cancel", Command::kCancel, "Cancel a job");
    Mark(cancel->add_option("job", options_.cancel.job, "Name or id"), ArgumentKind::kJob)
        ->required();
    cancel->add_option("--reason", options_.cancel.reason, "Why, for the events");
    CLI::App* wait = Leaf(&app_, "wait", Command::kWait, "Follow a job until it ends");
    Mark(wait->add_option("job", options_.wait.job, "Name or id"), ArgumentKind::kJob)->required();
    Seconds(wait->add_option("--timeout", options_.wait.timeout_s, "Then exit with 124; 0: none"));
  }

  static void AddActor(CLI::App* command, std::string& actor) {
    command->add_option("--actor", actor, "Who asks, for the events; default your login name");
  }

  void AddQueue() {
    QueueOptions& options = options_.queue;
    const auto add = [&](const char* name, Command command, const char* help) {
      CLI::App* leaf = Leaf(&app_, name, command, help);
      Mark(leaf->add_option("job", options.job, "Name or id"), ArgumentKind::kJob)->required();
      return leaf;
    };
    CLI::App* suspend =
        add("suspend", Command::kSuspend, "Save a job's state and give its devices back");
    suspend->add_option("--reason", options.reason, "Why, for the events");
    AddActor(suspend, options.actor);
    AddActor(add("resume", Command::kResume, "Put a suspended job back into the queue"),
             options.actor);
    add("explain", Command::kExplain, "Why a job is as it is, and what it waits for");
  }

  CLI::App* NodeLeaf(const char* name, Command command, const char* help) {
    CLI::App* leaf = Leaf(&app_, name, command, help);
    Mark(leaf->add_option("node", options_.node.node, "Name"), ArgumentKind::kNode)->required();
    AddActor(leaf, options_.node.actor);
    return leaf;
  }

  void AddNode() {
    NodeOptions& options = options_.node;
    const auto add_wait = [&](CLI::App* leaf, const char* help) {
      leaf->add_flag("-w,--wait", options.wait, help);
      Seconds(leaf->add_option("--timeout", options.timeout_s,
                               "Of --wait, then exit with 124; 0: none"));
    };
    const auto add_drain = [&](const char* name, Command command, const char* help) {
      CLI::App* leaf = NodeLeaf(name, command, help);
      Seconds(leaf->add_option("--deadline", options.deadline_s,
                               "Then ranks that are still there are given up; 0: never"));
      leaf->add_flag("--dry-run", options.dry_run, "Say what would move where, change nothing");
      add_wait(leaf, "Until the node has no ranks");
      return leaf;
    };
    const auto reason = [&](CLI::App* leaf) {
      return leaf->add_option("--reason", options.reason, "Why, for the events");
    };
    reason(add_drain("drain", Command::kDrain,
                     "Move a node's ranks away at a step boundary, and keep it free"))
        ->required();
    CLI::App* replace =
        add_drain("replace", Command::kReplace, "Drain a node and put another in its place");
    reason(replace);
    Mark(replace->add_option("--with", options.replacement,
                             "Which node takes its place; default the coordinator's choice"),
         ArgumentKind::kNode)
        ->type_name("NODE");
    NodeLeaf("undrain", Command::kUndrain, "Let a drained or cordoned node serve again");
    reason(NodeLeaf("cordon", Command::kCordon, "Give a node no new ranks; those it has stay"))
        ->required();
    NodeLeaf("uncordon", Command::kUndrain, "The same as undrain");
    add_wait(NodeLeaf("preflight", Command::kPreflight, "Test a node that has no ranks"),
             "Until the test is done, and show it; exit with 1 if it did not pass");
  }

  void AddTop() {
    CLI::App* top = Leaf(&app_, "top", Command::kTop, "Nodes and jobs, refreshed");
    top->add_flag("--once", options_.top.once, "Print once");
    Seconds(top->add_option("--interval", options_.top.interval_s, "Between two looks"))
        ->capture_default_str();
  }

  void AddCheckpoint() {
    CLI::App* checkpoint = Group(&app_, "checkpoint", "Checkpoints on disk");
    const auto add = [&](const char* name, Command command, const char* help, const char* target,
                         const char* target_help) {
      CLI::App* leaf = Leaf(checkpoint, name, command, help);
      Mark(leaf->add_option(target, options_.checkpoint.target, target_help), ArgumentKind::kFile)
          ->required();
    };
    add("list", Command::kCheckpointList, "Those of a job or in a folder", "job-or-folder",
        "A job's name, or a folder of checkpoints");
    add("show", Command::kCheckpointShow, "What one holds", "manifest",
        "A manifest, or the folder of one");
    add("verify", Command::kCheckpointVerify, "Read all of one and check every hash", "manifest",
        "A manifest, or the folder of one");
  }

  void AddData() {
    DataOptions& options = options_.data;
    CLI::App* data = Group(&app_, "data", "Token files");
    CLI::App* prepare =
        Leaf(data, "prepare", Command::kDataPrepare, "Make a token file of text files");
    Mark(prepare->add_option("inputs", options.inputs, "Text files; - for standard input"),
         ArgumentKind::kFile)
        ->required()
        ->type_name("INPUT");
    Mark(prepare->add_option("-o,--out", options.file, "The token file to make"),
         ArgumentKind::kFile)
        ->required()
        ->type_name("FILE");
    Mark(prepare->add_option("--tokenizer", options.tokenizer,
                             "bytes, or a SentencePiece model's file"),
         ArgumentKind::kFile)
        ->capture_default_str();
    Number(prepare->add_option("--validation-fraction", options.validation_fraction,
                               "Share of the documents held out for validation"),
           0, 0.5)
        ->capture_default_str();
    prepare->add_option("--source", options.source, "What the text is, for the header");
    prepare->add_flag("--allow-binary", options.allow_binary, "Take bytes that are not text");
    prepare->add_flag("--overwrite", options.overwrite, "Replace a file that is no token file");
    for (const auto& [name, command, help] :
         {std::tuple("info", Command::kDataInfo, "What a token file holds"),
          std::tuple("verify", Command::kDataVerify, "Read all of it and check its hash")}) {
      CLI::App* leaf = Leaf(data, name, command, help);
      Mark(leaf->add_option("file", options.file, "A token file"), ArgumentKind::kFile)->required();
    }
  }

  void AddExperts() {
    ExpertsOptions& options = options_.experts;
    CLI::App* experts = Group(&app_, "experts", "Where experts lie; needs no coordinator");
    CLI::App* plan = Leaf(experts, "plan", Command::kExpertsPlan,
                          "Place and replicate experts by their measured loads");
    Mark(plan->add_option("--loads", options.file,
                          "JSON file of loads, replicas, groups, nodes, devices and maybe the "
                          "current placement; - for standard input"),
         ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    Choices(plan->add_option("--algorithm", options.algorithm,
                             "balanced: never two copies on one device, and little moves; eplb: "
                             "the published one"),
            {"balanced", "eplb"})
        ->type_name("ALGORITHM")
        ->capture_default_str();
    Number(plan->add_option("--tolerance", options.tolerance,
                            "How much above the best greatest device load to stay, as a part of "
                            "it, where that moves less"),
           0, 1)
        ->capture_default_str();
    AddExpertsTraffic(experts);
  }

  void AddExpertsTraffic(CLI::App* experts) {
    ExpertsTrafficOptions& options = options_.experts_traffic;
    CLI::App* traffic = Leaf(experts, "traffic", Command::kExpertsTraffic,
                             "Foretell what a recorded routing puts on each link of a cluster");
    const auto file = [&](const char* name, std::string& path, const char* help) {
      return Mark(traffic->add_option(name, path, help), ArgumentKind::kFile)->type_name("FILE");
    };
    file("--trace", options.trace, "What the router chose (JSON, see below)")->required();
    file("--cluster", options.cluster,
         "Cluster file (YAML); ranks take the first devices of its first pool")
        ->required();
    file("--placement", options.placement,
         "Where the experts lie, as `experts plan -o json` prints it; default equal runs of them");
    Whole(traffic->add_option("--layers", options.layers, "Only the trace's first; default all"), 1,
          kIntMax)
        ->type_name("LAYERS");
    const auto bytes = [&](const char* name, int64_t& size, const char* help) {
      traffic->add_option(name, size, help)
          ->check(CLI::Range(int64_t{1}, limits::kMaxBytesOfToken))
          ->type_name("BYTES");
    };
    bytes("--dispatch-bytes", options.dispatch_bytes,
          "Of a token on its way to its experts; default as DeepSeek-V3 in FP8");
    bytes("--combine-bytes", options.combine_bytes,
          "Of a token on its way back; default as DeepSeek-V3 in BF16");
    traffic->footer(absl::StrCat(
        "The trace holds, by layer, expert rank and token, the distinct experts that the token "
        "chose:\n  {\"experts\": 256, \"groups\": 8, \"topk_group\": 4,\n   \"layers\": "
        "[{\"ranks\": [[[3, 17, ..], ..], ..]}, ..]}\ngroups and topk_group may be left out; "
        "topk_group is the most nodes that a token should visit.\nTimes are those of the slowest "
        "link. -o json and yaml hold the bytes of every link and layer.\n\n",
        kFooter));
  }

  void AddProfileMachine() {
    CLI::App* leaf = Leaf(&app_, "profile", Command::kProfileMachine,
                          "Measure this machine, so that steps of CPU jobs can be predicted; takes "
                          "some three minutes");
    Mark(leaf->add_option("-o,--out", options_.profile_machine.file,
                          "The device profile to write; default cpu-profile.yaml in the local "
                          "state folder, where plans look for it"),
         ArgumentKind::kFile);
    leaf->add_option("--precision", options_.profile_machine.precisions,
                     "Only these; default fp32, bf16 and fp8");
    Whole(leaf->add_option("--rounds", options_.profile_machine.rounds,
                           "Of which medians count: more on a machine that others use too; "
                           "default 4, of 40 seconds each"),
          1, kIntMax)
        ->type_name("ROUNDS");
    leaf->footer(
        "Here -o is --out. Options of every command, such as --state-dir: fathomctl --help\n");
  }

  void AddSchedule() {
    ScheduleOptions& options = options_.schedule;
    std::vector<std::string> kinds = schedule::ScheduleKinds();
    kinds.push_back(schedule::kSearchedKind);
    CLI::App* leaf = Leaf(&app_, "schedule", Command::kSchedule,
                          "What each rank of a pipeline does in a step, and how long it takes");
    CLI::Option* kind = leaf->add_option("--kind", options.kind, absl::StrJoin(kinds, ", "))
                            ->type_name("KIND")
                            ->required();
    // Offered, but not checked here: a kind may be written in other ways, too.
    arguments_[kind] = {ArgumentKind::kChoice, kinds};
    Whole(leaf->add_option("--ranks", options.ranks, "Pipeline ranks"), 1, kScheduledMax)
        ->required();
    Whole(leaf->add_option("--micro-batches", options.micro_batches, "Of a step"), 1, kScheduledMax)
        ->required();
    Whole(leaf->add_option("--chunks", options.chunks,
                           "Stages on each rank, of interleaved-1f1b (default 2) and searched (1)"),
          1, kIntMax);
    leaf->add_option("--costs", options.costs,
                     "Times of a forward, of a backward for the input and for the weights, and of "
                     "an overlapped pair; FB without a number: all three")
        ->type_name("F=1,B=1,W=1,FB=3");
    leaf->add_option("--stage-costs", options.stage_costs,
                     "Those that are not alike on all stages: a number for each stage, or a file "
                     "with a line for each cost")
        ->type_name("F=1,2,..;B=..|FILE");
    Number(leaf->add_option("--message-time", options.message_time,
                            "From the end of an instruction until its message is there"),
           0, kMessageTimeMax)
        ->capture_default_str();
    CLI::Option* family =
        leaf->add_option("--family", options.family,
                         "How stages lie on ranks, of searched: loop as in 1f1b, v as in zbv, "
                         "bidirectional as in dualpipe; default loop")
            ->type_name("FAMILY");
    arguments_[family] = {ArgumentKind::kChoice, {"loop", "v", "bidirectional"}};
    Whole(leaf->add_option("--max-activations", options.max_activations,
                           "Micro-batches of a stage whose activations a rank may hold, of "
                           "searched; default any number"),
          1, kIntMax);
    Mark(leaf->add_option("--svg", options.svg, "Write a picture of the pipeline"),
         ArgumentKind::kFile)
        ->type_name("FILE");
  }

  void AddModel() {
    ModelOptions& options = options_.model;
    CLI::App* leaf = Leaf(&app_, "model", Command::kModel,
                          "A job's model as numbers: parameters, operations, bytes, tensors");
    Mark(leaf->add_option("-f,--file", options.file, "Job file, or - for standard input"),
         ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    leaf->add_option("--set", options.overrides,
                     "Override a field of the file: spec.parallelism.pipeline=8; may be repeated")
        ->type_name("FIELD=VALUE")
        ->allow_extra_args(false)
        ->take_all();
    leaf->add_flag("--tensors", options.tensors, "List every tensor and who owns it");
  }

  // What plan and whatif are asked about.
  void AddPlanned(CLI::App* leaf, PlanOptions& options) {
    Mark(leaf->add_option("-f,--file", options.file, "Job file (YAML); - for standard input"),
         ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    Mark(leaf->add_option("--cluster", options.cluster, "Cluster file (YAML)"), ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    leaf->add_option("--set", options.overrides,
                     "Override a field of the job: spec.training.micro_batches=240; may be "
                     "repeated")
        ->type_name("FIELD=VALUE")
        ->allow_extra_args(false)
        ->take_all();
    std::vector<std::string> kinds = schedule::ScheduleKinds();
    kinds.push_back(schedule::kSearchedKind);
    CLI::Option* kind =
        leaf->add_option("--schedule", options.schedule,
                         absl::StrCat("The pipeline's schedule: ", absl::StrJoin(kinds, ", "),
                                      "; default as ranks run, or the best"))
            ->type_name("KIND");
    arguments_[kind] = {ArgumentKind::kChoice, kinds};
    leaf->add_flag("--take-best", options.take_best,
                   "Take the best layout that is found, even if the job names another");
  }

  void AddPlan() {
    PlanOptions& options = options_.plan;
    CLI::App* plan = Leaf(&app_, "plan", Command::kPlan,
                          "Predict a job's step, memory and cost on a described cluster; needs no "
                          "coordinator");
    plan->footer(absl::StrCat(
        "Example:\n  fathomctl plan -f deploy/examples/deepseek-v3.yaml --cluster "
        "deploy/examples/h800-256.yaml --svg step.svg\n\n-o wide adds the times of every stage; "
        "-o json and yaml hold all there is.\n",
        kFooter));
    AddPlanned(plan, options);
    plan->add_flag("--no-search", options.no_search,
                   "Don't compare a layout that the job names with others");
    Mark(plan->add_option("--svg", options.svg, "Write a picture of the pipeline's step"),
         ArgumentKind::kFile)
        ->type_name("FILE");
    Mark(plan->add_option("--trace", options.trace,
                          "Write the step as a Chrome trace, for Perfetto or chrome://tracing"),
         ArgumentKind::kFile)
        ->type_name("FILE");
  }

  void AddWhatIf() {
    WhatIfOptions& options = options_.whatif;
    CLI::App* whatif = Group(&app_, "whatif",
                             "What a loss of nodes or another cluster would mean for a job; needs "
                             "no coordinator");
    const auto add_nodes = [&](const char* name, Command command, const char* help) {
      CLI::App* leaf = Leaf(whatif, name, command, help);
      leaf->add_option("nodes", options.nodes, "Names, <pool>-<index>")
          ->type_name("NODE")
          ->required();
      Whole(leaf->add_option("--steps-done", options.steps_done,
                             "Steps that the job has done by then; default unknown"),
            0, kStepsMax)
          ->type_name("STEPS");
      AddPlanned(leaf, options.plan);
      leaf->footer(absl::StrCat("Example:\n  fathomctl whatif ", name,
                                " h800-3 -f deploy/examples/deepseek-v3.yaml --cluster "
                                "deploy/examples/h800-256.yaml\n\n",
                                kFooter));
    };
    add_nodes("kill", Command::kWhatIfKill, "If nodes died all at once");
    add_nodes("drain", Command::kWhatIfDrain, "If nodes were drained");
    CLI::App* cluster = Leaf(whatif, "cluster", Command::kWhatIfCluster,
                             "If the job ran on another cluster, with the best layout there");
    Mark(cluster->add_option("other", options.other, "The other cluster's file (YAML)"),
         ArgumentKind::kFile)
        ->type_name("FILE")
        ->required();
    AddPlanned(cluster, options.plan);
    cluster->footer(
        absl::StrCat("Example:\n  fathomctl whatif cluster "
                     "deploy/examples/h100-128.yaml -f "
                     "deploy/examples/deepseek-v3.yaml --cluster "
                     "deploy/examples/h800-256.yaml\n\n",
                     kFooter));
  }

  void AddOthers() {
    Leaf(&app_, "version", Command::kVersion, "Versions of fathomctl and of the coordinator");
    CLI::App* completion = Leaf(&app_, "completion", Command::kCompletion,
                                "A script that completes commands: source <(fathomctl completion "
                                "bash)");
    Choices(completion->add_option("shell", options_.shell, "Which shell"), {"bash", "zsh"})
        ->required();
    CLI::App* help = Group(&app_, "help", "Further help");
    Leaf(help, "exit-codes", Command::kHelpExitCodes, "What the exit codes mean");
  }

  // The command that the arguments had reached.
  const CLI::App& Deepest() const {
    const CLI::App* app = &app_;
    while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
    return *app;
  }

  static std::string PathOf(const CLI::App& app) {
    const CLI::App* parent = app.get_parent();
    return parent == nullptr ? app.get_name() : absl::StrCat(PathOf(*parent), " ", app.get_name());
  }

  CompletionArgument ArgumentOf(const CLI::Option* option) const {
    const auto found = arguments_.find(option);
    return found == arguments_.end() ? CompletionArgument() : found->second;
  }

  CommandNode Describe(const CLI::App& app) const {
    CommandNode node;
    node.name = app.get_name();
    for (const CLI::Option* option : app.get_options()) {
      if (option->get_positional()) {
        node.positionals.push_back(ArgumentOf(option));
        continue;
      }
      CompletionOption described;
      for (const std::string& name : option->get_snames()) described.names.push_back("-" + name);
      for (const std::string& name : option->get_lnames()) described.names.push_back("--" + name);
      described.takes_value = option->get_items_expected_max() > 0;
      described.value = ArgumentOf(option);
      node.options.push_back(std::move(described));
    }
    for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
      node.children.push_back(Describe(*child));
    }
    return node;
  }

  CLI::App app_;
  Options options_;
  std::string output_ = "table";
  std::vector<std::pair<CLI::App*, Command>> commands_;
  std::map<const CLI::Option*, CompletionArgument> arguments_;  // those that are more than text
};

}  // namespace

absl::StatusOr<ParsedCommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  return std::make_unique<CommandTree>()->Parse(arguments);
}

CommandNode DescribeCommands() { return std::make_unique<CommandTree>()->Describe(); }

}  // namespace fathom::cli
