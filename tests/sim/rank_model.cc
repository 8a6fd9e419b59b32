#include "tests/sim/rank_model.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "common/plan/buddy.h"

namespace fathom::sim {
namespace {

constexpr int kKeptSteps = 2;

std::string NodeOf(const v1::Plan& plan, int32_t rank) { return plan.ranks(rank).node(); }

}  // namespace

// --- Processes ---

RankModel::Process* RankModel::Find(int pid) {
  const auto found = processes_.find(pid);
  return found == processes_.end() ? nullptr : &found->second;
}

RankModel::World* RankModel::WorldOf(const Process& process) {
  if (!process.seat || process.seat->rank < 0) return nullptr;
  const auto found = worlds_.find({process.seat->plan->job(), process.seat->epoch});
  if (found == worlds_.end() || found->second.pids[process.seat->rank] != process.pid) {
    return nullptr;
  }
  return &found->second;
}

int RankModel::Spawn(Place node) {
  const int pid = next_pid_++;
  Process& process = processes_[pid];
  process.pid = pid;
  process.node = node;
  process.endpoint = absl::StrCat("10.0.0.", node, ":", 10'000 + pid);
  return pid;
}

void RankModel::Send(int pid, const v1::RankCommand& command) {
  After(options_.random->Between(50, 300), [this, pid, command] {
    Process* process = Find(pid);
    if (process == nullptr) return;
    if (process->stopped) {
      process->inbox.push_back(command);
    } else {
      Obey(*process, command);
    }
  });
}

void RankModel::Obey(Process& process, const v1::RankCommand& command) {
  if (process.ending) return;
  switch (command.command_case()) {
    case v1::RankCommand::kStart:
      return Start(process, command.start());
    case v1::RankCommand::kPeers:
      return TakePeers(process, command.peers());
    case v1::RankCommand::kStop:
      return End(process, true, options_.random->Between(500, 20'000));
    case v1::RankCommand::kHold:
      if (process.next && process.next->epoch <= command.hold().epoch()) {
        const uint64_t dropped = process.next->epoch;
        process.next.reset();
        TellHeld(process, dropped, command.hold().reason(), "");
      }
      if (process.seat && process.seat->epoch <= command.hold().epoch() &&
          process.seat->phase != Phase::kHeld) {
        Hold(process, process.seat->epoch, command.hold().reason(), "");
      }
      return;
    case v1::RankCommand::kPark:
      if (process.seat && process.seat->epoch == command.park().epoch()) process.seat->park = true;
      return;
    case v1::RankCommand::kDiagnose:
      return Diagnose(process, command.diagnose().token());
    case v1::RankCommand::COMMAND_NOT_SET:
      return;
  }
}

void RankModel::Start(Process& process, const v1::RankStart& start) {
  const uint64_t epoch = start.plan().epoch();
  const bool moved_already = process.seat && process.seat->epoch >= epoch;
  if (moved_already) return;
  Seat seat;
  seat.epoch = epoch;
  seat.rank = start.rank();
  seat.plan = std::make_shared<const v1::Plan>(start.plan());
  seat.directory = start.checkpoint_directory();
  if (process.next && process.next->epoch > epoch) return;
  const bool repeated = process.next && process.next->epoch == epoch;
  if (repeated) seat = *std::move(process.next);
  process.next.reset();
  // One that never connected has no boundary to wait for.
  const bool goes_on =
      process.seat && process.seat->phase >= Phase::kLoading && process.seat->phase < Phase::kHeld;
  if (start.at_boundary() && goes_on) {
    process.next = std::move(seat);
  } else {
    if (World* world = WorldOf(process)) {
      options_.invariants->OnLeaves(process.pid);
      process.seat.reset();
      Break(*world, "a rank went on to a later epoch", "", true);
    }
    process.seat = std::move(seat);
    if (process.seat->rank < 0) return End(process, true, options_.random->Between(500, 5000));
    if (!process.seat->table.empty()) Connect(process);
  }
  if (repeated || start.rank() < 0) return;
  const int pid = process.pid;
  const bool is_new = process.memory.empty();
  const int64_t delay_us =
      is_new ? options_.random->Between(20'000, 150'000) : options_.random->Between(500, 5000);
  After(delay_us, [this, pid, epoch] {
    Process* ready = Find(pid);
    if (ready == nullptr || ready->stopped || ready->ending) return;
    const bool current = ready->seat && ready->seat->epoch == epoch;
    const bool later = ready->next && ready->next->epoch == epoch;
    if (!current && !later) return;
    v1::RankEvent event;
    event.set_listening(ready->endpoint);
    Emit(*ready, epoch, std::move(event));
  });
}

void RankModel::TakePeers(Process& process, const v1::RankPeers& peers) {
  std::vector<std::string> table;
  for (const v1::RankEndpoint& peer : peers.peers()) table.push_back(peer.endpoint());
  if (process.next && (peers.epoch() == process.next->epoch)) {
    process.next->table = std::move(table);
  } else if (process.seat && process.seat->phase == Phase::kListening &&
             (peers.epoch() == process.seat->epoch || peers.epoch() == 0)) {
    process.seat->table = std::move(table);
    Connect(process);
  }
}

void RankModel::Hold(Process& process, uint64_t epoch, const std::string& reason,
                     const std::string& blamed) {
  World* world = WorldOf(process);
  options_.invariants->OnLeaves(process.pid);
  process.seat->phase = Phase::kHeld;
  TellHeld(process, epoch, reason, blamed);
  if (world != nullptr && world->stage != Stage::kOver) {
    Break(*world, "a peer left the epoch", "", true);
  }
  Process* same = Find(process.pid);
  if (same == nullptr || !same->next || same->next->epoch <= epoch) return;
  same->seat = std::exchange(same->next, std::nullopt);
  if (same->seat->rank < 0) return End(*same, true, options_.random->Between(500, 5000));
  if (!same->seat->table.empty()) Connect(*same);
}

void RankModel::TellHeld(const Process& process, uint64_t epoch, const std::string& reason,
                         const std::string& blamed) {
  int64_t newest = 0;
  for (const Piece& piece : process.memory) newest = std::max(newest, piece.step);
  v1::RankEvent event;
  event.mutable_held()->set_message(reason);
  event.mutable_held()->set_blamed_node(blamed);
  event.mutable_held()->set_step(newest);
  options_.trace->Add(30, {process.pid, static_cast<int64_t>(epoch)}, [&] {
    return absl::StrCat("process ", process.pid, " holds epoch ", epoch, " at step ", newest, ": ",
                        reason);
  });
  Emit(process, epoch, std::move(event));
}

void RankModel::Diagnose(const Process& process, uint64_t token) {
  v1::RankEvent event;
  event.mutable_diagnosis()->set_token(token);
  event.mutable_diagnosis()->set_instruction("a model's step");
  Emit(process, process.seat ? process.seat->epoch : 0, std::move(event));
}

void RankModel::End(Process& process, bool zero, int64_t delay_us) {
  process.ending = true;
  const int pid = process.pid;
  After(delay_us, [this, pid, zero] {
    Process* ended = Find(pid);
    if (ended == nullptr) return;
    if (ended->stopped) return End(*ended, zero, 50 * kMs);
    const Place node = ended->node;
    Remove(*ended);
    options_.exited(node, pid, zero);
  });
}

void RankModel::Remove(Process& process) {
  options_.trace->Add(31, {process.pid},
                      [&] { return absl::StrCat("process ", process.pid, " is gone"); });
  World* world = WorldOf(process);
  const std::string node = process.seat && process.seat->rank >= 0 && process.seat->plan
                               ? NodeOf(*process.seat->plan, process.seat->rank)
                               : "";
  options_.invariants->OnLeaves(process.pid);
  options_.invariants->OnGone(process.pid);
  const bool held = process.seat && process.seat->phase == Phase::kHeld;
  processes_.erase(process.pid);
  if (world != nullptr && !held && world->stage != Stage::kOver) {
    Break(*world, "lost its connection", node, true);
  }
}

void RankModel::Kill(int pid) {
  After(options_.random->Between(100, 2000), [this, pid] { Crash(pid); });
}

void RankModel::Crash(int pid) {
  Process* process = Find(pid);
  if (process == nullptr) return;
  const Place node = process->node;
  Remove(*process);
  options_.exited(node, pid, false);
}

void RankModel::NodeDown(Place node) {
  for (const int pid : PidsOn(node)) Remove(processes_.at(pid));
}

void RankModel::SetNodeStopped(Place node, bool stopped) {
  for (const int pid : PidsOn(node)) {
    Process& process = processes_.at(pid);
    process.stopped = stopped;
    if (stopped) continue;
    // What it missed; and whoever gave it up meanwhile has closed the connection.
    std::vector<v1::RankCommand> inbox = std::exchange(process.inbox, {});
    World* world = WorldOf(process);
    const bool abandoned = world == nullptr || world->stage == Stage::kOver;
    if (process.seat && process.seat->phase >= Phase::kConnecting &&
        process.seat->phase < Phase::kHeld && abandoned) {
      Hold(process, process.seat->epoch, "UNAVAILABLE: peers closed their connections", "");
    }
    for (const v1::RankCommand& command : inbox) Send(pid, command);
    if (process.seat && process.seat->phase == Phase::kListening && inbox.empty()) {
      v1::RankEvent event;
      event.set_listening(process.endpoint);
      Emit(process, process.seat->epoch, std::move(event));
    }
  }
  if (!stopped) NetworkChanged();
}

void RankModel::NetworkChanged() {
  std::vector<WorldKey> gathering;
  for (const auto& [key, world] : worlds_) {
    if (world.stage == Stage::kGathering) gathering.push_back(key);
  }
  for (const WorldKey& key : gathering) TryGather(worlds_.at(key));
}

void RankModel::TearNextCommit(Place node, std::function<void()> crash) {
  torn_[node] = std::move(crash);
}

std::vector<int> RankModel::PidsOn(Place node) const {
  std::vector<int> pids;
  for (const auto& [pid, process] : processes_) {
    if (process.node == node) pids.push_back(pid);
  }
  return pids;
}

bool RankModel::AnyAliveOf(const std::string& job) const {
  return std::any_of(processes_.begin(), processes_.end(), [&](const auto& entry) {
    return entry.second.seat && entry.second.seat->plan->job() == job;
  });
}

void RankModel::Emit(const Process& process, uint64_t epoch, v1::RankEvent event) {
  event.set_epoch(epoch);
  options_.emit(process.node, process.pid, event);
}

// --- An epoch's beginning ---

void RankModel::Connect(Process& process) {
  Seat& seat = *process.seat;
  seat.phase = Phase::kConnecting;
  const WorldKey key(seat.plan->job(), seat.epoch);
  const auto [place, is_new] = worlds_.try_emplace(key);
  World& world = place->second;
  if (is_new) {
    world.key = key;
    world.plan = seat.plan;
    world.directory = seat.directory;
    world.pids.assign(seat.plan->ranks_size(), 0);
  }
  const int pid = process.pid;
  const int64_t timeout_us =
      static_cast<int64_t>(seat.plan->spec().restart().start_timeout_s() * kSecond);
  After(timeout_us, [this, pid, epoch = seat.epoch] {
    Process* late = Find(pid);
    if (late == nullptr || late->stopped || late->ending || !late->seat) return;
    if (late->seat->epoch != epoch || late->seat->phase != Phase::kConnecting) return;
    Hold(*late, epoch, "DEADLINE_EXCEEDED: not all peers connected in time", "");
  });
  if (world.stage != Stage::kGathering) {
    After(options_.random->Between(500, 5000), [this, pid, epoch = seat.epoch] {
      Process* refused = Find(pid);
      if (refused == nullptr || refused->ending || !refused->seat) return;
      if (refused->seat->epoch != epoch || refused->seat->phase != Phase::kConnecting) return;
      Hold(*refused, epoch, "UNAVAILABLE: peers refuse the connection", "");
    });
    return;
  }
  world.pids[seat.rank] = pid;
  TryGather(world);
}

void RankModel::TryGather(World& world) {
  std::vector<std::string> endpoints;
  for (const int pid : world.pids) {
    const Process* process = Find(pid);
    if (process == nullptr || !IsRunnable(*process)) return;
    endpoints.push_back(process->endpoint);
  }
  for (const int pid : world.pids) {
    // A peer at another address than the table's is not reached.
    if (Find(pid)->seat->table != endpoints) return;
  }
  std::string blamed;
  if (!Intact(world, &blamed)) return;
  world.stage = Stage::kLoading;
  for (size_t rank = 0; rank < world.pids.size(); ++rank) {
    Process& process = *Find(world.pids[rank]);
    process.seat->phase = Phase::kLoading;
    options_.invariants->OnTrains(world.key.first, world.key.second, static_cast<int32_t>(rank),
                                  process.pid);
    v1::RankEvent event;
    event.mutable_loading();
    Emit(process, world.key.second, std::move(event));
  }
  After(options_.random->Between(2000, 40'000), [this, key = world.key] { Load(key); });
}

void RankModel::Load(const WorldKey& key) {
  World& world = worlds_.at(key);
  if (world.stage != Stage::kLoading) return;
  std::string blamed;
  if (!Intact(world, &blamed)) {
    return Break(world, "DEADLINE_EXCEEDED: while loading", blamed, false);
  }
  std::string source;
  Restore(world, &source);
  options_.invariants->OnRestored(key.first, world.step, world.cursor, world.hash);
  options_.trace->Add(32, {static_cast<int64_t>(key.second), world.step}, [&] {
    return absl::StrCat(key.first, " epoch ", key.second, " trains from step ", world.step, " (",
                        source, ")");
  });
  world.stage = Stage::kTraining;
  for (size_t rank = 0; rank < world.pids.size(); ++rank) {
    Process& process = *Find(world.pids[rank]);
    process.seat->phase = Phase::kTraining;
    Remember(process,
             {world.plan->ranks_size(), static_cast<int32_t>(rank), world.step, world.hash});
    v1::RankEvent event;
    event.mutable_training()->set_first_step(world.step);
    event.mutable_training()->mutable_restored()->set_step(world.step);
    event.mutable_training()->mutable_restored()->set_source(source);
    Emit(process, key.second, std::move(event));
  }
  if (world.step >= world.plan->spec().training().steps()) {
    AtBoundary(world);
  } else {
    ScheduleStep(world);
  }
}

bool RankModel::NewestInMemory(const World& world, Piece* newest) {
  std::map<std::tuple<int64_t, uint64_t, int32_t>, std::set<int32_t>> shards;
  for (const int pid : world.pids) {
    for (const Piece& piece : Find(pid)->memory) {
      shards[{piece.step, piece.hash, piece.layout}].insert(piece.shard);
    }
  }
  for (auto it = shards.rbegin(); it != shards.rend(); ++it) {
    const auto& [step, hash, layout] = it->first;
    if (static_cast<int32_t>(it->second.size()) < layout) continue;
    *newest = {layout, 0, step, hash};
    return true;
  }
  return false;
}

void RankModel::Restore(World& world, std::string* source) {
  *source = "initial";
  world.step = 0;
  world.hash = 0;
  const StoredCheckpoint* disk = options_.checkpoints->Newest(world.directory);
  const StoredCheckpoint* named = options_.checkpoints->Find(world.plan->resume().manifest());
  if (named != nullptr && (disk == nullptr || named->step > disk->step)) disk = named;
  Piece newest;
  const bool in_memory = NewestInMemory(world, &newest) && newest.step > 0;
  if (in_memory && (disk == nullptr || newest.step >= disk->step)) {
    world.step = newest.step;
    world.hash = newest.hash;
    *source = "memory";
  } else if (disk != nullptr) {
    world.step = disk->step;
    world.hash = disk->state_hash;
    *source = "checkpoint";
  }
  world.saved_step = disk != nullptr && disk->step == world.step ? disk->step : 0;
  world.cursor = world.step * options_.invariants->BatchOf(world.key.first);
}

// --- Steps ---

void RankModel::ScheduleStep(const World& world) {
  int64_t slowest = 1;
  for (const int pid : world.pids) {
    slowest = std::max(slowest, options_.network->Slowness(Find(pid)->node));
  }
  After(options_.step_us * slowest + options_.random->Between(0, options_.step_us / 10),
        [this, key = world.key] { StepEnd(key); });
}

bool RankModel::Intact(const World& world, std::string* blamed) {
  std::set<Place> nodes;
  for (size_t rank = 0; rank < world.pids.size(); ++rank) {
    const Process* process = Find(world.pids[rank]);
    if (process == nullptr || !IsRunnable(*process)) {
      *blamed = NodeOf(*world.plan, static_cast<int32_t>(rank));
      return false;
    }
    nodes.insert(process->node);
  }
  for (const Place a : nodes) {
    for (const Place b : nodes) {
      if (a == b || options_.network->Open(a, b)) continue;
      for (size_t rank = 0; rank < world.pids.size(); ++rank) {
        if (Find(world.pids[rank])->node == b) {
          *blamed = NodeOf(*world.plan, static_cast<int32_t>(rank));
        }
      }
      return false;
    }
  }
  return true;
}

// Ranks wait for a peer that does not come as long as their deadline allows.
bool RankModel::StallsOn(World& world) {
  std::string blamed;
  const int64_t now_us = options_.queue->now_us();
  if (Intact(world, &blamed)) {
    world.stalled_since_us = 0;
    return false;
  }
  const bool somebody_waits = std::any_of(world.pids.begin(), world.pids.end(), [this](int pid) {
    const Process* process = Find(pid);
    return process != nullptr && IsRunnable(*process);
  });
  if (world.stalled_since_us == 0 || !somebody_waits) world.stalled_since_us = now_us;
  const auto timeout_us =
      static_cast<int64_t>(world.plan->spec().restart().peer_timeout_s() * kSecond);
  if (now_us - world.stalled_since_us >= timeout_us) {
    Break(world, "DEADLINE_EXCEEDED: no word in time", blamed, true);
  } else {
    After(100 * kMs, [this, key = world.key] { StepEnd(key); });
  }
  return true;
}

void RankModel::StepEnd(const WorldKey& key) {
  World& world = worlds_.at(key);
  if (world.stage != Stage::kTraining || StallsOn(world)) return;
  Commit(world);
}

void RankModel::Commit(World& world) {
  ++world.step;
  world.cursor += SamplesPerStep(world.plan->spec());
  world.hash = StateAfter(world.hash, world.step, world.cursor);
  std::set<Place> nodes;
  for (const int pid : world.pids) nodes.insert(Find(pid)->node);
  options_.invariants->OnStep(world.key.first, world.key.second, world.step, world.cursor,
                              world.hash, nodes, options_.queue->now_us());
  options_.trace->Add(33, {static_cast<int64_t>(world.key.second), world.step}, [&] {
    return absl::StrCat(world.key.first, " epoch ", world.key.second, " commits step ", world.step);
  });
  if (Tear(world)) return;
  for (const int pid : world.pids) CommitOn(world, *Find(pid));
  AtBoundary(world);
}

// Some ranks commit, then the fault strikes.
bool RankModel::Tear(World& world) {
  if (torn_.empty()) return false;
  std::function<void()> crash;
  for (const int pid : world.pids) {
    const auto found = torn_.find(Find(pid)->node);
    if (found == torn_.end()) continue;
    crash = std::move(found->second);
    torn_.erase(found);
    break;
  }
  if (crash == nullptr) return false;
  for (const int pid : world.pids) {
    if (options_.random->Chance(50)) CommitOn(world, *Find(pid));
  }
  Break(world, "UNAVAILABLE: lost its connection", "", true);
  crash();
  return true;
}

void RankModel::CommitOn(World& world, Process& process) {
  const int32_t rank = process.seat->rank;
  const int32_t layout = world.plan->ranks_size();
  // The buddy holds the step before, or this one could not be committed.
  CopyToBuddy(world, process, world.step - 1);
  Remember(process, {layout, rank, world.step, world.hash});
  v1::RankEvent event;
  v1::StepReport& step = *event.mutable_step();
  step.set_step(world.step);
  step.set_loss(1);
  step.set_tokens(1000);
  step.set_seconds(static_cast<double>(options_.step_us) / kSecond);
  step.set_finished_ms(WallMs());
  step.set_weights_hash(world.hash);
  step.set_snapshot_step(world.step - 1);
  Emit(process, world.key.second, std::move(event));
}

void RankModel::CopyToBuddy(const World& world, const Process& process, int64_t step) {
  const int32_t rank = process.seat->rank;
  const int buddy_rank = plan::BuddyOf(*world.plan, rank);
  Process* buddy = buddy_rank < 0 ? nullptr : Find(world.pids[buddy_rank]);
  if (buddy == nullptr) return;
  for (const Piece& piece : process.memory) {
    const bool is_it =
        piece.layout == world.plan->ranks_size() && piece.shard == rank && piece.step == step;
    if (!is_it) continue;
    const Piece copy = piece;
    return Remember(*buddy, copy);
  }
}

// The newest two steps of each shard; other layouts' once this one's are whole twice.
void RankModel::Remember(Process& process, const Piece& piece) {
  std::erase_if(process.memory, [&](const Piece& old) {
    if (old.layout != piece.layout) return old.step < piece.step - 1;
    return old.shard == piece.shard && old.step <= piece.step - kKeptSteps;
  });
  for (const Piece& known : process.memory) {
    if (known.layout == piece.layout && known.shard == piece.shard && known.step == piece.step) {
      return;
    }
  }
  process.memory.push_back(piece);
}

// --- Between steps ---

void RankModel::AtBoundary(World& world) {
  const v1::JobSpec& spec = world.plan->spec();
  if (world.saving_step != 0 && options_.queue->now_us() >= world.saved_at_us) Publish(world);
  const int64_t every = spec.checkpoint().every_steps();
  if (every > 0 && world.step % every == 0 && world.saving_step == 0) Save(world);
  if (world.step >= spec.training().steps()) return AwaitSave(world.key);
  const bool all_park = std::all_of(world.pids.begin(), world.pids.end(),
                                    [this](int pid) { return Find(pid)->seat->park; });
  if (all_park) {
    world.parking = true;
    return AwaitSave(world.key);
  }
  if (MoveOn(world)) return;
  ScheduleStep(world);
}

// Once all ranks know the later epoch's peers, all leave together.
bool RankModel::MoveOn(World& world) {
  uint64_t epoch = 0;
  for (const int pid : world.pids) {
    const Process& process = *Find(pid);
    if (!process.next) return false;
    if (process.next->rank >= 0 && process.next->table.empty()) return false;
    if (epoch != 0 && process.next->epoch != epoch) return false;
    epoch = process.next->epoch;
  }
  if (plan::LeavesStateBehind(*world.plan, *Find(world.pids[0])->next->plan) &&
      world.saved_step != world.step) {
    world.moving = true;
    AwaitSave(world.key);
    return true;
  }
  options_.trace->Add(34, {static_cast<int64_t>(world.key.second), static_cast<int64_t>(epoch)},
                      [&] {
                        return absl::StrCat(world.key.first, " moves from epoch ", world.key.second,
                                            " to ", epoch, " after step ", world.step);
                      });
  // The newest state to the buddies, so that any of them may leave.
  for (const int pid : world.pids) CopyToBuddy(world, *Find(pid), world.step);
  world.stage = Stage::kOver;
  for (const int pid : world.pids) {
    Process& process = *Find(pid);
    options_.invariants->OnLeaves(pid);
    process.seat = std::exchange(process.next, std::nullopt);
    if (process.seat->rank < 0) {
      End(process, true, options_.random->Between(500, 5000));
    } else {
      Connect(process);
    }
  }
  return true;
}

// Whether some rank leaves together with its buddy, so that only disk can carry its state over.
void RankModel::Save(World& world) {
  world.saving_step = world.step;
  world.saved_at_us = options_.queue->now_us() + options_.random->Between(1, 3 * options_.step_us);
}

// The last state is on disk before anybody leaves.
void RankModel::AwaitSave(const WorldKey& key) {
  World& world = worlds_.at(key);
  if (world.stage == Stage::kOver) return;
  world.stage = Stage::kSaving;
  std::string blamed;
  if (!Intact(world, &blamed)) {
    return Break(world, "DEADLINE_EXCEEDED: while saving", blamed, false);
  }
  const int64_t now_us = options_.queue->now_us();
  if (world.saving_step != 0 && now_us >= world.saved_at_us) Publish(world);
  if (world.saved_step == world.step) {
    if (world.moving) {
      MoveOn(world);
      return;
    }
    return world.parking ? ParkAll(world) : FinishAll(world);
  }
  if (world.saving_step == 0) Save(world);
  After(world.saved_at_us - now_us, [this, key] {
    const auto found = worlds_.find(key);
    if (found != worlds_.end() && found->second.stage == Stage::kSaving) AwaitSave(key);
  });
}

void RankModel::Publish(World& world) {
  // Redoing steps brings back the same state, which is what was saved.
  const uint64_t hash = options_.invariants->HashOf(world.key.first, world.saving_step);
  const std::string manifest =
      options_.checkpoints->Publish(world.directory, world.saving_step, hash);
  options_.invariants->OnPublished(world.key.first, world.saving_step, hash);
  v1::RankEvent event;
  event.mutable_checkpoint()->set_step(world.saving_step);
  event.mutable_checkpoint()->set_manifest(manifest);
  event.mutable_checkpoint()->set_weights_sha256(WeightsName(hash));
  world.saved_step = std::exchange(world.saving_step, 0);
  Emit(*Find(world.pids[0]), world.key.second, std::move(event));
}

void RankModel::FinishAll(World& world) {
  world.stage = Stage::kOver;
  for (size_t rank = 0; rank < world.pids.size(); ++rank) {
    Process& process = *Find(world.pids[rank]);
    v1::RankEvent event;
    event.mutable_finished();
    if (rank == 0) event.mutable_finished()->set_weights_sha256(WeightsName(world.hash));
    Emit(process, world.key.second, std::move(event));
    End(process, true, options_.random->Between(1000, 30'000));
  }
}

void RankModel::ParkAll(World& world) {
  world.stage = Stage::kOver;
  for (const int pid : world.pids) {
    Process& process = *Find(pid);
    v1::RankEvent event;
    event.mutable_parked()->set_step(world.step);
    Emit(process, world.key.second, std::move(event));
    End(process, true, options_.random->Between(1000, 30'000));
  }
}

// Every rank that is left notices for itself.
void RankModel::Break(World& world, const std::string& why, const std::string& blamed,
                      bool at_once) {
  if (world.stage == Stage::kOver) return;
  world.stage = Stage::kOver;
  const auto timeout_us =
      static_cast<int64_t>(world.plan->spec().restart().peer_timeout_s() * kSecond);
  for (const int pid : world.pids) {
    const int64_t delay_us = at_once ? options_.random->Between(500, 8000)
                                     : timeout_us + options_.random->Between(0, 20'000);
    After(delay_us, [this, pid, epoch = world.key.second, why, blamed] {
      Process* process = Find(pid);
      // A stopped one notices when it goes on.
      if (process == nullptr || process->stopped || process->ending || !process->seat) return;
      const bool here = process->seat->epoch == epoch &&
                        process->seat->phase >= Phase::kConnecting &&
                        process->seat->phase < Phase::kHeld;
      if (here) Hold(*process, epoch, absl::StrCat("UNAVAILABLE: ", why), blamed);
    });
  }
}

}  // namespace fathom::sim
