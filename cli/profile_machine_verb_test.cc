// profile with a program that stands in for fathom-profile.
#include "cli/profile_machine_verb.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "cli/test_environment.h"

namespace fathom::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Writes a profile of one op to the file after -o, and says with what it was called.
constexpr char kProfiler[] = R"(#!/bin/sh
cat > "$2" <<END
kind: cpu
op_times:
  machine: a test's machine
  cores: 2
  ops:
    - op: Gemm
      format: fp32
      seconds_per_flop: 1.0e-11
      relative_error: 0.25
END
echo "called with $*"
)";
constexpr char kBroken[] = "#!/bin/sh\nexit 3\n";

class ProfileMachineTest : public testing::Test {
 protected:
  ProfileMachineTest()
      : ctl_(testing::TempDir() + "/" +
             testing::UnitTest::GetInstance()->current_test_info()->name()) {
    ctl_.variables["FATHOM_BIN_DIR"] = ctl_.folder() + "/bin";
  }
  void WriteProfiler(const char* text) {
    const std::string path = ctl_.folder() + "/bin/fathom-profile";
    std::filesystem::create_directories(ctl_.folder() + "/bin");
    std::ofstream(path) << text;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }

  TestEnvironment ctl_;
};

TEST_F(ProfileMachineTest, WithoutFile_LeavesTheProfileInTheLocalStateFolder) {
  WriteProfiler(kProfiler);
  EXPECT_EQ(ctl_.Run({"profile"}), 0) << ctl_.err();
  EXPECT_TRUE(std::filesystem::exists(ctl_.folder() + "/state/cpu-profile.yaml"));
  EXPECT_THAT(ctl_.out(), HasSubstr("called with -o"));
}

TEST_F(ProfileMachineTest, FileAndPrecision_ArePassedOn) {
  WriteProfiler(kProfiler);
  EXPECT_EQ(ctl_.Run({"--output", "json", "profile", "-o", "here.yaml", "--precision", "fp32"}), 0)
      << ctl_.err();
  EXPECT_TRUE(std::filesystem::exists(ctl_.folder() + "/here.yaml"));
  EXPECT_THAT(ctl_.out(), HasSubstr("\"machine\": \"a test's machine\""));
  EXPECT_THAT(ctl_.out(), HasSubstr("\"mean_relative_error\": 0.25"));
  EXPECT_EQ(ctl_.Run({"profile", "--precision", "fp32"}), 0) << ctl_.err();
  EXPECT_THAT(ctl_.out(), HasSubstr("--precision fp32"));
  EXPECT_THAT(ctl_.out(), Not(HasSubstr("--rounds")));
  EXPECT_EQ(ctl_.Run({"profile", "--rounds", "7"}), 0) << ctl_.err();
  EXPECT_THAT(ctl_.out(), HasSubstr("--rounds 7"));
  EXPECT_NE(ctl_.Run({"profile", "--rounds", "0"}), 0);
}

TEST_F(ProfileMachineTest, ProgramThatFails_FailsWithItsExitCode) {
  WriteProfiler(kBroken);
  EXPECT_NE(ctl_.Run({"profile"}), 0);
  EXPECT_THAT(ctl_.err(), HasSubstr("fathom-profile ended with 3"));
}

TEST_F(ProfileMachineTest, NoProgram_NamesWhereItLooked) {
  EXPECT_NE(ctl_.Run({"profile"}), 0);
  EXPECT_THAT(ctl_.err(), HasSubstr("no program fathom-profile"));
}

}  // namespace
}  // namespace fathom::cli
