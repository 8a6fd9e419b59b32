#include "coordinator/planner/whatif.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "common/plan/buddy.h"
#include "coordinator/planner/replan.h"
#include "coordinator/planner/restore_cost.h"
#include "coordinator/planner/survivability.h"
#include "coordinator/planner/topology_placement.h"

namespace fathom::planner {
namespace {

using cluster::Topology;
using cluster::TopologyNode;

// The instant of a failure is as likely as any other of a step.
constexpr double kStepUnderWay = 0.5;
constexpr double kSecondsPerDay = 86400;
constexpr double kSecondsPerHour = 3600;

std::string NearestNode(const Topology& topology, const std::string& name) {
  constexpr size_t kFar = 64;
  std::string best;
  size_t best_distance = kFar;
  for (const TopologyNode& node : topology.nodes()) {
    const size_t distance = EditDistance(node.name, name, kFar);
    if (distance < best_distance) {
      best = node.name;
      best_distance = distance;
    }
  }
  return best.empty() ? topology.nodes().front().name : best;
}

void Assume(const std::string& name, const std::string& value, const std::string& source,
            double adds_s, v1::WhatIf* result) {
  v1::Assumption* assumption = result->add_assumptions();
  assumption->set_name(name);
  assumption->set_value(value);
  assumption->set_source(source);
  assumption->set_adds_s(adds_s);
}

double TokensPerDay(const v1::JobSpec& spec, double step_seconds) {
  const v1::Parallelism& shape = spec.parallelism();
  const double tokens = static_cast<double>(spec.training().micro_batches()) *
                        static_cast<double>(spec.training().micro_batch_sequences()) *
                        static_cast<double>(spec.data().sequence_length()) * shape.expert() *
                        shape.replicas();
  return step_seconds > 0 ? tokens / step_seconds * kSecondsPerDay : 0;
}

// One question about nodes, answered step by step.
class Question {
 public:
  Question(const WhatIfJob& job, const std::vector<std::string>& nodes, bool kill)
      : job_(job),
        topology_(*job.topology),
        asked_(job.asked != nullptr ? *job.asked : job.plan->spec()),
        gone_(nodes.begin(), nodes.end()),
        kill_(kill) {
    for (size_t i = 0; i < topology_.nodes().size(); ++i) {
      index_of_.emplace(topology_.nodes()[i].name, static_cast<int>(i));
    }
    result_.set_job(job.plan->job());
    result_.set_question(kill ? "kill" : "drain");
    for (const std::string& node : nodes) result_.add_nodes(node);
  }

  absl::StatusOr<v1::WhatIf> Answer() {
    FATHOM_RETURN_IF_ERROR(Check());
    costs_ = RecoveryCostsFor(topology_.profile_of(index_of_.at(job_.plan->ranks(0).node())));
    *result_.mutable_parallelism_before() = job_.plan->spec().parallelism();
    result_.set_step_seconds_before(job_.step_seconds);
    result_.set_tokens_per_day_before(TokensPerDay(job_.plan->spec(), job_.step_seconds));
    if (!HasRanksThere()) return NothingHappens();
    if (kill_) TellLost();
    const absl::StatusOr<v1::Plan> next = NextPlan();
    if (!next.ok()) {
      if (!absl::IsResourceExhausted(next.status())) return next.status();
      return Waits(next.status());
    }
    TellPlan(*next);
    FATHOM_RETURN_IF_ERROR(TellSteps(*next));
    FATHOM_RETURN_IF_ERROR(TellTime(*next));
    TellMoney();
    *result_.mutable_survivability_after() = SurvivabilityOf(*next);
    result_.set_goes_on(true);
    result_.set_answer(GoesOnInWords());
    return result_;
  }

 private:
  absl::Status Check() const {
    if (!(job_.step_seconds > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("a step of ", job_.step_seconds, " s: give a predicted or measured time"));
    }
    if (result_.nodes().empty()) {
      return absl::InvalidArgumentError("no node is named: name those to lose, such as \"" +
                                        topology_.nodes().front().name + "\"");
    }
    for (const std::string& node : result_.nodes()) {
      if (!index_of_.contains(node)) {
        return absl::InvalidArgumentError(absl::StrCat("the cluster has no node \"", node,
                                                       "\"; the nearest name is \"",
                                                       NearestNode(topology_, node), "\""));
      }
    }
    if (static_cast<int>(gone_.size()) != result_.nodes_size()) {
      return absl::InvalidArgumentError("a node is named twice: " +
                                        absl::StrJoin(result_.nodes(), " "));
    }
    for (const v1::RankAssignment& rank : job_.plan->ranks()) {
      if (!index_of_.contains(rank.node())) {
        return absl::InvalidArgumentError(absl::StrCat("the job's plan is on node \"", rank.node(),
                                                       "\", which the cluster hasn't got"));
      }
    }
    return absl::OkStatus();
  }

