#include "worker/engine/state_exchange.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/status_util.h"
#include "proto/fathom/v1/state.pb.h"
#include "worker/engine/restore_plan.h"

namespace fathom::engine {
namespace {

// Rounds of working it out; each but the last strikes out at least one source, so this many bad
// ones are survived.
constexpr int kRoundsMax = 16;

// Messages of any length, each sent in pieces of at most one slot.
absl::StatusOr<std::vector<std::string>> GatherLong(transport::Group* group,
                                                    const std::string& message,
                                                    size_t piece_bytes) {
  int64_t negative_rounds = -static_cast<int64_t>((message.size() + piece_bytes - 1) / piece_bytes);
  FATHOM_RETURN_IF_ERROR(group->AllReduceMin({&negative_rounds, 1}));
  std::vector<std::string> messages(static_cast<size_t>(group->size()));
  for (int64_t round = 0; round < -negative_rounds; ++round) {
    const size_t at = std::min(message.size(), static_cast<size_t>(round) * piece_bytes);
    FATHOM_ASSIGN_OR_RETURN(const std::vector<std::string> pieces,
                            group->AllGatherMessages(message.substr(at, piece_bytes)));
    for (size_t i = 0; i < pieces.size(); ++i) messages[i] += pieces[i];
  }
  return messages;
}

// What of a transfer goes into one message.
std::vector<std::vector<StateSegment>> Messages(const StateTransfer& transfer, int64_t room) {
  std::vector<std::vector<StateSegment>> messages;
  int64_t left = 0;
  for (StateSegment segment : transfer.segments) {
    while (segment.bytes > 0) {
      if (left == 0) {
        messages.emplace_back();
        left = room;
      }
      const int64_t bytes = std::min(left, segment.bytes);
      messages.back().push_back({segment.from_offset, segment.to_offset, bytes});
      segment.from_offset += bytes;
      segment.to_offset += bytes;
      segment.bytes -= bytes;
      left -= bytes;
    }
  }
  return messages;
}

class Exchange {
 public:
  Exchange(RankParts* parts, int64_t at_least)
      : parts_(parts), optimizer_(*parts->optimizer), rank_(parts->rank) {
    question_.target = parts->state_layout;
    question_.at_least = at_least;
    for (const v1::RankAssignment& rank : parts->plan.ranks()) {
      question_.nodes.push_back(rank.node());
    }
  }

  absl::StatusOr<v1::RestoreReport> Run() {
    for (int round = 0; round < kRoundsMax; ++round) {
      FATHOM_RETURN_IF_ERROR(WithContext(Gather(), "telling the ranks what is in memory"));
      RestoreAnswer answer = PlanRestore(question_);
      if (!answer.plan.has_value()) return Without(answer.missing);
      plan_ = *std::move(answer.plan);
      StrikeRottenSources();
      FATHOM_ASSIGN_OR_RETURN(const bool sources_well, AllWell());
      if (!sources_well) continue;
      FATHOM_RETURN_IF_ERROR(WithContext(RunTransfers(), "restoring from peers' memory"));
      FATHOM_ASSIGN_OR_RETURN(const bool arrived_well, AllWell());
      if (arrived_well) return Finish();
    }
    return Without(absl::StrCat("gave up after ", kRoundsMax, " attempts"));
  }

