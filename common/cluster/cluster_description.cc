#include "common/cluster/cluster_description.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "common/cluster/device_profiles.h"
#include "common/cluster/switch_graph.h"

namespace fathom::cluster {
namespace {

using google::protobuf::FieldDescriptor;

constexpr char kDefaultName[] = "cluster";
constexpr int kDefaultDevicesPerNode = 8;
constexpr int kDefaultNodesPerLeaf = 32;
constexpr char kGiven[] = "given in the cluster file";

// A kind of fabric and what is taken for it where the file says nothing.
struct FabricKind {
  const char* kind;
  double same_leaf_latency_us;
  double other_leaf_latency_us;
  double efficiency;
};
// Latencies of InfiniBand and RoCE: arXiv 2505.09343, 64 bytes between two GPUs. InfiniBand's
// efficiency: 50 GB/s of a 400 Gb/s NIC as arXiv 2412.19437 counts it. RoCE's: derived, 4096 bytes
// of 82 more of headers, checksums and gaps. TCP's: derived, 1448 bytes of 1538 on the wire; its
// latencies are assumed, a system call and an interrupt at each end.
constexpr std::array<FabricKind, 3> kFabricKinds = {{
    {"infiniband", 2.8, 3.7, 1.0},
    {"roce", 3.6, 5.6, 0.98},
    {"tcp", 30, 40, 0.94},
}};

template <typename... Text>
absl::Status Wrong(const Text&... what) {
  return absl::InvalidArgumentError(absl::StrCat(what...));
}

// Sets what is 0 to `fallback`; what is given must be from 1 to `max`.
absl::Status Count(absl::string_view field, int64_t given, int64_t fallback, int64_t max,
                   int32_t* out) {
  const int64_t value = given == 0 ? fallback : given;
  if (value < 1) return Wrong(field, ": ", value, "; give at least 1");
  if (value > max) return Wrong(field, ": ", value, "; give at most ", max);
  *out = static_cast<int32_t>(value);
  return absl::OkStatus();
}

absl::Status NotNegative(absl::string_view field, double value) {
  if (!(value >= 0) || !std::isfinite(value)) return Wrong(field, ": ", value, "; give 0 or more");
  if (value > kFigureMax) return Wrong(field, ": ", value, "; give at most ", kFigureMax);
  return absl::OkStatus();
}

absl::Status Rate(absl::string_view field, double given, double fallback, double* out) {
  const double value = given == 0 ? fallback : given;
  if (!(value > 0) || !std::isfinite(value)) {
    return Wrong(field, ": ", value, "; give a positive number");
  }
  if (value < kFigureMin || value > kFigureMax) {
    return Wrong(field, ": ", value, "; give a number from ", kFigureMin, " to ", kFigureMax);
  }
  *out = value;
  return absl::OkStatus();
}

bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= limits::kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '.';
         });
}

// Numbers of a profile that are set.
std::vector<std::string> FiguresOf(const v1::DeviceProfile& profile) {
  std::vector<const FieldDescriptor*> fields;
  profile.GetReflection()->ListFields(profile, &fields);
  std::vector<std::string> names;
  for (const FieldDescriptor* field : fields) {
    const auto type = field->cpp_type();
    if (!field->is_repeated() && type != FieldDescriptor::CPPTYPE_STRING &&
        type != FieldDescriptor::CPPTYPE_MESSAGE) {
      names.push_back(field->name());
    }
  }
  return names;
}

// Figures that the file gives stand, what it leaves out is the built-in profile's. Rates of an op
// and format replace all that were there of them; the source of a replaced figure goes with it.
v1::DeviceProfile TakenOver(v1::DeviceProfile base, const v1::DeviceProfile& given) {
  std::set<std::string> replaced;
  for (const std::string& figure : FiguresOf(given)) replaced.insert(figure);
  for (const v1::Source& source : given.sources()) replaced.insert(source.figure());
  std::set<std::pair<std::string, std::string>> rated;
  for (const v1::MeasuredRate& rate : given.rates()) rated.emplace(rate.op(), rate.format());
  auto* sources = base.mutable_sources();
  sources->erase(std::remove_if(sources->begin(), sources->end(),
                                [&](const v1::Source& s) { return replaced.contains(s.figure()); }),
                 sources->end());
  auto* rates = base.mutable_rates();
  rates->erase(std::remove_if(rates->begin(), rates->end(),
                              [&](const v1::MeasuredRate& r) {
                                return rated.contains({r.op(), r.format()});
                              }),
               rates->end());
  if (given.has_op_times()) base.clear_op_times();
  base.MergeFrom(given);
  return base;
}

