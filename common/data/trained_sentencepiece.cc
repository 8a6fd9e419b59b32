#include "common/data/trained_sentencepiece.h"

#include <sentencepiece_trainer.h>

namespace fathom::data {

std::string TrainSentencePiece(const std::string& corpus_path, const std::string& prefix,
                               int vocab_size, bool end_of_sentence) {
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--input=" + corpus_path + " --model_prefix=" + prefix +
      " --vocab_size=" + std::to_string(vocab_size) +
      " --model_type=bpe --byte_fallback=true --minloglevel=2 --num_threads=1" +
      (end_of_sentence ? "" : " --eos_id=-1"));
  return status.ok() ? "" : std::string(status.error_message());
}

}  // namespace fathom::data