  bool HasRanksThere() const {
    return std::any_of(job_.plan->ranks().begin(), job_.plan->ranks().end(),
                       [&](const auto& rank) { return gone_.contains(rank.node()); });
  }

  v1::WhatIf NothingHappens() {
    result_.set_goes_on(true);
    result_.set_restored_from("nothing lost");
    *result_.mutable_parallelism_after() = job_.plan->spec().parallelism();
    result_.set_micro_batches_after(job_.plan->spec().training().micro_batches());
    result_.set_step_seconds_after(job_.step_seconds);
    result_.set_tokens_per_day_after(result_.tokens_per_day_before());
    result_.mutable_time_lost();
    SetMoney(0);
    *result_.mutable_survivability_after() = SurvivabilityOf(*job_.plan);
    result_.set_answer("no rank of the job is there: it goes on undisturbed");
    return result_;
  }

  void TellLost() {
    for (std::string& what : LostWith(*job_.plan, gone_)) result_.add_lost(std::move(what));
  }

  // As the coordinator does it: the same shape on what is left, else fewer replicas. Drains move
  // ranks only where they find places.
  absl::StatusOr<v1::Plan> NextPlan() const {
    ReplanRequest request;
    request.previous = job_.plan;
    request.epoch = job_.plan->epoch() + 1;
    request.asked = &asked_;
    request.vacate = gone_;
    for (size_t i = 0; i < topology_.nodes().size(); ++i) {
      const TopologyNode& node = topology_.nodes()[i];
      if (kill_ && gone_.contains(node.name)) continue;
      ReplanNode& given = request.nodes.emplace_back();
      given.spare = node.spare;
      given.capacity.name = node.name;
      given.capacity.leaf = LeafName(topology_, static_cast<int>(i));
      given.capacity.failure_domain = FailureDomainName(topology_, static_cast<int>(i));
      for (int d = 0; d < node.devices; ++d) given.capacity.free_devices.push_back(d);
    }
    absl::StatusOr<v1::Plan> plan = Replan(request);
    const bool may_shed =
        !asked_.recovery().has_shed_replicas() || asked_.recovery().shed_replicas();
    if (plan.ok() || !kill_ || !may_shed || asked_.parallelism().replicas() < 2) return plan;
    absl::StatusOr<v1::Plan> shed = Reshape(request);
    return shed.ok() ? shed : plan;
  }

  v1::WhatIf Waits(const absl::Status& why) {
    result_.set_goes_on(false);
    result_.set_waits_for(std::string(why.message()));
    const v1::Parallelism& shape = job_.plan->spec().parallelism();
    if (kill_) {
      SetMoney(0);
      int64_t left = 0;
      for (const v1::RankAssignment& rank : job_.plan->ranks())
        left += !gone_.contains(rank.node());
      v1::MoneyLost* money = result_.mutable_money_lost();
      money->set_dollars_per_hour_waiting(static_cast<double>(left) *
                                          money->dollars_per_device_hour());
      result_.mutable_time_lost()->set_detect_s(costs_.detect.seconds);
      result_.mutable_time_lost()->set_total_s(costs_.detect.seconds);
      Assume("detection", absl::StrFormat("%.2f s", costs_.detect.seconds), costs_.detect.source,
             costs_.detect.seconds, &result_);
      result_.set_restored_from(Source());
      result_.set_answer(absl::StrCat("waits, its ranks held: ", why.message(), LostInWords()));
      return result_;
    }
    *result_.mutable_parallelism_after() = shape;
    result_.set_micro_batches_after(job_.plan->spec().training().micro_batches());
    result_.set_step_seconds_after(job_.step_seconds);
    result_.set_tokens_per_day_after(result_.tokens_per_day_before());
    result_.set_restored_from("nothing lost");
    result_.mutable_time_lost();
    SetMoney(0);
    result_.set_answer(absl::StrCat("trains on where it is: ", why.message()));
    return result_;
  }