 private:
  // Fills in everybody's inventory.
  absl::Status Gather() {
    entries_ = parts_->memory->Whole();
    v1::StateInventory mine;
    std::map<std::string, int> layouts;
    for (const StateMemory::Entry& entry : entries_) {
      const auto [at, added] =
          layouts.try_emplace(entry.state->layout().key(), static_cast<int>(layouts.size()));
      if (added) mine.add_layouts(at->first);
      v1::StateEntry* out = mine.add_entries();
      out->set_layout(at->second);
      out->set_shard(entry.state->shard());
      out->set_step(entry.state->step());
      out->set_epoch(entry.state->epoch());
      out->set_hash(entry.state->hash());
      out->set_own(entry.own);
    }
    for (const RestorePoint& point : parts_->memory->history()) {
      v1::StateRestorePoint* out = mine.add_history();
      out->set_epoch(point.epoch);
      out->set_step(point.step);
    }
    FATHOM_ASSIGN_OR_RETURN(
        const std::vector<std::string> messages,
        GatherLong(parts_->world.get(), mine.SerializeAsString(), kStateChunkBytes));
    question_.inventories.clear();
    question_.history.clear();
    for (size_t from = 0; from < messages.size(); ++from) {
      FATHOM_RETURN_IF_ERROR(
          WithContext(Add(messages[from]), absl::StrCat("inventory of rank ", from)));
    }
    parts_->memory->Learn(question_.history);
    question_.history = parts_->memory->history();
    return absl::OkStatus();
  }

  absl::Status Add(const std::string& message) {
    v1::StateInventory inventory;
    if (!inventory.ParseFromString(message)) return absl::InternalError("not an inventory");
    std::vector<std::shared_ptr<const StateLayout>> layouts;
    for (const std::string& key : inventory.layouts()) {
      std::shared_ptr<const StateLayout>& layout = layouts_[key];
      if (layout == nullptr) {
        if (key == question_.target->key()) {
          layout = question_.target;
        } else {
          FATHOM_ASSIGN_OR_RETURN(layout, StateLayout::Parse(key));
        }
      }
      layouts.push_back(layout);
    }
    question_.inventories.emplace_back();
    for (const v1::StateEntry& entry : inventory.entries()) {
      if (entry.layout() < 0 || entry.layout() >= inventory.layouts_size() || entry.shard() < 0 ||
          entry.shard() >= layouts[static_cast<size_t>(entry.layout())]->shards()) {
        return absl::InternalError("an entry of no layout");
      }
      question_.inventories.back().push_back({layouts[static_cast<size_t>(entry.layout())],
                                              entry.shard(), entry.step(), entry.epoch(),
                                              entry.hash(), entry.own(), false});
    }
    for (const v1::StateRestorePoint& point : inventory.history()) {
      question_.history.push_back({point.epoch(), point.step()});
    }
    return absl::OkStatus();
  }

  void Strike(const StateMemory::Entry& entry, absl::string_view why) {
    well_ = false;
    notes_.push_back(absl::StrCat("struck out rank ", rank_, "'s copy of shard ",
                                  entry.state->shard(), " of step ", entry.state->step(), ": ",
                                  why));
    entry.state->Invalidate();
  }

  // Those of this rank that the plan uses, for itself or others.
  void StrikeRottenSources() {
    std::set<int> used;
    for (const StateTransfer& transfer : plan_.transfers) {
      if (transfer.from == rank_) used.insert(transfer.entry);
    }
    for (const int index : used) {
      const StateMemory::Entry& entry = entries_[static_cast<size_t>(index)];
      if (!entry.state->Verify()) Strike(entry, "its bytes have changed in memory");
    }
  }

  // Whether every rank is well. If not, what was refused elsewhere is struck out here too, and all
  // know all notes.
  absl::StatusOr<bool> AllWell() {
    int64_t well = std::exchange(well_, true) ? 1 : 0;
    FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceMin({&well, 1}));
    if (well == 1) return true;
    v1::StateInventory refused;  // entries as (rank in `shard`, index in `layout`)
    for (const auto& [rank, entry] : std::exchange(refused_, {})) {
      v1::StateEntry* out = refused.add_entries();
      out->set_shard(rank);
      out->set_layout(entry);
    }
    FATHOM_ASSIGN_OR_RETURN(
        const std::vector<std::string> messages,
        GatherLong(parts_->world.get(), refused.SerializeAsString(), kStateChunkBytes));
    for (size_t from = 0; from < messages.size(); ++from) {
      v1::StateInventory other;
      if (!other.ParseFromString(messages[from])) return absl::InternalError("not a refusal");
      for (const v1::StateEntry& entry : other.entries()) {
        if (entry.shard() != rank_ || entry.layout() < 0 ||
            entry.layout() >= static_cast<int>(entries_.size())) {
          continue;
        }
        Strike(entries_[static_cast<size_t>(entry.layout())],
               absl::StrCat("rank ", from, " got other bytes"));
      }
    }
    well_ = true;
    return false;
  }

