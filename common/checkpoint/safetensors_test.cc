#include "common/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "common/base/hash.h"
#include "common/checkpoint/weights_hash.h"

namespace fathom::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string FreshFolder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / info->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void WriteAll(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// A file of the given JSON header and that many bytes of data.
std::string FileOf(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, 'd');
}

FileDigest WriteSample(const std::string& path) {
  auto writer = SafetensorsWriter::Create(path,
                                          {{"weights \"a\"", DType::kF32, {2, 3}},
                                           {"half", DType::kBf16, {4}},
                                           {"none", DType::kI64, {0, 7}},
                                           {"one", DType::kF64, {}}},
                                          {{"made by", "a test"}});
  EXPECT_TRUE(writer.ok()) << writer.status();
  const float weights[6] = {1, -2, 0.5f, 3e30f, -0.0f, 1e-42f};
  const uint16_t half[4] = {0x3F80, 0xC000, 0x7F80, 0x0001};
  const double one = 1.0 / 3;
  EXPECT_TRUE(writer->Append(weights, 10).ok());
  EXPECT_TRUE(writer->Append(reinterpret_cast<const char*>(weights) + 10, 14).ok());
  EXPECT_TRUE(writer->Append(half, sizeof(half)).ok());
  EXPECT_TRUE(writer->Append(&one, sizeof(one)).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(writer->Append(&one, 1)));
  auto digest = writer->Finish();
  EXPECT_TRUE(digest.ok()) << digest.status();
  return *digest;
}

TEST(SafetensorsTest, FileWritten_ReadsBackBitForBit) {
  const std::string folder = FreshFolder();
  const std::string path = folder + "/a.safetensors";
  const FileDigest digest = WriteSample(path);
  EXPECT_EQ(digest.bytes, static_cast<int64_t>(ReadAll(path).size()));
  EXPECT_EQ(digest.sha256, Sha256Hex(ReadAll(path)));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);

  const auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Digest(), digest.sha256);
  EXPECT_EQ(file->metadata().at("made by"), "a test");
  EXPECT_EQ(file->tensors().size(), 4u);
  const auto weights = file->Find("weights \"a\"");
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_THAT((*weights)->shape, ElementsAre(2, 3));
  std::vector<float> floats(4);
  ASSERT_TRUE(CopyAsFloat(**weights, 2, absl::MakeSpan(floats)).ok());
  EXPECT_THAT(floats, ElementsAre(0.5f, 3e30f, -0.0f, 1e-42f));
  EXPECT_TRUE(std::signbit(floats[2]));
  const auto half = file->Find("half");
  ASSERT_TRUE(half.ok());
  ASSERT_TRUE(CopyAsFloat(**half, 0, absl::MakeSpan(floats)).ok());
  EXPECT_THAT(floats, ElementsAre(1.0f, -2.0f, std::numeric_limits<float>::infinity(),
                                  std::bit_cast<float>(0x00010000)));
  const auto one = file->Find("one");
  ASSERT_TRUE(one.ok());
  EXPECT_EQ((*one)->elements(), 1);
  ASSERT_TRUE(CopyAsFloat(**one, 0, absl::MakeSpan(floats).first(1)).ok());
  EXPECT_EQ(floats[0], 1.0f / 3);
  const auto none = file->Find("none");
  ASSERT_TRUE(none.ok());
  EXPECT_EQ((*none)->elements(), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(CopyAsFloat(
      TensorView{DType::kI8, {4}, (*half)->bytes.first(4)}, 0, absl::MakeSpan(floats))));
  EXPECT_TRUE(absl::IsOutOfRange(CopyAsFloat(**half, 1, absl::MakeSpan(floats))));
  EXPECT_TRUE(absl::IsOutOfRange(CopyAsFloat(**half, -1, absl::MakeSpan(floats))));
  EXPECT_TRUE(absl::IsNotFound(file->Find("nothing").status()));
}

