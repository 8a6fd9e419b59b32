// Collectives over a group of ranks, with a fixed order of addition: sums run over the members in
// group order, whatever arrives first, so that a step redone gives the same bits.
//
// Reduce-scatter and all-gather go directly between every pair of members in rounds of one slot
// each, which bounds the memory and cannot deadlock. Members call the same operations in the same
// order.
#ifndef FATHOM_WORKER_TRANSPORT_COLLECTIVES_H_
#define FATHOM_WORKER_TRANSPORT_COLLECTIVES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/transport/channel.h"

namespace fathom::transport {

// A half-open range of elements.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// n elements in near-equal contiguous ranges, one per member, each beginning at a multiple of
// `align`.
std::vector<Range> PartitionEvenly(int64_t n, int members, int64_t align = 16);

class Group {
 public:
  // The channels that a group of these ranks needs, named after `name`; slot_bytes is the size of
  // one round's piece per pair. To be put into the layout by every rank.
  static std::vector<ChannelSpec> Channels(const std::string& name, const std::vector<int>& ranks,
                                           uint64_t slot_bytes);

  // `self` is this rank; it is in `ranks`. A group of one member moves nothing.
  Group(const std::string& name, std::vector<int> ranks, int self, ChannelSet* channels);

  int size() const;
  int index() const;  // of this rank in the group
  const std::vector<int>& ranks() const;
  // The channels to and from a member, for what is no collective; null for this rank's own index.
  // Both ends use them in the same order as the group's operations.
  ChannelSender* sender(int member) const { return to_[static_cast<size_t>(member)]; }
  ChannelReceiver* receiver(int member) const { return from_[static_cast<size_t>(member)]; }

  // out[i] = sum over members, in group order, of their in[parts[index].begin + i]. parts has one
  // range per member and is the same on each. out may be the part's own place in `in`.
  absl::Status ReduceScatter(absl::Span<const float> in, absl::Span<const Range> parts,
                             absl::Span<float> out);

  // Every member holds its own part of `data` (element_bytes each) and gets those of the others.
  absl::Status AllGather(absl::Span<std::byte> data, int64_t element_bytes,
                         absl::Span<const Range> parts);

  // values[i] = sum over members in group order. Meant for a few thousand scalars.
  absl::Status AllReduceSum(absl::Span<double> values);
  absl::Status AllReduceMin(absl::Span<int64_t> values);

  // Message of each member, in group order; messages are at most one slot long.
  absl::StatusOr<std::vector<std::string>> AllGatherMessages(const std::string& message);

  absl::Status Barrier();

 private:
  // The bytes of `piece` go to member m; pieces of no bytes are not sent.
  absl::Status SendTo(int m, absl::Span<const std::byte> piece);
  // Member m's next message, which has to have this many bytes. None is received for 0.
  absl::StatusOr<const std::byte*> ReceiveFrom(int m, size_t bytes);
  absl::Status ReleaseFrom(int m, size_t bytes);
  // values[i] = combine over members in group order.
  template <typename T, typename Combine>
  absl::Status AllReduce(absl::Span<T> values, Combine combine);
  absl::Status Named(absl::string_view operation, const absl::Status& status) const;

  std::string name_;
  std::vector<int> ranks_;
  int index_ = 0;
  std::vector<ChannelSender*> to_;      // by member; null for this one
  std::vector<ChannelReceiver*> from_;  // by member; null for this one
  uint64_t slot_bytes_ = 0;
};

}  // namespace fathom::transport

#endif  // FATHOM_WORKER_TRANSPORT_COLLECTIVES_H_
