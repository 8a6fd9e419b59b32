#include "worker/transport/collectives.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::transport {
namespace {

// Two, so that a round's pieces are on their way while those of the round before are added.
constexpr int kSlots = 2;
// Elements added at a time, on the stack: `out` may then lie where this member's input lies.
constexpr int64_t kTile = 1024;

std::string ChannelName(const std::string& name) { return absl::StrCat("group.", name); }

// The part of `part` that moves in this round.
Range PieceOf(const Range& part, int64_t round, int64_t piece_elements) {
  const int64_t begin = std::min(part.end, part.begin + round * piece_elements);
  return {begin, std::min(part.end, begin + piece_elements)};
}

int64_t RoundsOf(absl::Span<const Range> parts, int64_t piece_elements) {
  int64_t rounds = 0;
  for (const Range& part : parts) {
    rounds = std::max(rounds, (part.size() + piece_elements - 1) / piece_elements);
  }
  return rounds;
}

absl::Status CheckParts(absl::Span<const Range> parts, int members, int64_t n) {
  if (parts.size() != members) {
    return absl::InvalidArgumentError(
        absl::StrCat(parts.size(), " parts for ", members, " members"));
  }
  for (const Range& part : parts) {
    if (part.begin < 0 || part.end < part.begin || part.end > n) {
      return absl::InvalidArgumentError(
          absl::StrCat("part [", part.begin, ", ", part.end, ") of ", n, " elements"));
    }
  }
  return absl::OkStatus();
}

// out = terms[0] op terms[1] op ..., element by element, in that order.
template <typename T, typename Combine>
void CombineInOrder(absl::Span<const T* const> terms, int64_t n, T* out, Combine combine) {
  T sum[kTile];
  for (int64_t begin = 0; begin < n; begin += kTile) {
    const int64_t count = std::min(kTile, n - begin);
    std::copy_n(terms[0] + begin, count, sum);
    for (size_t m = 1; m < terms.size(); ++m) {
      const T* term = terms[m] + begin;
      for (int64_t i = 0; i < count; ++i) sum[i] = combine(sum[i], term[i]);
    }
    std::copy_n(sum, count, out + begin);
  }
}

template <typename T>
absl::Span<const std::byte> Bytes(const T* values, int64_t n) {
  return {reinterpret_cast<const std::byte*>(values), static_cast<size_t>(n) * sizeof(T)};
}

}  // namespace

std::vector<Range> PartitionEvenly(int64_t n, int members, int64_t align) {
  FATHOM_CHECK(n >= 0 && members > 0 && align > 0) << n << " " << members << " " << align;
  const int64_t blocks = (n + align - 1) / align;
  std::vector<Range> parts;
  for (int64_t m = 0; m < members; ++m) {
    const auto begin_of = [&](int64_t member) {
      return std::min(n, (blocks / members * member + std::min(member, blocks % members)) * align);
    };
    parts.push_back({begin_of(m), begin_of(m + 1)});
  }
  return parts;
}

std::vector<ChannelSpec> Group::Channels(const std::string& name, const std::vector<int>& ranks,
                                         uint64_t slot_bytes) {
  std::vector<ChannelSpec> channels;
  for (const int from : ranks) {
    for (const int to : ranks) {
      if (from != to) channels.push_back({ChannelName(name), from, to, kSlots, slot_bytes});
    }
  }
  return channels;
}

Group::Group(const std::string& name, std::vector<int> ranks, int self, ChannelSet* channels)
    : name_(name), ranks_(std::move(ranks)) {
  const auto at = std::find(ranks_.begin(), ranks_.end(), self);
  FATHOM_CHECK(at != ranks_.end()) << "rank " << self << " is not in group " << name;
  index_ = static_cast<int>(at - ranks_.begin());
  for (const int rank : ranks_) {
    to_.push_back(rank == self ? nullptr : channels->sender(ChannelName(name), rank));
    from_.push_back(rank == self ? nullptr : channels->receiver(ChannelName(name), rank));
    if (rank != self) slot_bytes_ = to_.back()->spec().slot_bytes;
  }
  FATHOM_CHECK(size() == 1 || slot_bytes_ >= sizeof(double))
      << "group " << name << ": slots of " << slot_bytes_ << " bytes hold no element";
}

int Group::size() const { return static_cast<int>(ranks_.size()); }
int Group::index() const { return index_; }
const std::vector<int>& Group::ranks() const { return ranks_; }

