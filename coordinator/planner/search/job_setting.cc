#include "coordinator/planner/search/job_setting.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/cluster/cluster_description.h"
#include "common/plan/job_resolve.h"
#include "coordinator/planner/cost/stage_times.h"

namespace fathom::planner {
namespace {

// Stands for files that a prediction never opens.
constexpr char kAnyPath[] = "/any";
constexpr int64_t kMaxSuggestedMicroBatches = 1 << 16;

// Relative paths have no folder to start from here.
void DropPaths(v1::JobSpec* spec) {
  if (!absl::StartsWith(spec->data().token_file(), "/")) {
    spec->mutable_data()->set_token_file(kAnyPath);
  }
  spec->mutable_checkpoint()->clear_directory();
  spec->mutable_checkpoint()->clear_resume_from();
}

// `nodes`: "pool-7", "pool-[0-31]" or "pool-1[0-9]"; pools may be called "pool-1", too.
bool AreOfPool(const std::string& nodes, const std::string& pool) {
  absl::string_view rest = nodes;
  if (!absl::ConsumePrefix(&rest, absl::StrCat(pool, "-"))) return false;
  const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
  return digits == rest.size() || rest[digits] == '[';
}

// The switches above this pool's nodes.
std::vector<v1::Switch> SwitchesAbove(const v1::Fabric& fabric, const std::string& pool) {
  std::vector<v1::Switch> kept;
  std::set<std::string> named;
  for (const v1::Switch& of_all : fabric.switches()) {
    v1::Switch one = of_all;
    one.clear_nodes();
    for (const std::string& node : of_all.nodes()) {
      if (AreOfPool(node, pool)) one.add_nodes(node);
    }
    if (one.nodes_size() == 0) continue;
    named.insert(one.uplinks().begin(), one.uplinks().end());
    kept.push_back(std::move(one));
  }
  for (size_t before = 0; before < named.size();) {  // upwards until nothing is added
    before = named.size();
    for (const v1::Switch& of_all : fabric.switches()) {
      if (named.count(of_all.name()) == 0) continue;
      named.insert(of_all.uplinks().begin(), of_all.uplinks().end());
    }
  }
  for (const v1::Switch& of_all : fabric.switches()) {
    if (of_all.nodes_size() == 0 && named.count(of_all.name()) > 0) kept.push_back(of_all);
  }
  return kept;
}

// The cluster with this pool alone; its nodes keep their names.
v1::ClusterSpec OnlyPool(const v1::ClusterSpec& spec, int pool) {
  v1::ClusterSpec only = spec;
  only.clear_pools();
  *only.add_pools() = spec.pools(pool);
  only.mutable_fabric()->clear_switches();
  for (v1::Switch& one : SwitchesAbove(spec.fabric(), spec.pools(pool).name())) {
    *only.mutable_fabric()->add_switches() = std::move(one);
  }
  return only;
}

DeviceSet MakeSet(const v1::ClusterSpec& spec, const std::string& pool, const JobSetting& setting) {
  DeviceSet set;
  set.pool = pool;
  set.topology = std::make_unique<cluster::Topology>(spec);
  set.devices = set.topology->devices();
  for (const cluster::TopologyNode& node : set.topology->nodes()) {
    ++(node.spare ? set.spares : set.nodes);
  }
  if (spec.pools_size() == 1) set.devices_per_node = spec.pools(0).devices_per_node();
  set.costs = std::make_unique<JobCosts>(setting.config, setting.recipe, set.topology.get());
  return set;
}

absl::Status AddSets(JobSetting* setting) {
  const v1::ClusterSpec& spec = setting->cluster.spec();
  for (const v1::DeviceProfile& profile : spec.profiles()) {
    if (profile.kind() == "cpu" && profile.op_times().ops().empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cluster ", setting->cluster.metadata().name(),
          ": its \"cpu\" devices have no op times, and processors differ too much to guess them; "
          "run `fathomctl profile` on the machine first"));
    }
  }
  for (int pool = 0; pool < spec.pools_size(); ++pool) {
    setting->sets.push_back(MakeSet(OnlyPool(spec, pool), spec.pools(pool).name(), *setting));
  }
  if (spec.pools_size() > 1) setting->sets.push_back(MakeSet(spec, "", *setting));
  return absl::OkStatus();
}

absl::Status Adopt(v1::Job resolved, JobSetting* setting) {
  setting->job = std::move(resolved);
  const v1::JobSpec& spec = setting->job.spec();
  FATHOM_ASSIGN_OR_RETURN(setting->config, model::ResolveModel(spec.model()));
  FATHOM_ASSIGN_OR_RETURN(setting->recipe, model::FindRecipe(spec.precision()));
  setting->shape.parallelism = spec.parallelism();
  setting->shape.micro_batches = spec.training().micro_batches();
  setting->shape.micro_batch_sequences = spec.training().micro_batch_sequences();
  setting->sequences = setting->shape.micro_batches * setting->shape.micro_batch_sequences *
                       spec.parallelism().expert() * spec.parallelism().replicas();
  setting->base.sequence_length = spec.data().sequence_length();
  setting->base.imbalance = kBalancedImbalance;
  setting->base.snapshots_on_buddy = spec.recovery().snapshot_every_steps() > 0;
  return absl::OkStatus();
}

