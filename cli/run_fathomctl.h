// fathomctl as a function: arguments in, output and exit code out.
#ifndef FATHOM_CLI_RUN_FATHOMCTL_H_
#define FATHOM_CLI_RUN_FATHOMCTL_H_

#include <string>
#include <vector>

#include "cli/session.h"

namespace fathom::cli {

// The arguments after the program's name. The exit code is one of exit_code.h.
int RunFathomctl(const std::vector<std::string>& arguments, const Environment& environment);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_RUN_FATHOMCTL_H_
