// What tests start in place of fathom-rank: it does what its script says (scripted_rank.h).
#include <string>

#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "worker/agent/scripted_rank.h"

int main(int argc, char** argv) {
  std::string script;
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (absl::ConsumePrefix(&argument, "--script=")) script = std::string(argument);
  }
  return fathom::RunScriptedRank(script);
}
