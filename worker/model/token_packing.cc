#include "worker/model/token_packing.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kernels/ops.h"

namespace fathom::model {
namespace {

constexpr int64_t kRecordAlignment = 16;

int64_t Padded(int64_t bytes) {
  return (bytes + kRecordAlignment - 1) / kRecordAlignment * kRecordAlignment;
}

int32_t ReadInt32(const std::byte* from) {
  int32_t value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

const std::byte* RecordAt(const RecordFormat& format, const Messages& messages,
                          const ExpertLayout& layout, int source, int64_t record) {
  return messages[source].data() + (record - layout.record_offsets[source]) * format.bytes;
}

void ReadHidden(const RecordFormat& format, const std::byte* record, int64_t row, HostRows* rows) {
  std::memcpy(rows->hidden.data() + row * format.hidden_bytes, record, format.hidden_bytes);
  if (format.scale_bytes > 0) {
    std::memcpy(rows->scales.data() + row * format.scale_bytes, record + format.scales_at,
                format.scale_bytes);
  }
}

// Which source each record came from: fills record_offsets.
absl::Status CountRecords(const RecordFormat& format, const Messages& messages, int64_t max_tokens,
                          ExpertLayout* layout) {
  layout->record_offsets.assign(1, 0);
  for (size_t source = 0; source < messages.size(); ++source) {
    const auto bytes = static_cast<int64_t>(messages[source].size());
    if (bytes % format.bytes != 0 || bytes / format.bytes > max_tokens) {
      return absl::DataLossError(absl::StrCat("tokens from expert rank ", source, ": ", bytes,
                                              " bytes are not up to ", max_tokens, " records of ",
                                              format.bytes));
    }
    layout->record_offsets.push_back(layout->record_offsets.back() + bytes / format.bytes);
  }
  return absl::OkStatus();
}

// Counts pairs per local expert into pair_offsets.
absl::Status CountPairs(const RecordFormat& format, const ExpertMap& map, const Messages& messages,
                        ExpertLayout* layout) {
  layout->pair_offsets.assign(map.local_count + 1, 0);
  for (size_t source = 0; source < messages.size(); ++source) {
    for (size_t at = 0; at < messages[source].size(); at += format.bytes) {
      const std::byte* experts = messages[source].data() + at + format.experts_at;
      for (int64_t k = 0; k < format.top_k; ++k) {
        const int32_t expert = ReadInt32(experts + k * sizeof(int32_t));
        if (expert < 0 || expert >= static_cast<int32_t>(map.local.size())) {
          return absl::DataLossError(absl::StrCat("tokens from expert rank ", source,
                                                  ": there is no expert ", expert, " of ",
                                                  map.local.size()));
        }
        if (map.local[expert] >= 0) ++layout->pair_offsets[map.local[expert] + 1];
      }
    }
  }
  for (int64_t e = 0; e < map.local_count; ++e) {
    layout->pair_offsets[e + 1] += layout->pair_offsets[e];
  }
  return absl::OkStatus();
}

}  // namespace

RecordFormat TokenRecord(const Numerics& numerics, int64_t hidden, int64_t top_k) {
  RecordFormat format = GradientRecord(numerics, hidden);
  format.top_k = top_k;
  format.weight_bytes = kernels::SizeOf(numerics.sum);
  format.experts_at = format.bytes;
  format.weights_at = format.experts_at + Padded(top_k * static_cast<int64_t>(sizeof(int32_t)));
  format.bytes = format.weights_at + Padded(top_k * format.weight_bytes);
  return format;
}

RecordFormat GradientRecord(const Numerics& numerics, int64_t hidden) {
  RecordFormat format;
  format.hidden_bytes =
      numerics.fp8_dispatch ? hidden : hidden * kernels::SizeOf(numerics.dispatch);
  format.scale_bytes =
      numerics.fp8_dispatch ? kernels::TileCount(hidden) * static_cast<int64_t>(sizeof(float)) : 0;
  format.scales_at = Padded(format.hidden_bytes);
  format.bytes = format.scales_at + Padded(format.scale_bytes);
  return format;
}

int64_t MaxMessageBytes(const Numerics& numerics, int64_t hidden, int64_t top_k, int64_t tokens,
                        Lane lane) {
  const int64_t row_bytes = hidden * kernels::SizeOf(numerics.combine);
  switch (lane) {
    case Lane::kDispatchForward:
      return tokens * TokenRecord(numerics, hidden, top_k).bytes;
    case Lane::kCombineBackward:
      return tokens * GradientRecord(numerics, hidden).bytes;
    case Lane::kCombineForward:
      return tokens * row_bytes;
    case Lane::kDispatchBackward:
      return tokens * (row_bytes + top_k * kernels::SizeOf(numerics.sum));
  }
  return 0;
}

void HostRows::Resize(const RecordFormat& format, int64_t rows) {
  hidden.resize(rows * format.hidden_bytes);
  scales.resize(rows * format.scale_bytes);
}

ExpertMap ExpertMap::Make(const std::vector<int32_t>& owner, int ranks, int self) {
  ExpertMap map;
  map.owner = owner;
  map.ranks = ranks;
  for (const int32_t rank : owner) {
    map.local.push_back(rank == self ? static_cast<int32_t>(map.local_count++) : -1);
  }
  return map;
}

void LayOutTokens(const ExpertMap& map, absl::Span<const int32_t> experts, int64_t top_k,
                  SourceLayout* out) {
  const int64_t tokens = static_cast<int64_t>(experts.size()) / top_k;
  out->tokens.clear();
  out->offsets.assign(1, 0);
  for (int rank = 0; rank < map.ranks; ++rank) {
    for (int64_t t = 0; t < tokens; ++t) {
      bool goes = false;
      for (int64_t k = 0; k < top_k; ++k) goes |= map.owner[experts[t * top_k + k]] == rank;
      if (goes) out->tokens.push_back(static_cast<int32_t>(t));
    }
    out->offsets.push_back(static_cast<int64_t>(out->tokens.size()));
  }
}

void PackRecords(const RecordFormat& format, const SourceLayout& layout, const HostRows& rows,
                 absl::Span<const int32_t> experts, absl::Span<const std::byte> weights,
                 std::vector<std::byte>* out) {
  out->resize(layout.tokens.size() * format.bytes);
  std::byte* record = out->data();
  const int64_t weights_bytes = format.top_k * format.weight_bytes;
  for (const int32_t token : layout.tokens) {
    std::memcpy(record, rows.hidden.data() + token * format.hidden_bytes, format.hidden_bytes);
    if (format.scale_bytes > 0) {
      std::memcpy(record + format.scales_at, rows.scales.data() + token * format.scale_bytes,
                  format.scale_bytes);
    }
    if (format.top_k > 0) {
      std::memcpy(record + format.experts_at, experts.data() + token * format.top_k,
                  format.top_k * sizeof(int32_t));
      std::memcpy(record + format.weights_at, weights.data() + token * weights_bytes,
                  weights_bytes);
    }
    record += format.bytes;
  }
}

absl::Status UnpackTokens(const RecordFormat& format, const ExpertMap& map,
                          const Messages& messages, int64_t max_tokens, ExpertLayout* layout,
                          HostRows* rows, std::vector<std::byte>* pair_weights) {
  if (absl::Status s = CountRecords(format, messages, max_tokens, layout); !s.ok()) return s;
  if (absl::Status s = CountPairs(format, map, messages, layout); !s.ok()) return s;
  const int64_t pairs = layout->pairs();
  layout->pair_record.resize(pairs);
  layout->pair_slot.resize(pairs);
  rows->Resize(format, pairs);
  pair_weights->resize(pairs * format.weight_bytes);
  std::vector<int64_t> next(layout->pair_offsets.begin(), layout->pair_offsets.end() - 1);
  for (size_t source = 0; source < messages.size(); ++source) {
    for (int64_t r = layout->record_offsets[source]; r < layout->record_offsets[source + 1]; ++r) {
      const std::byte* record = RecordAt(format, messages, *layout, static_cast<int>(source), r);
      for (int64_t k = 0; k < format.top_k; ++k) {
        const int32_t expert = ReadInt32(record + format.experts_at + k * sizeof(int32_t));
        if (map.local[expert] < 0) continue;
        const int64_t pair = next[map.local[expert]]++;
        layout->pair_record[pair] = static_cast<int32_t>(r);
        layout->pair_slot[pair] = static_cast<int32_t>(k);
        ReadHidden(format, record, pair, rows);
        std::memcpy(pair_weights->data() + pair * format.weight_bytes,
                    record + format.weights_at + k * format.weight_bytes, format.weight_bytes);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status UnpackGradients(const RecordFormat& format, const ExpertLayout& layout,
                             const Messages& messages, HostRows* rows) {
  std::vector<const std::byte*> record_at(layout.records());
  for (size_t source = 0; source < messages.size(); ++source) {
    const int64_t first = layout.record_offsets[source];
    const int64_t count = layout.record_offsets[source + 1] - first;
    if (static_cast<int64_t>(messages[source].size()) != count * format.bytes) {
      return absl::DataLossError(absl::StrCat("gradients from expert rank ", source, ": ",
                                              messages[source].size(), " bytes, and ", count,
                                              " records of ", format.bytes, " were due"));
    }
    for (int64_t r = first; r < first + count; ++r) {
      record_at[r] = RecordAt(format, messages, layout, static_cast<int>(source), r);
    }
  }
  rows->Resize(format, layout.pairs());
  for (int64_t pair = 0; pair < layout.pairs(); ++pair) {
    ReadHidden(format, record_at[layout.pair_record[pair]], pair, rows);
  }
  return absl::OkStatus();
}

}  // namespace fathom::model