  void TellPlan(const v1::Plan& next) {
    const v1::Parallelism& before = job_.plan->spec().parallelism();
    const v1::Parallelism& after = next.spec().parallelism();
    *result_.mutable_parallelism_after() = after;
    result_.set_micro_batches_after(next.spec().training().micro_batches());
    reshaped_ = before.replicas() != after.replicas();
    result_.set_replicas_shed(std::max(0, before.replicas() - after.replicas()));
    // A process outlives its plan: what counts is whether its device had one.
    std::set<std::pair<std::string, int>> held;
    for (const v1::RankAssignment& rank : job_.plan->ranks()) {
      held.emplace(rank.node(), rank.device());
    }
    std::set<std::string> spares;
    for (const v1::RankAssignment& rank : next.ranks()) {
      if (held.contains({rank.node(), rank.device()})) continue;
      v1::RankMove* move = result_.add_moves();
      move->set_rank(rank.rank());
      if (!reshaped_) move->set_from(job_.plan->ranks(rank.rank()).node());
      move->set_to(rank.node());
      const size_t to = static_cast<size_t>(index_of_.at(rank.node()));
      if (topology_.nodes()[to].spare) spares.insert(rank.node());
    }
    for (const std::string& spare : spares) result_.add_spares_used(spare);
    saves_first_ = !kill_ && plan::LeavesStateBehind(*job_.plan, next);
  }

  std::string Source() const {
    if (kill_ && !result_.lost().empty()) {
      return asked_.checkpoint().every_steps() > 0 ? "checkpoint" : "the beginning";
    }
    return saves_first_ ? "checkpoint" : "memory";
  }

  // Steps that are done again, and what a step takes afterwards.
  absl::Status TellSteps(const v1::Plan& next) {
    result_.set_restored_from(Source());
    result_.set_steps_redone(kill_ ? StepsRedone() : 0);
    double after = job_.step_seconds;
    if (reshaped_) {
      const absl::StatusOr<double> predicted = job_.step_seconds_of
                                                   ? job_.step_seconds_of(next.spec())
                                                   : absl::UnavailableError("nothing predicts it");
      if (predicted.ok()) {
        after = *predicted;
        Assume("step after shedding", absl::StrFormat("%.4g s", after), "predicted", 0, &result_);
      } else {
        if (job_.step_seconds_of) {
          Assume("memory after shedding",
                 absl::StrCat("may not suffice: ", predicted.status().message()),
                 "what predicts steps refuses what is left; placing ranks doesn't ask for memory",
                 0, &result_);
        }
        after *= static_cast<double>(next.spec().training().micro_batches()) /
                 static_cast<double>(job_.plan->spec().training().micro_batches());
        Assume("step after shedding", absl::StrFormat("%.4g s", after),
               "assumed: in proportion to the micro-batches per lane; the pipeline's idle part "
               "grows less, so it is an upper bound",
               0, &result_);
      }
    }
    result_.set_step_seconds_after(after);
    result_.set_tokens_per_day_after(TokensPerDay(next.spec(), after));
    return absl::OkStatus();
  }

  double StepsRedone() {
    const int64_t every = asked_.checkpoint().every_steps();
    const auto all = static_cast<double>(asked_.training().steps());
    if (result_.restored_from() == "memory") {
      const int64_t snapshots = asked_.recovery().has_snapshot_every_steps()
                                    ? asked_.recovery().snapshot_every_steps()
                                    : 1;
      const double redone = (static_cast<double>(snapshots) + 1) / 2 + kStepUnderWay;
      Assume("steps redone",
             absl::StrFormat("%.1f: half a step under way, and the last one (with snapshots every "
                             "%d steps, on average %.1f)",
                             redone, snapshots, redone - kStepUnderWay),
             "docs/recovery.md: at most one step is redone where every step has a snapshot", 0,
             &result_);
      return redone;
    }
    const bool from_checkpoint = result_.restored_from() == "checkpoint";
    double redone = from_checkpoint ? std::min(static_cast<double>(every), all) / 2 : all / 2;
    if (job_.steps_done.has_value()) {
      redone = static_cast<double>(from_checkpoint ? *job_.steps_done % every : *job_.steps_done);
    }
    Assume("steps redone",
           job_.steps_done.has_value()
               ? absl::StrFormat("%.0f, and half a step under way: the newest checkpoint is of "
                                 "step %d",
                                 redone, *job_.steps_done - static_cast<int64_t>(redone))
               : absl::StrFormat("%.1f, and half a step under way: half of %s, on average", redone,
                                 from_checkpoint ? "the interval between checkpoints"
                                                 : "the job, as it saves no checkpoint on the way"),
           "assumed: a failure is as likely at any time; spec.checkpoint.every_steps", 0, &result_);
    return redone + kStepUnderWay;
  }

