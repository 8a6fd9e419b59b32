// What a reader can hold a training loss against: the entropy of the data itself, in nats per
// token.
//
// A model that knows only how often each token is reaches the unigram entropy; one that also sees
// the token before reaches the bigram entropy H(x_t | x_{t-1}), both as counted on the same text.
// Counts are exact; memory grows with the number of different pairs.
#ifndef FATHOM_COMMON_DATA_ENTROPY_H_
#define FATHOM_COMMON_DATA_ENTROPY_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace fathom::data {

class EntropyCounter {
 public:
  // Ids are 0 .. vocab_size - 1.
  explicit EntropyCounter(int64_t vocab_size);

  // The text so far goes on with these tokens.
  void Add(absl::Span<const int32_t> tokens);

  // 0 for fewer than one, or for the bigrams two, tokens.
  double Unigram() const;
  double Bigram() const;

 private:
  const int64_t vocab_size_;
  int32_t previous_ = -1;  // -1: no token yet
  std::vector<int64_t> counts_;
  std::vector<int64_t> dense_pairs_;                     // [vocab, vocab], for small vocabularies
  absl::flat_hash_map<uint64_t, int64_t> sparse_pairs_;  // first << 32 | second, for the others
};

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_ENTROPY_H_
