#include "common/data/entropy.h"

#include <algorithm>
#include <cmath>

#include "common/base/check.h"

namespace fathom::data {
namespace {

constexpr int64_t kDenseVocabularyMax = 2048;

// Sum over counts c of -(c / total) ln(c / total).
double Entropy(std::vector<int64_t> counts) {
  // In one order, whatever container they come from: the same text gives the same bits.
  std::sort(counts.begin(), counts.end());
  double total = 0;
  for (const int64_t count : counts) total += static_cast<double>(count);
  double sum = 0;
  for (const int64_t count : counts) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / total;
    sum -= share * std::log(share);
  }
  return sum;
}

}  // namespace

EntropyCounter::EntropyCounter(int64_t vocab_size)
    : vocab_size_(vocab_size), counts_(static_cast<size_t>(vocab_size)) {
  if (vocab_size <= kDenseVocabularyMax) {
    dense_pairs_.resize(static_cast<size_t>(vocab_size * vocab_size));
  }
}

void EntropyCounter::Add(absl::Span<const int32_t> tokens) {
  for (const int32_t token : tokens) {
    FATHOM_CHECK(token >= 0 && token < vocab_size_) << token << " of " << vocab_size_;
    ++counts_[static_cast<size_t>(token)];
    if (previous_ >= 0) {
      if (!dense_pairs_.empty()) {
        ++dense_pairs_[static_cast<size_t>(previous_ * vocab_size_ + token)];
      } else {
        ++sparse_pairs_[(static_cast<uint64_t>(previous_) << 32) | static_cast<uint64_t>(token)];
      }
    }
    previous_ = token;
  }
}

double EntropyCounter::Unigram() const { return Entropy(counts_); }

double EntropyCounter::Bigram() const {
  if (previous_ < 0) return 0;
  // H(next | first) = H(first, next) - H(first); the last token is first of no pair.
  std::vector<int64_t> firsts = counts_;
  --firsts[static_cast<size_t>(previous_)];
  std::vector<int64_t> pairs = dense_pairs_;
  for (const auto& [pair, count] : sparse_pairs_) pairs.push_back(count);
  return std::max(0.0, Entropy(std::move(pairs)) - Entropy(std::move(firsts)));
}

}  // namespace fathom::data
