// Text files into a token file.
//
// The inputs follow each other; each is cut into documents (common/data/document_split), every n-th
// of which is held out for validation. The same inputs and options give the same bytes.
#ifndef FATHOM_CLI_DATA_PREPARE_H_
#define FATHOM_CLI_DATA_PREPARE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/data/token_file.h"

namespace fathom::cli {

struct PrepareRequest {
  std::vector<std::string> inputs;  // paths; "-": standard input
  std::string output;
  std::string tokenizer;              // as data::MakeTokenizer
  std::string sentencepiece_program;  // not needed for bytes
  std::string source;                 // what stands in the header; empty: the inputs' names
  double validation_fraction = 0;
  bool allow_binary = false;
};

// NOT_FOUND, and other codes of the file system, with the path. INVALID_ARGUMENT: a folder, no text
// at all, bytes that are not text, or too little of it to hold some out. RESOURCE_EXHAUSTED: the
// disk is full. After a failure there is no output, and an older one is as it was.
absl::StatusOr<data::TokenFileInfo> PrepareTokenFile(const PrepareRequest& request);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_DATA_PREPARE_H_
