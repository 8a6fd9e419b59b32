// A SentencePiece model for tests, trained on a few sentences. Apart from the test because the
// library's header declares an absl::string_view that can't meet Abseil's.
#ifndef FATHOM_COMMON_DATA_TRAINED_SENTENCEPIECE_H_
#define FATHOM_COMMON_DATA_TRAINED_SENTENCEPIECE_H_

#include <string>

namespace fathom::data {

// Trains a byte-fallback model on the text of `corpus_path` and writes <prefix>.model. Returns what
// went wrong, or nothing. Without an end-of-sentence piece if asked to.
std::string TrainSentencePiece(const std::string& corpus_path, const std::string& prefix,
                               int vocab_size, bool end_of_sentence);

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_TRAINED_SENTENCEPIECE_H_