// Python's standard library as a second, independent reader.
constexpr char kPythonReader[] = R"(
import json, struct, sys
raw = open(sys.argv[1], 'rb').read()
length = struct.unpack('<Q', raw[:8])[0]
header = json.loads(raw[8:8 + length])
assert (8 + length) % 8 == 0, length
assert header.pop('__metadata__') == {'made by': 'a test'}
data = raw[8 + length:]
def values(name, form):
    entry = header.pop(name)
    begin, end = entry['data_offsets']
    return entry['dtype'], entry['shape'], struct.unpack('<' + form, data[begin:end])
dtype, shape, weights = values('weights "a"', '6f')
assert (dtype, shape, weights[:3]) == ('F32', [2, 3], (1.0, -2.0, 0.5)), (dtype, shape, weights)
assert values('half', '4H') == ('BF16', [4], (0x3F80, 0xC000, 0x7F80, 1))
assert values('none', '') == ('I64', [0, 7], ())
assert values('one', 'd') == ('F64', [], (1 / 3,))
assert not header and len(data) == 24 + 8 + 8
)";

TEST(SafetensorsTest, FileWritten_IsWhatPythonReads) {
  const std::string path = FreshFolder() + "/a.safetensors";
  WriteSample(path);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    execl("/usr/bin/python3", "python3", "-c", kPythonReader, path.c_str(), nullptr);
    _exit(127);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(SafetensorsWriterTest, IncompleteFile_LeavesNothing) {
  const std::string folder = FreshFolder();
  {
    auto writer = SafetensorsWriter::Create(folder + "/a", {{"t", DType::kF32, {2}}}, {});
    ASSERT_TRUE(writer.ok());
    const float half_of_it = 1;
    ASSERT_TRUE(writer->Append(&half_of_it, 4).ok());
    const auto digest = writer->Finish();
    EXPECT_TRUE(absl::IsInvalidArgument(digest.status())) << digest.status();
    EXPECT_THAT(std::string(digest.status().message()), HasSubstr("4 bytes of its tensors"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(SafetensorsWriterTest, ImpossibleTensors_AreRefused) {
  const std::string path = FreshFolder() + "/a";
  const int64_t huge = int64_t{1} << 40;
  EXPECT_TRUE(absl::IsInvalidArgument(
      SafetensorsWriter::Create(path, {{"t", DType::kF32, {huge, huge}}}, {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      SafetensorsWriter::Create(path, {{"t", DType::kU8, {INT64_MAX}}, {"u", DType::kU8, {1}}}, {})
          .status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      SafetensorsWriter::Create(path, {{"t", DType::kF32, {-1}}}, {}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      SafetensorsWriter::Create(path, {{"t", DType::kF32, {1}}, {"t", DType::kF32, {1}}}, {})
          .status()));
}

struct Hostile {
  std::string header;
  size_t data_bytes;
  std::string complaint;
};

std::string Tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(SafetensorsFileTest, HostileHeader_IsRefusedWithWhatIsWrong) {
  const std::string path = FreshFolder() + "/a.safetensors";
  const std::string fine = R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  const std::string second = R"({"dtype":"U8","shape":[4],"data_offsets":[4,8]})";
  const std::vector<Hostile> files = {
      {"", 0, "not a JSON object"},
      {"{", 0, "not a JSON object"},
      {"[]", 0, "not a JSON object"},
      {"{}x", 0, "not a JSON object"},
      {"{\"t\":1}", 0, "its entry is not"},
      {R"({"t":{"dtype":"U8","shape":[4]}})", 4, "its entry is not"},
      {Tensor("Q7", "[4]", "[0,4]"), 4, "unknown dtype \"Q7\""},
      {Tensor("U8", "4", "[0,4]"), 4, "its shape is not a list"},
      {Tensor("U8", "[-4]", "[0,4]"), 4, "a dimension is not"},
      {Tensor("U8", "[4.0]", "[0,4]"), 4, "a dimension is not"},
      {Tensor("U8", "[4]", "[0]"), 4, "data_offsets are not two"},
      {Tensor("U8", "[4]", "[0,-4]"), 4, "data_offsets are not two"},
      {Tensor("U8", "[4]", "[0,18446744073709551615]"), 4, "data_offsets are not two"},
      {Tensor("U8", "[4]", "[4,0]"), 4, "not within the data's 4"},
      {Tensor("U8", "[5]", "[0,5]"), 4, "not within the data's 4"},
      {Tensor("U8", "[3]", "[0,4]"), 4, "its shape takes 3 bytes"},
      {Tensor("F32", "[4]", "[0,4]"), 4, "its shape takes 16 bytes"},
      {Tensor("F32", "[4611686018427387904,4]", "[0,0]"), 0, "its shape is too large"},
      {Tensor("U8", "[4]", "[0,4]"), 5, "5 bytes of data, its tensors fill 4"},
      {Tensor("U8", "[4]", "[1,5]"), 5, "with a gap before it"},
      {"{\"a\":" + fine + ",\"b\":" + fine + "}", 4, "inside the one before it"},
      {"{\"a\":" + fine + ",\"a\":" + second + "}", 8, "tensor \"a\" comes twice"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "holds more than strings"},
      {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
      {"{\"t\":" + std::string(5000, '['), 0, "nested too deep"},
      {"{\"t\\u0000\n", 0, "not a JSON object"},
  };
  for (const Hostile& hostile : files) {
    WriteAll(path, FileOf(hostile.header, hostile.data_bytes));
    const auto file = SafetensorsFile::Open(path);
    ASSERT_FALSE(file.ok()) << hostile.header.substr(0, 100);
    EXPECT_TRUE(absl::IsDataLoss(file.status())) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(hostile.complaint))
        << hostile.header.substr(0, 100);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(path));
  }
}

TEST(SafetensorsFileTest, LyingLength_IsRefused) {
  const std::string path = FreshFolder() + "/a.safetensors";
  WriteSample(path);
  const std::string good = ReadAll(path);
  for (const uint64_t length :
       {uint64_t{good.size() - 7}, uint64_t{200'000'000}, uint64_t{1} << 63, ~uint64_t{0}}) {
    std::string bytes = good;
    std::memcpy(bytes.data(), &length, 8);
    WriteAll(path, bytes);
    const auto file = SafetensorsFile::Open(path);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr("its header claims"));
  }
}

TEST(SafetensorsFileTest, EveryTruncation_IsRefused) {
  const std::string path = FreshFolder() + "/a.safetensors";
  WriteSample(path);
  const std::string good = ReadAll(path);
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    WriteAll(path, good.substr(0, bytes));
    EXPECT_TRUE(absl::IsDataLoss(SafetensorsFile::Open(path).status())) << bytes;
  }
}

// Whatever single byte of the header changes, the reader either refuses the file or hands out
// tensors that lie within it.
TEST(SafetensorsFileTest, EveryFlippedHeaderByte_StaysWithinTheFile) {
  const std::string path = FreshFolder() + "/a.safetensors";
  WriteSample(path);
  const std::string good = ReadAll(path);
  int refused = 0;
  for (size_t at = 0; at + 40 < good.size(); ++at) {
    for (const char flip : {'\x01', '\x02', '\x20', '\x7F'}) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      WriteAll(path, bytes);
      const auto file = SafetensorsFile::Open(path);
      if (!file.ok()) {
        ++refused;
        continue;
      }
      size_t total = 0;
      for (const auto& [name, tensor] : file->tensors()) {
        for (const uint8_t byte : tensor.bytes) total += byte != 0 ? 1 : 0;
      }
      EXPECT_LE(total, 40u);
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(SafetensorsFileTest, MissingFile_IsNotFound) {
  const auto file = SafetensorsFile::Open("/nowhere/a.safetensors");
  EXPECT_TRUE(absl::IsNotFound(file.status())) << file.status();
}

// The definition's lines, written out.
TEST(WeightsSha256Test, Hash_IsOverSortedNamesAndHashes) {
  const std::string a = Sha256Hex("bytes of a");
  const std::string b = Sha256Hex("bytes of b");
  EXPECT_EQ(WeightsSha256({{"b", b}, {"a", a}}), Sha256Hex("a " + a + "\nb " + b + "\n"));
  EXPECT_NE(WeightsSha256({{"a", b}, {"b", a}}), WeightsSha256({{"a", a}, {"b", b}}));
}

}  // namespace
}  // namespace fathom::checkpoint
