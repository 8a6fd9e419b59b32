#include "common/data/sentencepiece_model.h"

#include <sentencepiece_processor.h>

namespace fathom::data {
namespace {

using sentencepiece::SentencePieceProcessor;

class LoadedModel final : public SentencePieceModel {
 public:
  explicit LoadedModel(std::unique_ptr<SentencePieceProcessor> processor)
      : processor_(std::move(processor)) {}

  int64_t vocab_size() const override { return processor_->GetPieceSize(); }
  int32_t end_of_sentence() const override { return processor_->eos_id(); }

  bool Encode(std::string_view text, std::vector<int32_t>& ids, std::string& error) const override {
    const auto status = processor_->Encode(text, &ids);
    if (!status.ok()) error = status.error_message();
    return status.ok();
  }

  bool Decode(const std::vector<int32_t>& ids, std::string& text,
              std::string& error) const override {
    const auto status = processor_->Decode(ids, &text);
    if (!status.ok()) error = status.error_message();
    return status.ok();
  }

 private:
  const std::unique_ptr<SentencePieceProcessor> processor_;
};

}  // namespace

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(const std::string& path,
                                                             std::string& error) {
  auto processor = std::make_unique<SentencePieceProcessor>();
  const auto status = processor->Load(path);
  if (!status.ok()) {
    error = status.error_message();
    return nullptr;
  }
  return std::make_unique<LoadedModel>(std::move(processor));
}

}  // namespace fathom::data
