#include "cli/data_verbs.h"

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/data_prepare.h"
#include "cli/find_program.h"
#include "cli/render.h"
#include "common/base/status_util.h"
#include "common/data/token_file.h"

namespace fathom::cli {
namespace {

Value InfoValue(const std::string& path, const data::TokenFileInfo& info) {
  Value value = Value::Object();
  value.Set("file", path).Set("source", info.source);
  value.Set("tokenizer", data::TokenizerKindName(info.tokenizer));
  value.Set("vocab_size", info.vocab_size).Set("separator", info.separator);
  value.Set("bytes_per_token", info.bytes_per_token);
  value.Set("training_tokens", info.training_tokens);
  value.Set("validation_tokens", info.validation_tokens);
  value.Set("training_documents", info.training_documents);
  value.Set("validation_documents", info.validation_documents);
  value.Set("unigram_entropy", info.unigram_entropy);
  value.Set("bigram_entropy", info.bigram_entropy);
  value.Set("hash", absl::StrFormat("xxh3:%016x", info.payload_hash));
  return value;
}

void PrintInfo(const std::string& path, const data::TokenFileInfo& info, Session& session) {
  if (!session.for_people()) {
    session.out() << RenderOne(path, InfoValue(path, info), session.format());
    return;
  }
  session.out() << absl::StrFormat(
      "%s: %d training tokens in %d documents, %d validation tokens in %d documents\n"
      "tokenizer %s, vocabulary %d, %d bytes per token, from %s\n"
      "entropy of the training tokens: unigram %.4f, bigram %.4f nats per token\n",
      path, info.training_tokens, info.training_documents, info.validation_tokens,
      info.validation_documents, data::TokenizerKindName(info.tokenizer), info.vocab_size,
      info.bytes_per_token, info.source, info.unigram_entropy, info.bigram_entropy);
}

absl::Status CheckOutput(const DataOptions& options) {
  const auto& formats = OutputFormatNames();
  if (std::find(formats.begin(), formats.end(), options.file) != formats.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("-o names the token file here; for the format say --output ", options.file,
                     ", or for such a file ./", options.file));
  }
  std::error_code error;
  if (options.overwrite || !std::filesystem::exists(options.file, error)) return absl::OkStatus();
  const absl::Status old = data::TokenFile::Open(options.file).status();
  if (old.ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      options.file, " is there and is not a whole token file; choose another name or pass ",
      "--overwrite"));
}

}  // namespace

absl::Status RunDataPrepare(const DataOptions& options, Session& session) {
  FATHOM_RETURN_IF_ERROR(CheckOutput(options));
  PrepareRequest request;
  request.inputs = options.inputs;
  request.output = options.file;
  request.tokenizer = options.tokenizer;
  if (options.tokenizer != "bytes") {
    FATHOM_ASSIGN_OR_RETURN(
        request.sentencepiece_program,
        FindProgram(session.environment(), "fathom-sentencepiece", "common/data"));
  }
  request.source = options.source;
  request.validation_fraction = options.validation_fraction;
  request.allow_binary = options.allow_binary;
  FATHOM_ASSIGN_OR_RETURN(const data::TokenFileInfo info, PrepareTokenFile(request));
  PrintInfo(options.file, info, session);
  return absl::OkStatus();
}

absl::Status RunDataInfo(const DataOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const auto file, data::TokenFile::Open(options.file));
  PrintInfo(options.file, file.info(), session);
  return absl::OkStatus();
}

absl::Status RunDataVerify(const DataOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const auto file, data::TokenFile::Open(options.file));
  FATHOM_RETURN_IF_ERROR(file.Verify());
  if (session.for_people()) {
    session.out() << "token file " << options.file
                  << " is whole: " << file.info().training_tokens + file.info().validation_tokens
                  << " tokens\n";
    return absl::OkStatus();
  }
  Value value = InfoValue(options.file, file.info());
  value.Set("verified", true);
  session.out() << RenderOne(options.file, value, session.format());
  return absl::OkStatus();
}

}  // namespace fathom::cli