  // Where this rank's shard is put together: a buffer that the plan doesn't read.
  int TargetBuffer() const {
    int best = -1;
    for (int buffer = 0; buffer < 2; ++buffer) {
      const ShardState* state = optimizer_.state(buffer).get();
      const bool read = std::any_of(
          plan_.transfers.begin(), plan_.transfers.end(), [&](const StateTransfer& transfer) {
            return transfer.from == rank_ &&
                   entries_[static_cast<size_t>(transfer.entry)].state.get() == state;
          });
      if (read) continue;
      if (best < 0 || state->step() < optimizer_.state(best)->step()) best = buffer;
    }
    FATHOM_CHECK(best >= 0) << "both buffers are sources of one step";
    return best;
  }

  absl::Status RunTransfers() {
    in_place_ = -1;
    for (const StateTransfer& transfer : plan_.transfers) {
      if (transfer.to != rank_ || transfer.from != rank_ || !transfer.whole) continue;
      for (int buffer = 0; buffer < 2; ++buffer) {
        if (optimizer_.state(buffer) == entries_[static_cast<size_t>(transfer.entry)].state) {
          in_place_ = buffer;
        }
      }
    }
    if (in_place_ < 0) {
      loading_ = TargetBuffer();
      optimizer_.BeginLoad(loading_);
    }
    received_bytes_ = 0;
    from_buddies_ = 0;
    for (const StateTransfer& transfer : plan_.transfers) {
      if (transfer.from == rank_ && transfer.to == rank_) {
        if (in_place_ < 0) CopyHere(transfer);
      } else if (transfer.from == rank_) {
        FATHOM_RETURN_IF_ERROR(Send(transfer));
      } else if (transfer.to == rank_) {
        FATHOM_RETURN_IF_ERROR(Receive(transfer));
      }
    }
    if (in_place_ < 0 && refused_.empty()) CompleteLoad();
    return absl::OkStatus();
  }

  void CopyHere(const StateTransfer& transfer) {
    const ShardState& from = *entries_[static_cast<size_t>(transfer.entry)].state;
    ShardState& to = *optimizer_.state(loading_);
    for (const StateSegment& segment : transfer.segments) {
      std::memcpy(to.bytes().data() + segment.to_offset, from.bytes().data() + segment.from_offset,
                  static_cast<size_t>(segment.bytes));
    }
    if (!Offer(transfer).own) ++from_buddies_;
  }

  // Of one message's data, leaving room for its hash.
  static int64_t Room(const transport::ChannelSpec& spec) {
    return static_cast<int64_t>(spec.slot_bytes - sizeof(uint64_t)) / kStateAlignBytes *
           kStateAlignBytes;
  }

  absl::Status Send(const StateTransfer& transfer) {
    const ShardState& state = *entries_[static_cast<size_t>(transfer.entry)].state;
    transport::ChannelSender* to = parts_->world->sender(transfer.to);
    for (const std::vector<StateSegment>& message : Messages(transfer, Room(to->spec()))) {
      std::vector<absl::Span<const std::byte>> pieces;
      uint64_t hash = 0;
      for (const StateSegment& segment : message) {
        pieces.push_back(state.bytes().subspan(static_cast<size_t>(segment.from_offset),
                                               static_cast<size_t>(segment.bytes)));
        hash = Xxh64(pieces.back().data(), pieces.back().size(), hash);
      }
      pieces.push_back({reinterpret_cast<const std::byte*>(&hash), sizeof(hash)});
      FATHOM_RETURN_IF_ERROR(to->SendPieces(pieces));
    }
    return absl::OkStatus();
  }

