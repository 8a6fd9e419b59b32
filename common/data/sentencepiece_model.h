// A SentencePiece model behind the standard library only: its header declares an absl::string_view
// of its own, which can't meet Abseil's in one translation unit.
#ifndef FATHOM_COMMON_DATA_SENTENCEPIECE_MODEL_H_
#define FATHOM_COMMON_DATA_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::data {

class SentencePieceModel {
 public:
  // Null and a message in `error` when the file is no model.
  static std::unique_ptr<SentencePieceModel> Load(const std::string& path, std::string& error);

  virtual ~SentencePieceModel() = default;
  virtual int64_t vocab_size() const = 0;
  virtual int32_t end_of_sentence() const = 0;  // -1: the model has none

  // False and a message in `error` on failure.
  virtual bool Encode(std::string_view text, std::vector<int32_t>& ids,
                      std::string& error) const = 0;
  virtual bool Decode(const std::vector<int32_t>& ids, std::string& text,
                      std::string& error) const = 0;
};

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_SENTENCEPIECE_MODEL_H_
