// The command line: every command and flag, parsed into Options. The only place that knows the
// parser.
#ifndef FATHOM_CLI_COMMAND_TREE_H_
#define FATHOM_CLI_COMMAND_TREE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/completion.h"
#include "cli/options.h"

namespace fathom::cli {

struct ParsedCommandLine {
  Options options;
  std::string help;  // not empty: what --help asked for; then there is no command
};

// The arguments after the program's name. INVALID_ARGUMENT: they make no command; the message says
// what is wrong and whose --help tells more.
absl::StatusOr<ParsedCommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

// The same tree, for completion.
CommandNode DescribeCommands();

}  // namespace fathom::cli

#endif  // FATHOM_CLI_COMMAND_TREE_H_
