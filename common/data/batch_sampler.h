// Which tokens a sample is: a function of the seed and of how many samples came before it, nothing
// else.
//
// A part's tokens are cut into windows of sequence_length inputs; a window also reads the
// 1 + mtp_depth tokens after its inputs (the labels), which are the next window's first inputs. The
// windows are visited pass by pass, each once per pass, in a pseudo-random order that a Feistel
// network with cycle walking gives without storing it. The order depends on (seed, pass).
#ifndef FATHOM_COMMON_DATA_BATCH_SAMPLER_H_
#define FATHOM_COMMON_DATA_BATCH_SAMPLER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/data/token_file.h"

namespace fathom::data {

struct WindowShape {
  int64_t sequence_length = 0;  // inputs per sequence
  int64_t mtp_depth = 0;        // further labels per input

  int64_t tokens() const { return sequence_length + 1 + mtp_depth; }
};

// Whole windows in a part of that many tokens; 0 when it holds none.
int64_t WindowCount(int64_t tokens, const WindowShape& shape);

// Where `index` goes in permutation `key` of 0 .. count-1: a bijection for every key and count.
// 0 <= index < count.
int64_t Permute(int64_t index, int64_t count, uint64_t key);

// The window of training sample `sample` (counted over the whole job from 0) of a part of
// `windows` > 0 windows.
int64_t TrainingWindow(uint64_t seed, int64_t sample, int64_t windows);

// The same by step: sample `index` (0 .. samples_per_step-1) of step `step` (from 0).
int64_t TrainingWindow(uint64_t seed, int64_t step, int64_t samples_per_step, int64_t index,
                       int64_t windows);

// The tokens of a window: shape.tokens() ids into out. OUT_OF_RANGE: no such window. DATA_LOSS: the
// file holds an id outside its vocabulary.
absl::Status FillSequence(const TokenFile& file, Split split, int64_t window,
                          const WindowShape& shape, absl::Span<int32_t> out);

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_BATCH_SAMPLER_H_