  absl::Status TellTime(const v1::Plan& next) {
    absl::StatusOr<RestoreCost> restore =
        result_.restored_from() == "memory" ? RestoreFromMemory(*job_.plan, next, topology_)
                                            : RestoreFromCheckpoint(next, topology_, saves_first_);
    if (!restore.ok()) return restore.status();
    if (result_.restored_from() == "the beginning") *restore = RestoreCost();
    v1::TimeLost* time = result_.mutable_time_lost();
    const bool starts = !result_.moves().empty();
    const auto add = [&](const char* name, const SourcedSeconds& cost) {
      Assume(name, absl::StrFormat("%.3g s", cost.seconds), cost.source, cost.seconds, &result_);
      return cost.seconds;
    };
    if (kill_) {
      time->set_detect_s(add("detection", costs_.detect));
      time->set_plan_s(add("new plan", costs_.plan));
    }
    double start = add("connecting", costs_.reconnect);
    if (kill_ && starts) start += add("start of processes", costs_.start);
    if (!kill_) {
      Assume("start of processes", "hidden: they start while the job trains on",
             "docs/recovery.md, changes at a boundary", 0, &result_);
    }
    time->set_start_s(start);
    time->set_restore_s(restore->seconds);
    time->set_restore_bytes(restore->bytes);
    time->set_restore_path(restore->path);
    if (restore->seconds > 0) {
      time->set_restore_gigabytes_per_second(static_cast<double>(restore->bytes) / 1e9 /
                                             restore->seconds);
      *result_.add_assumptions() = restore->assumption;
    }
    time->set_redone_s(result_.steps_redone() * job_.step_seconds);
    time->set_total_s(time->detect_s() + time->plan_s() + time->start_s() + time->restore_s() +
                      time->redone_s());
    return absl::OkStatus();
  }

  void TellMoney() {
    SetMoney(result_.time_lost().total_s());
    const double price = result_.money_lost().dollars_per_device_hour();
    if (price <= 0) return;  // not known, and no money is told
    Assume("price", absl::StrFormat("$%.2f a device and hour", price),
           "dollars_per_device_hour of the cluster file or the device's profile", 0, &result_);
  }

  void SetMoney(double seconds) {
    double price = 0;
    for (const v1::RankAssignment& rank : job_.plan->ranks()) {
      price += topology_.pool_of(index_of_.at(rank.node())).dollars_per_device_hour();
    }
    const int64_t devices = job_.plan->ranks_size();
    v1::MoneyLost* money = result_.mutable_money_lost();
    money->set_devices(devices);
    money->set_dollars_per_device_hour(price / static_cast<double>(devices));
    money->set_gpu_hours(static_cast<double>(devices) * seconds / kSecondsPerHour);
    money->set_dollars(price * seconds / kSecondsPerHour);
  }

  std::string LostInWords() const {
    if (result_.lost().empty()) return "";
    return absl::StrCat("; both copies are lost of ", absl::StrJoin(result_.lost(), "; "));
  }

  std::string GoesOnInWords() const {
    std::map<std::string, std::set<std::string>> takers;
    for (const v1::RankMove& move : result_.moves()) takers[move.from()].insert(move.to());
    std::vector<std::string> parts;
    if (result_.replicas_shed() > 0) {
      parts.push_back(absl::StrCat("with ", result_.replicas_shed(), " of ",
                                   result_.parallelism_before().replicas(), " replicas fewer, at ",
                                   absl::StrFormat("%.0f%%", 100 * result_.tokens_per_day_after() /
                                                                 result_.tokens_per_day_before()),
                                   " of its tokens a day"));
    } else {
      for (const auto& [from, to] : takers) {
        parts.push_back(absl::StrCat(absl::StrJoin(to, ", "), " for ", from));
      }
    }
    const double lost_s = result_.time_lost().total_s();
    return absl::StrCat(
        "goes on after ",
        lost_s < 1 ? absl::StrFormat("%.3g ms", 1e3 * lost_s) : absl::StrFormat("%.1f s", lost_s),
        ": ", absl::StrJoin(parts, ", "), "; state from ", result_.restored_from(), LostInWords());
  }