void AddMissingSources(v1::DeviceProfile& profile) {
  std::set<std::string> sourced;
  for (const v1::Source& source : profile.sources()) sourced.insert(source.figure());
  for (const std::string& figure : FiguresOf(profile)) {
    if (sourced.contains(figure)) continue;
    v1::Source* source = profile.add_sources();
    source->set_figure(figure);
    source->set_text(kGiven);
  }
  for (v1::MeasuredRate& rate : *profile.mutable_rates()) {
    if (rate.source().empty()) rate.set_source(kGiven);
  }
}

class Resolver {
 public:
  explicit Resolver(const v1::ClusterDescription& given) : given_(given.spec()), out_(given) {}

  absl::StatusOr<v1::ClusterDescription> Resolve() {
    if (out_.metadata().name().empty()) out_.mutable_metadata()->set_name(kDefaultName);
    FATHOM_RETURN_IF_ERROR(CheckSizes());
    FATHOM_RETURN_IF_ERROR(ReadProfiles());
    for (int i = 0; i < given_.pools_size(); ++i) {
      FATHOM_RETURN_IF_ERROR(ResolvePool(i));
    }
    FATHOM_RETURN_IF_ERROR(CheckNodeCount());
    FATHOM_RETURN_IF_ERROR(ResolveFabric());
    const v1::Storage& storage = given_.storage();
    FATHOM_RETURN_IF_ERROR(NotNegative("spec.storage.write_gigabytes_per_second",
                                       storage.write_gigabytes_per_second()));
    FATHOM_RETURN_IF_ERROR(
        NotNegative("spec.storage.read_gigabytes_per_second", storage.read_gigabytes_per_second()));
    FATHOM_RETURN_IF_ERROR(LeavesOfNodes(out_.spec()).status());
    return std::move(out_);
  }

 private:
  absl::Status CheckSizes() const {
    if (given_.pools().empty()) {
      return Wrong(
          "spec.pools: empty; a cluster has at least one pool, such as {name: main, device: h800, "
          "nodes: 256}");
    }
    if (given_.pools_size() > limits::kMaxPools) {
      return Wrong("spec.pools: ", given_.pools_size(), " of them; give at most ",
                   limits::kMaxPools);
    }
    if (given_.profiles_size() > limits::kMaxProfiles) {
      return Wrong("spec.profiles: ", given_.profiles_size(), " of them; give at most ",
                   limits::kMaxProfiles);
    }
    if (given_.fabric().switches_size() > limits::kMaxSwitches) {
      return Wrong("spec.fabric.switches: ", given_.fabric().switches_size(),
                   " of them; give at most ", limits::kMaxSwitches);
    }
    return absl::OkStatus();
  }

  absl::Status ReadProfiles() {
    out_.mutable_spec()->clear_profiles();
    for (int i = 0; i < given_.profiles_size(); ++i) {
      v1::DeviceProfile profile = given_.profiles(i);
      profile.set_kind(absl::AsciiStrToLower(profile.kind()));
      for (const v1::DeviceProfile& other : given_profiles_) {
        if (other.kind() == profile.kind()) {
          return Wrong("spec.profiles[", i, "].kind: ", profile.kind(),
                       " stands there twice; describe it once");
        }
      }
      if (auto built_in = FindProfile(profile.kind()); built_in.ok()) {
        profile = TakenOver(*std::move(built_in), profile);
      }
      if (profile.title().empty()) profile.set_title(profile.kind());
      AddMissingSources(profile);
      FATHOM_RETURN_IF_ERROR(
          WithContext(CheckProfile(profile), absl::StrCat("spec.profiles[", i, "]")));
      given_profiles_.push_back(std::move(profile));
    }
    return absl::OkStatus();
  }

  // Also puts it among the resolved cluster's, once.
  absl::StatusOr<v1::DeviceProfile> ProfileOf(const std::string& device) {
    const std::string kind = absl::AsciiStrToLower(device);
    for (const v1::DeviceProfile& profile : out_.spec().profiles()) {
      if (profile.kind() == kind) return profile;
    }
    for (const v1::DeviceProfile& profile : given_profiles_) {
      if (profile.kind() == kind) return *out_.mutable_spec()->add_profiles() = profile;
    }
    FATHOM_ASSIGN_OR_RETURN(v1::DeviceProfile profile, FindProfile(kind));
    return *out_.mutable_spec()->add_profiles() = profile;
  }

