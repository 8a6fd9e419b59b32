// fathomctl: wires the command line to this process, its terminal and the network.
#include <pwd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

#include "cli/operator_client.h"
#include "cli/pause.h"
#include "cli/run_fathomctl.h"
#include "common/base/real_clock.h"

namespace {

std::string Variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

std::string User() {
  const struct passwd* entry = getpwuid(getuid());
  return entry == nullptr ? Variable("USER") : entry->pw_name;
}

int TerminalColumns() {
  struct winsize size = {};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

int main(int argc, char** argv) {
  // A reader that went away is a failed write, not a death without a word.
  std::signal(SIGPIPE, SIG_IGN);
  std::error_code error;
  const fathom::RealClock clock;
  fathom::cli::RealPause pause;
  fathom::cli::Environment environment;
  environment.out = &std::cout;
  environment.err = &std::cerr;
  environment.out_is_terminal = isatty(STDOUT_FILENO) == 1;
  environment.err_is_terminal = isatty(STDERR_FILENO) == 1;
  environment.terminal_columns = TerminalColumns();
  environment.clock = &clock;
  environment.pause = &pause;
  environment.variable = Variable;
  environment.working_folder = std::filesystem::current_path(error).string();
  environment.user = User();
  environment.program_folder =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path().string();
  environment.connect = fathom::cli::MakeOperatorClient;
  return fathom::cli::RunFathomctl(std::vector<std::string>(argv + 1, argv + argc), environment);
}