int Clamp(int64_t value, int64_t most) {
  return static_cast<int>(std::clamp<int64_t>(value, 1, most));
}

// A job whose layout can't be resolved: `status` says why. Without the layout it can.
absl::Status RefuseLayout(const v1::Job& job, const v1::Job& without, const absl::Status& status,
                          JobSetting* setting) {
  FATHOM_RETURN_IF_ERROR(Adopt(without, setting));
  FATHOM_RETURN_IF_ERROR(AddSets(setting));
  const v1::Parallelism& asked = job.spec().parallelism();
  const v1::Training& training = job.spec().training();
  const int64_t devices = setting->largest().devices;
  setting->shape.parallelism.set_pipeline(Clamp(asked.pipeline(), devices));
  setting->shape.parallelism.set_expert(Clamp(asked.expert(), devices));
  setting->shape.parallelism.set_replicas(Clamp(asked.replicas(), devices));
  setting->shape.micro_batches = Clamp(training.micro_batches(), kMaxSuggestedMicroBatches);
  setting->shape.micro_batch_sequences =
      Clamp(training.micro_batch_sequences(), kMaxMicroBatchSequences);
  setting->sequences = setting->shape.micro_batches * setting->shape.micro_batch_sequences *
                       setting->shape.parallelism.expert() * setting->shape.parallelism.replicas();
  FATHOM_ASSIGN_OR_RETURN(const std::vector<Suggestion> suggestions, SuggestFor(*setting, false));
  return Refuse(status.code(), std::string(status.message()), suggestions);
}

}  // namespace

SpaceLimits JobSetting::LimitsOn(const DeviceSet& set) const {
  return {config.num_hidden_layers, config.n_routed_experts, set.devices, sequences,
          base.sequence_length};
}

const DeviceSet& JobSetting::largest() const {
  FATHOM_CHECK(!sets.empty()) << "a cluster without devices";
  return *std::max_element(sets.begin(), sets.end(), [](const DeviceSet& a, const DeviceSet& b) {
    return a.devices < b.devices;
  });
}

absl::StatusOr<JobSetting> ResolveSetting(const v1::Job& job,
                                          const v1::ClusterDescription& cluster) {
  JobSetting setting;
  FATHOM_ASSIGN_OR_RETURN(setting.cluster, cluster::ResolveCluster(cluster));
  setting.named = job.spec().has_parallelism();
  v1::Job given = job;
  DropPaths(given.mutable_spec());
  plan::ResolveContext context;
  context.default_name = given.spec().model().preset();
  absl::StatusOr<v1::Job> resolved = plan::ResolveJob(given, context);
  if (!resolved.ok()) {
    v1::Job without = given;
    without.mutable_spec()->clear_parallelism();
    without.mutable_spec()->mutable_training()->clear_micro_batches();
    without.mutable_spec()->mutable_training()->clear_micro_batch_sequences();
    without.mutable_spec()->mutable_training()->clear_validation_batches();
    const absl::StatusOr<v1::Job> sound = plan::ResolveJob(without, context);
    if (!sound.ok()) return resolved.status();
    return RefuseLayout(given, *sound, resolved.status(), &setting);
  }
  FATHOM_RETURN_IF_ERROR(Adopt(*std::move(resolved), &setting));
  FATHOM_RETURN_IF_ERROR(AddSets(&setting));
  if (!setting.named && job.spec().training().micro_batches() == 0) {
    setting.default_sequences = true;
    setting.sequences = kDefaultSequencesPerDevice * setting.largest().devices;
  }
  return setting;
}

absl::StatusOr<std::vector<Suggestion>> SuggestFor(const JobSetting& setting, bool same_sequences) {
  SuggestionRequest request;
  request.to = setting.shape;
  request.base = setting.base;
  for (bool same : {same_sequences, false}) {
    request.same_sequences = same;
    for (const DeviceSet& set : setting.sets) {
      request.limits = setting.LimitsOn(set);
      FATHOM_ASSIGN_OR_RETURN(std::vector<Suggestion> found,
                              NearestLayouts(request, set.costs.get()));
      if (!found.empty()) return found;
    }
  }
  for (const DeviceSet& set : setting.sets) {
    if (set.devices_per_node == 0 || set.nodes == 0) continue;
    request.limits = setting.LimitsOn(set);
    FATHOM_ASSIGN_OR_RETURN(
        std::vector<Suggestion> found,
        LargerCluster(request, set.nodes, set.devices_per_node, set.costs.get()));
    for (Suggestion& suggestion : found) {
      suggestion.layout.set_nodes(suggestion.layout.nodes() + set.spares);
      if (setting.sets.size() > 1) suggestion.pool = set.pool;
    }
    if (!found.empty()) return found;
  }
  return std::vector<Suggestion>();
}

}  // namespace fathom::planner