  absl::Status ResolvePool(int index) {
    v1::Pool& pool = *out_.mutable_spec()->mutable_pools(index);
    const std::string at = absl::StrCat("spec.pools[", index, "]");
    if (pool.device().empty()) {
      return Wrong(
          at, ".device: missing; give a kind of device: ", absl::StrJoin(ProfileKinds(), ", "));
    }
    auto profile = ProfileOf(pool.device());
    if (!profile.ok()) return WithContext(profile.status(), absl::StrCat(at, ".device"));
    pool.set_device(profile->kind());
    if (pool.name().empty()) pool.set_name(profile->kind());
    if (!IsName(pool.name())) {
      return Wrong(at, ".name: \"", pool.name(),
                   "\"; take small letters, digits, - and ., at most ", limits::kMaxNameBytes);
    }
    for (int other = 0; other < index; ++other) {
      if (out_.spec().pools(other).name() == pool.name()) {
        return Wrong(at, ".name: ", pool.name(), " is also pool ", other, "'s; call it ",
                     pool.name(), "-", index);
      }
    }
    const std::string named = absl::StrCat(at, " (", pool.name(), ")");
    FATHOM_RETURN_IF_ERROR(ResolveShape(named, *profile, pool));
    return ResolveRates(named, *profile, pool);
  }

  static absl::Status ResolveShape(const std::string& at, const v1::DeviceProfile& profile,
                                   v1::Pool& pool) {
    int32_t value = 0;
    if (pool.nodes() < 1) return Wrong(at, ".nodes: ", pool.nodes(), "; give at least 1");
    if (pool.nodes() > limits::kMaxNodes) {
      return Wrong(at, ".nodes: ", pool.nodes(), "; give at most ", limits::kMaxNodes);
    }
    FATHOM_RETURN_IF_ERROR(Count(at + ".devices_per_node", pool.devices_per_node(),
                                 kDefaultDevicesPerNode, limits::kMaxDevicesPerNode, &value));
    const int devices = value;
    pool.set_devices_per_node(devices);
    // By default as many whole nodes as the profile's domain holds; one no larger than a usual
    // machine lies within a machine.
    const int spans = profile.scale_up_devices() > kDefaultDevicesPerNode
                          ? std::max(profile.scale_up_devices() / devices, 1)
                          : 1;
    const int domain = spans * devices;
    FATHOM_RETURN_IF_ERROR(Count(at + ".scale_up_devices", pool.scale_up_devices(), domain,
                                 int64_t{limits::kMaxNodes} * limits::kMaxDevicesPerNode, &value));
    if (value % devices != 0) {
      return Wrong(at, ".scale_up_devices: ", value, " is no whole number of nodes of ", devices,
                   " devices; give ", std::max(value / devices, 1) * devices);
    }
    pool.set_scale_up_devices(value);
    FATHOM_RETURN_IF_ERROR(Count(at + ".nics_per_node", pool.nics_per_node(), devices,
                                 limits::kMaxNicsPerNode, &value));
    pool.set_nics_per_node(value);
    FATHOM_RETURN_IF_ERROR(Count(at + ".nodes_per_leaf", pool.nodes_per_leaf(),
                                 kDefaultNodesPerLeaf, limits::kMaxNodes, &value));
    pool.set_nodes_per_leaf(value);
    FATHOM_RETURN_IF_ERROR(Count(at + ".nodes_per_failure_domain", pool.nodes_per_failure_domain(),
                                 value, limits::kMaxNodes, &value));
    pool.set_nodes_per_failure_domain(value);
    FATHOM_RETURN_IF_ERROR(
        Count(at + ".cores_per_node", pool.cores_per_node(), devices, limits::kMaxCores, &value));
    pool.set_cores_per_node(value);
    if (pool.spares() < 0 || pool.spares() >= pool.nodes()) {
      return Wrong(at, ".spares: ", pool.spares(), " of ", pool.nodes(),
                   " nodes; give 0 or more, at most ", pool.nodes() - 1);
    }
    if (pool.shared_cores() < 0 || pool.shared_cores() > limits::kMaxCores) {
      return Wrong(at, ".shared_cores: ", pool.shared_cores(), "; give from 0 to ",
                   limits::kMaxCores);
    }
    return absl::OkStatus();
  }

