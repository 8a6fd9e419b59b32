// fathomctl in a test's own world: output in strings, a manual clock, no waiting, a fake
// coordinator.
#ifndef FATHOM_CLI_TEST_ENVIRONMENT_H_
#define FATHOM_CLI_TEST_ENVIRONMENT_H_

#include <filesystem>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cli/fake_operator_client.h"
#include "cli/pause.h"
#include "cli/run_fathomctl.h"
#include "cli/session.h"
#include "common/base/manual_clock.h"

namespace fathom::cli {

// Time passes only here. Says no after so many pauses.
class CountedPause final : public Pause {
 public:
  CountedPause(ManualClock& clock, Pause* also) : clock_(clock), also_(also) {}
  bool For(absl::Duration duration) override {
    clock_.Advance(duration);
    if (also_ != nullptr) also_->For(duration);
    return --left > 0;
  }

  int left = 1000;

 private:
  ManualClock& clock_;
  Pause* also_;  // waits in earnest, for tests with real processes
};

class TestEnvironment {
 public:
  explicit TestEnvironment(const std::string& folder, Pause* real_pause = nullptr)
      : folder_(folder), pause_(clock_, real_pause) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    environment_.out = &out_;
    environment_.err = &err_;
    environment_.clock = &clock_;
    environment_.pause = &pause_;
    environment_.variable = [this](const std::string& name) { return variables[name]; };
    environment_.working_folder = folder_;
    environment_.user = "ada";
    environment_.program_folder = folder_;
    environment_.connect = [this](const CoordinatorEndpoint& endpoint)
        -> absl::StatusOr<std::unique_ptr<OperatorClient>> {
      coordinator.addresses.push_back(endpoint.address);
      return std::make_unique<FakeOperatorClient>(coordinator);
    };
    variables["FATHOM_STATE_DIR"] = folder_ + "/state";
  }

  // The exit code; what was written is in out() and err() until the next run.
  int Run(const std::vector<std::string>& arguments) {
    out_.str("");
    err_.str("");
    return RunFathomctl(arguments, environment_);
  }

  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  const std::string& folder() const { return folder_; }
  Environment& environment() { return environment_; }
  CountedPause& pause() { return pause_; }
  ManualClock& clock() { return clock_; }

  FakeCoordinator coordinator;
  std::map<std::string, std::string> variables;

 private:
  const std::string folder_;
  std::ostringstream out_;
  std::ostringstream err_;
  ManualClock clock_;
  CountedPause pause_;
  Environment environment_;
};

}  // namespace fathom::cli

#endif  // FATHOM_CLI_TEST_ENVIRONMENT_H_