  const WhatIfJob& job_;
  const Topology& topology_;
  const v1::JobSpec& asked_;
  const std::set<std::string> gone_;
  const bool kill_;
  std::map<std::string, int> index_of_;
  RecoveryCosts costs_;
  bool reshaped_ = false;     // other replicas than before
  bool saves_first_ = false;  // a checkpoint, as a rank and its buddy leave together
  v1::WhatIf result_;
};

double Ratio(double there, double here) { return here > 0 ? there / here : 0; }

}  // namespace

RecoveryCosts RecoveryCostsFor(const v1::DeviceProfile& profile) {
  RecoveryCosts costs;
  costs.detect = {limits::kDefaultLeaseMs / 1e3,
                  "docs/results/recovery.md: a machine that falls silent is found when its lease "
                  "ends, 5 s by default"};
  costs.plan = {0.108,
                "docs/results/fleet.md: lost node to new plan with 256 nodes, 99th percentile"};
  if (profile.kind() == "cpu") {
    costs.start = {0.025, "docs/results/recovery.md: fence after a kill, CPU ranks"};
    costs.reconnect = {0.010, "docs/results/recovery.md: rejoin after a kill, CPU ranks"};
    return costs;
  }
  costs.start = {15,
                 "assumed: process, device context and registration of memory; not measured. Whole "
                 "recoveries from CUDA faults are reported at 93-109 s (ByteRobust)"};
  costs.reconnect = {5, "assumed: connections of all ranks; not measured beyond CPU ranks"};
  return costs;
}

absl::StatusOr<v1::WhatIf> WhatIfKill(const WhatIfJob& job, const std::vector<std::string>& nodes) {
  return Question(job, nodes, /*kill=*/true).Answer();
}

absl::StatusOr<v1::WhatIf> WhatIfDrain(const WhatIfJob& job,
                                       const std::vector<std::string>& nodes) {
  return Question(job, nodes, /*kill=*/false).Answer();
}

absl::StatusOr<v1::WhatIf> WhatIfCluster(const v1::Prediction& here, const v1::Prediction& there) {
  for (const v1::Prediction* one : {&here, &there}) {
    if (one->step().seconds() > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the prediction on cluster \"", one->cluster(), "\" has no step time"));
  }
  if (here.parameters().total() != there.parameters().total()) {
    return absl::InvalidArgumentError(
        absl::StrCat("predictions of different models: ", here.parameters().total(), " and ",
                     there.parameters().total(), " parameters"));
  }
  v1::WhatIf result;
  result.set_job(here.job());
  result.set_question("cluster");
  result.set_goes_on(true);
  result.set_step_seconds_before(here.step().seconds());
  result.set_step_seconds_after(there.step().seconds());
  result.set_tokens_per_day_before(here.tokens_per_day());
  result.set_tokens_per_day_after(there.tokens_per_day());
  *result.mutable_parallelism_before() = here.layout().parallelism();
  *result.mutable_parallelism_after() = there.layout().parallelism();
  result.set_micro_batches_after(there.layout().micro_batches());
  if (there.has_survivability()) {
    *result.mutable_survivability_after() = there.survivability();
  }
  v1::ClusterComparison* comparison = result.mutable_comparison();
  comparison->set_here(here.cluster());
  comparison->set_there(there.cluster());
  comparison->set_devices_here(here.devices());
  comparison->set_devices_there(there.devices());
  comparison->set_step_ratio(Ratio(there.step().seconds(), here.step().seconds()));
  comparison->set_hours_ratio(Ratio(there.total_hours(), here.total_hours()));
  comparison->set_gpu_hours_ratio(
      Ratio(there.gpu_hours_per_trillion_tokens(), here.gpu_hours_per_trillion_tokens()));
  comparison->set_dollars_ratio(
      Ratio(there.dollars_per_trillion_tokens(), here.dollars_per_trillion_tokens()));
  comparison->set_hours_here(here.total_hours());
  comparison->set_hours_there(there.total_hours());
  comparison->set_dollars_here(here.total_dollars());
  comparison->set_dollars_there(there.total_dollars());
  if (here.limits_size() > 0) comparison->set_limit_here(here.limits(0));
  if (there.limits_size() > 0) comparison->set_limit_there(there.limits(0));
  *comparison->mutable_layout_here() = here.layout();
  *comparison->mutable_layout_there() = there.layout();
  const double speed = Ratio(there.tokens_per_day(), here.tokens_per_day());
  std::string answer = absl::StrFormat("%.2f times the tokens a day on %d devices instead of %d",
                                       speed, there.devices(), here.devices());
  if (comparison->dollars_ratio() > 0) {
    absl::StrAppendFormat(&answer, ", at %.2f times the price of a token",
                          comparison->dollars_ratio());
  }
  result.set_answer(std::move(answer));
  return result;
}

}  // namespace fathom::planner