absl::Status Group::Named(absl::string_view operation, const absl::Status& status) const {
  return WithContext(status, absl::StrCat(operation, " in group ", name_));
}

absl::Status Group::SendTo(int m, absl::Span<const std::byte> piece) {
  return piece.empty() ? absl::OkStatus() : to_[m]->Send(piece);
}

absl::StatusOr<const std::byte*> Group::ReceiveFrom(int m, size_t bytes) {
  if (bytes == 0) return nullptr;
  FATHOM_ASSIGN_OR_RETURN(const absl::Span<const std::byte> piece, from_[m]->Receive());
  if (piece.size() != bytes) {
    return absl::InternalError(absl::StrCat("rank ", ranks_[m], " sent ", piece.size(),
                                            " bytes where ", bytes,
                                            " were due: the members' calls differ"));
  }
  return piece.data();
}

absl::Status Group::ReleaseFrom(int m, size_t bytes) {
  return bytes == 0 ? absl::OkStatus() : from_[m]->Release();
}

absl::Status Group::ReduceScatter(absl::Span<const float> in, absl::Span<const Range> parts,
                                  absl::Span<float> out) {
  FATHOM_RETURN_IF_ERROR(Named("reduce-scatter", CheckParts(parts, size(), in.size())));
  const Range own = parts[index_];
  if (out.size() != own.size()) {
    return Named("reduce-scatter", absl::InvalidArgumentError(absl::StrCat(
                                       out.size(), " elements of output for ", own.size())));
  }
  if (size() == 1) {
    if (own.size() > 0) std::memmove(out.data(), in.data() + own.begin, out.size() * sizeof(float));
    return absl::OkStatus();
  }
  const int64_t piece_elements = static_cast<int64_t>(slot_bytes_ / sizeof(float));
  const int64_t rounds = RoundsOf(parts, piece_elements);
  const auto send_round = [&](int64_t round) -> absl::Status {
    for (int step = 1; step < size(); ++step) {
      const int m = (index_ + step) % size();
      const Range piece = PieceOf(parts[m], round, piece_elements);
      FATHOM_RETURN_IF_ERROR(SendTo(m, Bytes(in.data() + piece.begin, piece.size())));
    }
    return absl::OkStatus();
  };
  std::vector<const float*> terms(ranks_.size());
  const auto add_round = [&](int64_t round) -> absl::Status {
    const Range piece = PieceOf(own, round, piece_elements);
    const size_t bytes = static_cast<size_t>(piece.size()) * sizeof(float);
    if (bytes == 0) return absl::OkStatus();
    for (int m = 0; m < size(); ++m) {
      if (m == index_) {
        terms[m] = in.data() + piece.begin;
        continue;
      }
      FATHOM_ASSIGN_OR_RETURN(const std::byte* term, ReceiveFrom(m, bytes));
      terms[m] = reinterpret_cast<const float*>(term);
    }
    CombineInOrder<float>(terms, piece.size(), out.data() + (piece.begin - own.begin),
                          [](float a, float b) { return a + b; });
    for (int m = 0; m < size(); ++m) {
      if (m != index_) FATHOM_RETURN_IF_ERROR(ReleaseFrom(m, bytes));
    }
    return absl::OkStatus();
  };
  for (int64_t round = 0; round <= rounds; ++round) {
    if (round < rounds) FATHOM_RETURN_IF_ERROR(Named("reduce-scatter", send_round(round)));
    if (round > 0) FATHOM_RETURN_IF_ERROR(Named("reduce-scatter", add_round(round - 1)));
  }
  return absl::OkStatus();
}

