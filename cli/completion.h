// Shell completion, made from the command tree, so that it knows every command and flag there is.
#ifndef FATHOM_CLI_COMPLETION_H_
#define FATHOM_CLI_COMPLETION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace fathom::cli {

// What may stand in a place of the command line.
enum class ArgumentKind : uint8_t { kText, kFile, kJob, kNode, kChoice };

struct CompletionArgument {
  ArgumentKind kind = ArgumentKind::kText;
  std::vector<std::string> choices;  // kChoice
};

struct CompletionOption {
  std::vector<std::string> names;  // "-o", "--output"
  bool takes_value = false;
  CompletionArgument value;
};

struct CommandNode {
  std::string name;
  std::vector<CompletionOption> options;
  std::vector<CompletionArgument> positionals;
  std::vector<CommandNode> children;
};

// A script for "bash" or "zsh". INVALID_ARGUMENT: another shell.
absl::StatusOr<std::string> CompletionScript(const CommandNode& root, const std::string& shell);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_COMPLETION_H_
