// How tokens travel between the ranks of an expert group, and in which order they are laid out on
// both sides. Pure bookkeeping on host memory.
//
// A token goes once to every expert rank that holds one of its experts, as a record:
//
//   hidden   D values: E4M3 codes then FP32 power-of-two scales per 128, or the plain format
//   experts  K int32 ids, as the router chose them
//   weights  K routing weights, FP32 (FP64 under FP64)
//
// each part and the record padded to 16 bytes. Its gradient on the way back to the experts is a
// record with the hidden part alone. What returns to the source is one row per record, in the
// records' order: a matrix of rows, and for gradients a matrix of K weight gradients behind it.
#ifndef FATHOM_WORKER_MODEL_TOKEN_PACKING_H_
#define FATHOM_WORKER_MODEL_TOKEN_PACKING_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/numerics.h"

namespace fathom::model {

struct RecordFormat {
  int64_t hidden_bytes = 0;  // codes, or values
  int64_t scale_bytes = 0;
  int64_t top_k = 0;  // 0 in a gradient's record
  int64_t weight_bytes = 0;
  int64_t scales_at = 0;
  int64_t experts_at = 0;
  int64_t weights_at = 0;
  int64_t bytes = 0;
};

RecordFormat TokenRecord(const Numerics& numerics, int64_t hidden, int64_t top_k);
RecordFormat GradientRecord(const Numerics& numerics, int64_t hidden);

// Largest message on a lane when a member has `tokens` tokens.
int64_t MaxMessageBytes(const Numerics& numerics, int64_t hidden, int64_t top_k, int64_t tokens,
                        Lane lane);

// Hidden parts in host memory, one behind another.
struct HostRows {
  std::vector<std::byte> hidden;
  std::vector<std::byte> scales;

  void Resize(const RecordFormat& format, int64_t rows);
};

// The experts of a group: who holds which.
struct ExpertMap {
  std::vector<int32_t> owner;  // [E] expert rank
  std::vector<int32_t> local;  // [E] index among this rank's experts, ascending by id, or -1
  int ranks = 1;
  int64_t local_count = 0;

  static ExpertMap Make(const std::vector<int32_t>& owner, int ranks, int self);
};

// Source side: this rank's tokens by the expert rank they go to.
struct SourceLayout {
  std::vector<int32_t> tokens;   // ascending within a rank
  std::vector<int64_t> offsets;  // [ranks + 1], into tokens

  int64_t count(int rank) const { return offsets[rank + 1] - offsets[rank]; }
  absl::Span<const int32_t> tokens_of(int rank) const {
    return absl::MakeConstSpan(tokens).subspan(offsets[rank], count(rank));
  }
};

// experts [T, K].
void LayOutTokens(const ExpertMap& map, absl::Span<const int32_t> experts, int64_t top_k,
                  SourceLayout* out);

// One record per entry of layout.tokens, into out (resized). experts and weights may be empty: then
// the records are gradients.
void PackRecords(const RecordFormat& format, const SourceLayout& layout, const HostRows& rows,
                 absl::Span<const int32_t> experts, absl::Span<const std::byte> weights,
                 std::vector<std::byte>* out);

// Expert side: a pair is a record and one of this rank's experts that it goes to. Pairs are ordered
// by expert, then source rank, then the source's tokens.
struct ExpertLayout {
  std::vector<int64_t> record_offsets;  // [ranks + 1]: records by source
  std::vector<int64_t> pair_offsets;    // [local experts + 1]
  std::vector<int32_t> pair_record;
  std::vector<int32_t> pair_slot;  // which of the record's K

  int64_t records() const { return record_offsets.back(); }
  int64_t pairs() const { return pair_offsets.back(); }
};

using Messages = std::vector<absl::Span<const std::byte>>;

// Lays out what arrived: pairs, their hidden parts (rows) and weights. DATA_LOSS: a message that is
// no whole number of records, holds more than max_tokens, or names experts that don't exist.
absl::Status UnpackTokens(const RecordFormat& format, const ExpertMap& map,
                          const Messages& messages, int64_t max_tokens, ExpertLayout* layout,
                          HostRows* rows, std::vector<std::byte>* pair_weights);

// Hidden parts of gradients that arrived, in the order of the pairs. DATA_LOSS: not as many as
// tokens.
absl::Status UnpackGradients(const RecordFormat& format, const ExpertLayout& layout,
                             const Messages& messages, HostRows* rows);

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_TOKEN_PACKING_H_