  absl::Status Receive(const StateTransfer& transfer) {
    std::byte* const into = optimizer_.state(loading_)->bytes().data();
    transport::ChannelReceiver* from = parts_->world->receiver(transfer.from);
    for (const std::vector<StateSegment>& message : Messages(transfer, Room(from->spec()))) {
      FATHOM_ASSIGN_OR_RETURN(const absl::Span<const std::byte> got, from->Receive());
      int64_t bytes = 0;
      for (const StateSegment& segment : message) bytes += segment.bytes;
      if (got.size() != static_cast<size_t>(bytes) + sizeof(uint64_t)) {
        return absl::InternalError(absl::StrCat("rank ", transfer.from, " sent ", got.size(),
                                                " bytes of state where ", bytes + sizeof(uint64_t),
                                                " were expected"));
      }
      const std::byte* next = got.data();
      uint64_t hash = 0;
      for (const StateSegment& segment : message) {
        std::memcpy(into + segment.to_offset, next, static_cast<size_t>(segment.bytes));
        hash = Xxh64(into + segment.to_offset, static_cast<size_t>(segment.bytes), hash);
        next += segment.bytes;
      }
      uint64_t sent_hash = 0;
      std::memcpy(&sent_hash, next, sizeof(sent_hash));
      if (hash != sent_hash) Refuse(transfer);
      received_bytes_ += bytes;
      FATHOM_RETURN_IF_ERROR(from->Release());
    }
    if (!Offer(transfer).own) ++from_buddies_;
    return absl::OkStatus();
  }

  const StateOffer& Offer(const StateTransfer& transfer) const {
    return question_
        .inventories[static_cast<size_t>(transfer.from)][static_cast<size_t>(transfer.entry)];
  }

  void Refuse(const StateTransfer& transfer) {
    well_ = false;
    refused_.insert({transfer.from, transfer.entry});
    notes_.push_back(absl::StrCat("refused what rank ", transfer.from, " sent of shard ",
                                  Offer(transfer).shard, " of step ", plan_.step));
  }

  void CompleteLoad() {
    optimizer_.FinishLoad(loading_, plan_.step, /*biases_in_store=*/false);
    for (const StateTransfer& transfer : plan_.transfers) {
      if (transfer.to == rank_ && transfer.whole &&
          optimizer_.state(loading_)->hash() != Offer(transfer).hash) {
        Refuse(transfer);
        optimizer_.state(loading_)->Invalidate();
      }
    }
  }

  v1::RestoreReport Finish() {
    if (in_place_ >= 0) optimizer_.Select(in_place_);
    v1::RestoreReport report;
    report.set_step(plan_.step);
    report.set_source("memory");
    report.set_bytes_received(received_bytes_);
    report.set_pieces_from_buddies(from_buddies_);
    report.set_note(absl::StrJoin(notes_, "; "));
    return report;
  }

  v1::RestoreReport Without(const std::string& missing) {
    v1::RestoreReport report;
    if (!missing.empty()) notes_.push_back(absl::StrCat("not from memory: ", missing));
    report.set_note(absl::StrJoin(notes_, "; "));
    return report;
  }

  RankParts* const parts_;
  Optimizer& optimizer_;
  const int rank_;
  std::map<std::string, std::shared_ptr<const StateLayout>> layouts_;  // by key

  // Of the round.
  RestoreQuestion question_;
  std::vector<StateMemory::Entry> entries_;  // this rank's inventory
  RestorePlan plan_;
  int in_place_ = -1;  // buffer that already holds this rank's shard
  int loading_ = 0;    // else the one it is put together in
  int64_t received_bytes_ = 0;
  int from_buddies_ = 0;
  bool well_ = true;
  std::set<std::pair<int, int>> refused_;  // (rank, entry)
  std::vector<std::string> notes_;
};

}  // namespace

absl::StatusOr<v1::RestoreReport> RestoreFromMemory(RankParts* parts, int64_t at_least) {
  return Exchange(parts, at_least).Run();
}

void RecordRestore(RankParts* parts, int64_t step) {
  const RestorePoint point = {parts->plan.epoch(), step};
  parts->memory->Learn({&point, 1});
}

}  // namespace fathom::engine