  static absl::Status ResolveRates(const std::string& at, const v1::DeviceProfile& profile,
                                   v1::Pool& pool) {
    double rate = 0;
    FATHOM_RETURN_IF_ERROR(Rate(at + ".nic_gigabits_per_second", pool.nic_gigabits_per_second(),
                                profile.nic_gigabits_per_second(), &rate));
    pool.set_nic_gigabits_per_second(rate);
    if (pool.dollars_per_device_hour() == 0) {
      pool.set_dollars_per_device_hour(profile.dollars_per_device_hour());
    }
    FATHOM_RETURN_IF_ERROR(
        NotNegative(at + ".dollars_per_device_hour", pool.dollars_per_device_hour()));
    if (pool.host_memory_bytes() >= 0) return absl::OkStatus();
    return Wrong(at, ".host_memory_bytes: ", pool.host_memory_bytes(), "; give 0 or more");
  }

  absl::Status CheckNodeCount() const {
    int64_t nodes = 0;
    for (const v1::Pool& pool : out_.spec().pools()) nodes += pool.nodes();
    if (nodes <= limits::kMaxNodes) return absl::OkStatus();
    return Wrong("spec.pools: ", nodes, " nodes in all; give at most ", limits::kMaxNodes);
  }

  absl::Status ResolveFabric() {
    v1::Fabric& fabric = *out_.mutable_spec()->mutable_fabric();
    fabric.set_kind(fabric.kind().empty() ? kFabricKinds.front().kind
                                          : absl::AsciiStrToLower(fabric.kind()));
    const auto* kind = std::find_if(kFabricKinds.begin(), kFabricKinds.end(),
                                    [&](const FabricKind& k) { return fabric.kind() == k.kind; });
    if (kind == kFabricKinds.end()) return UnknownFabric(fabric.kind());
    int32_t planes = 0;
    FATHOM_RETURN_IF_ERROR(
        Count("spec.fabric.planes", fabric.planes(), 1, limits::kMaxNicsPerNode, &planes));
    fabric.set_planes(planes);
    for (const v1::Pool& pool : out_.spec().pools()) {
      if (pool.nics_per_node() < planes) {
        return Wrong("spec.fabric.planes: ", planes, ", but a node of ", pool.name(), " has ",
                     pool.nics_per_node(), " NICs and would miss some; give at most ",
                     pool.nics_per_node());
      }
    }
    double rate = 0;
    FATHOM_RETURN_IF_ERROR(
        Rate("spec.fabric.oversubscription", fabric.oversubscription(), 1, &rate));
    if (rate < 1) {
      return Wrong("spec.fabric.oversubscription: ", rate,
                   ", downlinks over uplinks; give 1 where the uplinks carry it all");
    }
    fabric.set_oversubscription(rate);
    FATHOM_RETURN_IF_ERROR(Rate("spec.fabric.same_leaf_latency_us", fabric.same_leaf_latency_us(),
                                kind->same_leaf_latency_us, &rate));
    fabric.set_same_leaf_latency_us(rate);
    FATHOM_RETURN_IF_ERROR(Rate("spec.fabric.other_leaf_latency_us", fabric.other_leaf_latency_us(),
                                kind->other_leaf_latency_us, &rate));
    fabric.set_other_leaf_latency_us(rate);
    FATHOM_RETURN_IF_ERROR(
        Rate("spec.fabric.efficiency", fabric.efficiency(), kind->efficiency, &rate));
    if (rate > 1) return Wrong("spec.fabric.efficiency: ", rate, "; give at most 1");
    fabric.set_efficiency(rate);
    return absl::OkStatus();
  }

  static absl::Status UnknownFabric(const std::string& given) {
    const FabricKind* nearest = &kFabricKinds.front();
    size_t distance = limits::kMaxNameBytes;
    for (const FabricKind& kind : kFabricKinds) {
      const size_t to = EditDistance(given, kind.kind, distance);
      if (to >= distance) continue;
      distance = to;
      nearest = &kind;
    }
    return Wrong("spec.fabric.kind: ", given, "; there is infiniband, roce and tcp, nearest is ",
                 nearest->kind);
  }

  const v1::ClusterSpec& given_;
  v1::ClusterDescription out_;
  std::vector<v1::DeviceProfile> given_profiles_;
};

}  // namespace

absl::StatusOr<v1::ClusterDescription> ResolveCluster(const v1::ClusterDescription& given) {
  return Resolver(given).Resolve();
}

}  // namespace fathom::cluster