absl::Status Group::AllGather(absl::Span<std::byte> data, int64_t element_bytes,
                              absl::Span<const Range> parts) {
  if (element_bytes < 1 || (size() > 1 && element_bytes > slot_bytes_)) {
    return Named("all-gather",
                 absl::InvalidArgumentError(absl::StrCat("elements of ", element_bytes,
                                                         " bytes; slots have ", slot_bytes_)));
  }
  FATHOM_RETURN_IF_ERROR(Named(
      "all-gather", CheckParts(parts, size(), static_cast<int64_t>(data.size()) / element_bytes)));
  if (size() == 1) return absl::OkStatus();
  const int64_t piece_elements = static_cast<int64_t>(slot_bytes_) / element_bytes;
  const int64_t rounds = RoundsOf(parts, piece_elements);
  const auto bytes_of = [&](const Range& piece) {
    return data.subspan(static_cast<size_t>(piece.begin * element_bytes),
                        static_cast<size_t>(piece.size() * element_bytes));
  };
  const auto send_round = [&](int64_t round) -> absl::Status {
    const Range piece = PieceOf(parts[index_], round, piece_elements);
    for (int step = 1; step < size(); ++step) {
      FATHOM_RETURN_IF_ERROR(SendTo((index_ + step) % size(), bytes_of(piece)));
    }
    return absl::OkStatus();
  };
  const auto receive_round = [&](int64_t round) -> absl::Status {
    for (int m = 0; m < size(); ++m) {
      if (m == index_) continue;
      const absl::Span<std::byte> to = bytes_of(PieceOf(parts[m], round, piece_elements));
      if (to.empty()) continue;
      FATHOM_ASSIGN_OR_RETURN(const std::byte* from, ReceiveFrom(m, to.size()));
      std::memcpy(to.data(), from, to.size());
      FATHOM_RETURN_IF_ERROR(ReleaseFrom(m, to.size()));
    }
    return absl::OkStatus();
  };
  for (int64_t round = 0; round <= rounds; ++round) {
    if (round < rounds) FATHOM_RETURN_IF_ERROR(Named("all-gather", send_round(round)));
    if (round > 0) FATHOM_RETURN_IF_ERROR(Named("all-gather", receive_round(round - 1)));
  }
  return absl::OkStatus();
}

template <typename T, typename Combine>
absl::Status Group::AllReduce(absl::Span<T> values, Combine combine) {
  if (size() == 1) return absl::OkStatus();
  const int64_t piece_elements = static_cast<int64_t>(slot_bytes_ / sizeof(T));
  const Range all{0, static_cast<int64_t>(values.size())};
  std::vector<const T*> terms(ranks_.size());
  // Each round's pieces are sent before they are combined in place, so rounds don't overlap here.
  for (int64_t round = 0; round * piece_elements < all.end; ++round) {
    const Range piece = PieceOf(all, round, piece_elements);
    const absl::Span<const std::byte> bytes = Bytes(values.data() + piece.begin, piece.size());
    for (int step = 1; step < size(); ++step) {
      FATHOM_RETURN_IF_ERROR(SendTo((index_ + step) % size(), bytes));
    }
    for (int m = 0; m < size(); ++m) {
      if (m == index_) {
        terms[m] = values.data() + piece.begin;
        continue;
      }
      FATHOM_ASSIGN_OR_RETURN(const std::byte* term, ReceiveFrom(m, bytes.size()));
      terms[m] = reinterpret_cast<const T*>(term);
    }
    CombineInOrder<T>(terms, piece.size(), values.data() + piece.begin, combine);
    for (int m = 0; m < size(); ++m) {
      if (m != index_) FATHOM_RETURN_IF_ERROR(ReleaseFrom(m, bytes.size()));
    }
  }
  return absl::OkStatus();
}

absl::Status Group::AllReduceSum(absl::Span<double> values) {
  return Named("all-reduce", AllReduce(values, [](double a, double b) { return a + b; }));
}

absl::Status Group::AllReduceMin(absl::Span<int64_t> values) {
  return Named("all-reduce",
               AllReduce(values, [](int64_t a, int64_t b) { return std::min(a, b); }));
}

absl::StatusOr<std::vector<std::string>> Group::AllGatherMessages(const std::string& message) {
  std::vector<std::string> messages(ranks_.size());
  messages[index_] = message;
  for (int step = 1; step < size(); ++step) {
    const int m = (index_ + step) % size();
    FATHOM_RETURN_IF_ERROR(
        Named("gathering messages", to_[m]->Send(Bytes(message.data(), message.size()))));
  }
  for (int m = 0; m < size(); ++m) {
    if (m == index_) continue;
    const absl::StatusOr<absl::Span<const std::byte>> received = from_[m]->Receive();
    if (!received.ok()) return Named("gathering messages", received.status());
    messages[m].assign(reinterpret_cast<const char*>(received->data()), received->size());
    FATHOM_RETURN_IF_ERROR(Named("gathering messages", from_[m]->Release()));
  }
  return messages;
}

absl::Status Group::Barrier() { return AllGatherMessages("").status(); }

}  // namespace fathom::transport
