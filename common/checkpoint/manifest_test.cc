#include "common/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/base/hash.h"
#include "common/checkpoint/verify.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"

namespace fathom::checkpoint {
namespace {

using ::testing::HasSubstr;

std::string FreshFolder() {
  const auto* info = testing::UnitTest::GetInstance()->current_test_info();
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / info->name();
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

// What element `index` of a sample's tensor holds: exact in BF16, so that either format gives it
// back.
float ElementOf(const std::string& tensor, int64_t index) {
  const auto seed = static_cast<int64_t>(tensor.size() + static_cast<size_t>(tensor.back()));
  return static_cast<float>((seed + index) % 127) - 63;
}

// Pieces of about a third of each tensor, dealt over three shards; moments of v in BF16.
v1::CheckpointManifest WriteSample(const std::string& folder) {
  v1::CheckpointManifest manifest;
  manifest.set_job("sample-1");
  manifest.set_step(12);
  manifest.mutable_spec()->mutable_model()->set_preset("toy");
  const auto expected = ExpectedTensors(manifest.spec());
  EXPECT_TRUE(expected.ok()) << expected.status();
  std::vector<std::vector<TensorEntry>> entries(3);
  int next = 0;
  for (int index = 0; index < 3; ++index) manifest.add_shards();
  for (const auto& [tensor, elements] : *expected) {
    const int64_t part = (elements + 2) / 3;
    for (int64_t begin = 0; begin < elements; begin += part, next = (next + 1) % 3) {
      v1::Piece* piece = manifest.mutable_shards(next)->add_pieces();
      piece->set_tensor(tensor);
      piece->set_begin(begin);
      piece->set_end(std::min(begin + part, elements));
      piece->set_elements(elements);
      const bool narrow = tensor.ends_with("#v");
      entries[static_cast<size_t>(next)].push_back(
          {PieceName(tensor, begin), narrow ? DType::kBf16 : DType::kF32, {piece->end() - begin}});
    }
  }
  for (int index = 0; index < 3; ++index) {
    v1::Shard& shard = *manifest.mutable_shards(index);
    shard.set_file("shard-" + std::to_string(index) + ".safetensors");
    auto writer = SafetensorsWriter::Create(folder + "/" + shard.file(),
                                            entries[static_cast<size_t>(index)], {});
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const v1::Piece& piece : shard.pieces()) {
      const size_t width = piece.tensor().ends_with("#v") ? 2 : 4;
      std::string bytes(static_cast<size_t>(piece.end() - piece.begin()) * width, '\0');
      for (int64_t i = piece.begin(); i < piece.end(); ++i) {
        const float value = ElementOf(piece.tensor(), i);
        // The upper half of an FP32 is its BF16.
        std::memcpy(bytes.data() + static_cast<size_t>(i - piece.begin()) * width,
                    reinterpret_cast<const char*>(&value) + 4 - width, width);
      }
      EXPECT_TRUE(writer->Append(bytes.data(), bytes.size()).ok());
    }
    const auto digest = writer->Finish();
    EXPECT_TRUE(digest.ok()) << digest.status();
    shard.set_bytes(digest->bytes);
    shard.set_sha256(digest->sha256);
  }
  const absl::Status written = WriteManifest(folder + "/" + kManifestFile, manifest);
  EXPECT_TRUE(written.ok()) << written;
  return manifest;
}

void FlipByte(const std::string& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = static_cast<char>(file.get());
  file.seekp(at);
  file.put(static_cast<char>(byte ^ 1));
}

TEST(CheckpointTest, WholeCheckpoint_VerifiesAndGathersAnyRange) {
  const std::string folder = FreshFolder();
  WriteSample(folder);
  const std::string path = folder + "/" + kManifestFile;
  const auto manifest = VerifyCheckpoint(path);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->step(), 12);
  EXPECT_EQ(manifest->format(), kManifestFormat);

  auto reader = CheckpointReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto expected = ExpectedTensors(manifest->spec());
  ASSERT_TRUE(expected.ok());
  for (const auto& [tensor, elements] : *expected) {
    for (const int64_t begin : {int64_t{0}, elements / 4, elements / 2}) {
      std::vector<float> out(static_cast<size_t>(elements - begin - elements / 8));
      ASSERT_TRUE(reader->ReadTensorRange(tensor, begin, absl::MakeSpan(out)).ok()) << tensor;
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(out[i], ElementOf(tensor, begin + static_cast<int64_t>(i))) << tensor << " " << i;
      }
    }
  }
  std::vector<float> two(2);
  EXPECT_TRUE(absl::IsNotFound(reader->ReadTensorRange("x", 0, absl::MakeSpan(two))));
  const auto& [tensor, elements] = *expected->begin();
  EXPECT_TRUE(
      absl::IsOutOfRange(reader->ReadTensorRange(tensor, elements - 1, absl::MakeSpan(two))));
  EXPECT_TRUE(absl::IsOutOfRange(reader->ReadTensorRange(tensor, -1, absl::MakeSpan(two))));
}

// The definition, written out: one line per weight in order of names, hashed.
std::string WeightsHashByHand(bool as_bf16) {
  v1::ModelSpec spec;
  spec.set_preset("toy");
  std::map<std::string, std::string> lines;
  for (const auto& parameter : model::AllParameters(*model::ResolveModel(spec))) {
    const bool narrow = as_bf16 && parameter.kind != model::ParameterKind::kRouterBias;
    std::string bytes;
    for (int64_t i = 0; i < parameter.size(); ++i) {
      const float value = ElementOf(parameter.name, i);
      // Exact in BF16, which is an FP32's upper half.
      bytes.append(reinterpret_cast<const char*>(&value) + (narrow ? 2 : 0), narrow ? 2 : 4);
    }
    lines[parameter.name] = parameter.name + " " + Sha256Hex(bytes) + "\n";
  }
  std::string text;
  for (const auto& [name, line] : lines) text += line;
  return Sha256Hex(text);
}

TEST(CheckpointTest, StatedWeightsHash_IsComputedAgain) {
  const std::string folder = FreshFolder();
  const std::string path = folder + "/" + kManifestFile;
  v1::CheckpointManifest manifest = WriteSample(folder);
  for (const std::string precision : {"fp32", "bf16", "fp8"}) {
    manifest.mutable_spec()->set_precision(precision);
    manifest.set_weights_sha256(WeightsHashByHand(precision != "fp32"));
    ASSERT_TRUE(WriteManifest(path, manifest).ok());
    EXPECT_TRUE(VerifyCheckpoint(path).ok()) << VerifyCheckpoint(path).status();
    manifest.set_weights_sha256(Sha256Hex("other weights"));
    ASSERT_TRUE(WriteManifest(path, manifest).ok());
    const auto verified = VerifyCheckpoint(path);
    EXPECT_TRUE(absl::IsDataLoss(verified.status())) << verified.status();
    EXPECT_THAT(std::string(verified.status().message()), HasSubstr("its weights have the hash"));
  }
}

struct Damage {
  std::string name;
  std::function<void(const std::string& folder)> inflict;
  std::string complaint;
};

TEST(CheckpointTest, DamagedShard_IsNamedByVerifyAndByReading) {
  const std::vector<Damage> damages = {
      {"flipped data byte",
       [](const std::string& folder) {
         const std::string path = folder + "/shard-1.safetensors";
         FlipByte(path, static_cast<int64_t>(std::filesystem::file_size(path)) - 1);
       },
       "shard-1.safetensors has SHA-256"},
      {"truncated",
       [](const std::string& folder) {
         const std::string path = folder + "/shard-2.safetensors";
         std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4);
       },
       "shard-2.safetensors: "},
      {"missing",
       [](const std::string& folder) { std::filesystem::remove(folder + "/shard-0.safetensors"); },
       "shard-0.safetensors is missing"},
      {"exchanged",
       [](const std::string& folder) {
         std::filesystem::rename(folder + "/shard-0.safetensors", folder + "/x");
         std::filesystem::copy(folder + "/shard-1.safetensors", folder + "/shard-0.safetensors");
       },
       "shard-0.safetensors has "},
  };
  for (const Damage& damage : damages) {
    const std::string folder = FreshFolder();
    WriteSample(folder);
    damage.inflict(folder);
    const std::string path = folder + "/" + kManifestFile;
    const auto verified = VerifyCheckpoint(path);
    ASSERT_FALSE(verified.ok()) << damage.name;
    EXPECT_THAT(std::string(verified.status().message()), HasSubstr(damage.complaint));
    auto reader = CheckpointReader::Open(path);
    ASSERT_TRUE(reader.ok()) << reader.status();
    // Some tensor is in the damaged shard; the others still read.
    int failed = 0;
    const auto expected = ExpectedTensors(reader->manifest().spec());
    for (const auto& [tensor, elements] : *expected) {
      std::vector<float> out(static_cast<size_t>(elements));
      failed += reader->ReadTensorRange(tensor, 0, absl::MakeSpan(out)).ok() ? 0 : 1;
    }
    EXPECT_GT(failed, 0) << damage.name;
  }
}

struct Lie {
  std::string name;
  std::function<void(v1::CheckpointManifest&)> tell;
  std::string complaint;
};

v1::CheckpointManifest GoodManifest(const std::string& folder) {
  WriteSample(folder);
  const auto manifest = ReadManifest(folder + "/" + kManifestFile);
  EXPECT_TRUE(manifest.ok()) << manifest.status();
  return *manifest;
}

void ExpectRefused(const v1::CheckpointManifest& good, const std::vector<Lie>& lies) {
  for (const Lie& lie : lies) {
    v1::CheckpointManifest manifest = good;
    lie.tell(manifest);
    const absl::Status status = CheckManifest(manifest);
    EXPECT_TRUE(absl::IsDataLoss(status)) << lie.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(lie.complaint)) << lie.name;
  }
}

using M = v1::CheckpointManifest;

TEST(CheckManifestTest, LyingHead_IsRefusedWithWhatIsWrong) {
  const std::vector<Lie> lies = {
      {"format", [](M& m) { m.set_format("other/3"); }, "format \"other/3\""},
      {"step", [](M& m) { m.set_step(-1); }, "step -1"},
      {"weights hash", [](M& m) { m.set_weights_sha256("abc"); }, "weights_sha256"},
      {"no shards", [](M& m) { m.clear_shards(); }, "names no shards"},
      {"climbing name", [](M& m) { m.mutable_shards(0)->set_file("../x"); },
       "\"../x\" is not a plain file name"},
      {"absolute name", [](M& m) { m.mutable_shards(0)->set_file("/etc/passwd"); },
       "not a plain file name"},
      {"two of a name", [](M& m) { m.mutable_shards(0)->set_file(m.shards(1).file()); },
       "shard-1.safetensors comes twice"},
      {"no size", [](M& m) { m.mutable_shards(0)->set_bytes(0); }, "has 0 bytes"},
      {"no hash", [](M& m) { m.mutable_shards(2)->clear_sha256(); },
       "shard-2.safetensors has no SHA-256"},
      {"unknown model", [](M& m) { m.mutable_spec()->mutable_model()->set_preset("elephant"); },
       "elephant"},
      {"another model", [](M& m) { m.mutable_spec()->mutable_model()->set_hidden_size(64); },
       "elements, the model's"},
      {"a million experts",
       [](M& m) {
         m.mutable_spec()->mutable_model()->set_num_hidden_layers(4096);
         m.mutable_spec()->mutable_model()->set_n_routed_experts(4096);
       },
       "tensors are missing"},
  };
  ExpectRefused(GoodManifest(FreshFolder()), lies);
}

TEST(CheckManifestTest, LyingPieces_AreRefusedWithWhatIsWrong) {
  const std::vector<Lie> lies = {
      {"unknown tensor", [](M& m) { m.mutable_shards(0)->mutable_pieces(0)->set_tensor("x"); },
       "holds tensor \"x\", which the model doesn't have"},
      {"range beyond",
       [](M& m) {
         v1::Piece& piece = *m.mutable_shards(0)->mutable_pieces(0);
         piece.set_end(piece.elements() + 1);
       },
       "is not within its"},
      {"negative range", [](M& m) { m.mutable_shards(0)->mutable_pieces(0)->set_begin(-1); },
       "is not within its"},
      {"empty range",
       [](M& m) {
         v1::Piece& piece = *m.mutable_shards(0)->mutable_pieces(0);
         piece.set_end(piece.begin());
       },
       "is not within its"},
      {"overlap", [](M& m) { *m.mutable_shards(1)->add_pieces() = m.shards(0).pieces(0); },
       "are in two pieces"},
      {"hole", [](M& m) { m.mutable_shards(0)->mutable_pieces()->DeleteSubrange(1, 1); },
       "no piece holds element"},
      {"missing tensor",
       [](M& m) {
         const std::string tensor = m.shards(0).pieces(0).tensor();
         for (v1::Shard& shard : *m.mutable_shards()) {
           for (int i = shard.pieces_size(); i-- > 0;) {
             if (shard.pieces(i).tensor() == tensor) shard.mutable_pieces()->DeleteSubrange(i, 1);
           }
         }
       },
       "is missing"},
  };
  ExpectRefused(GoodManifest(FreshFolder()), lies);
}

TEST(ReadManifestTest, WhatIsNoManifest_IsRefusedByName) {
  const std::string path = FreshFolder() + "/" + kManifestFile;
  EXPECT_TRUE(absl::IsNotFound(ReadManifest(path).status()));
  for (const std::string text :
       {"", "{", "[]", "{\"unknown\": 1}", "{\"step\": \"x\"}", "\xFF\xFE"}) {
    std::ofstream(path, std::ios::trunc) << text;
    const auto manifest = ReadManifest(path);
    EXPECT_TRUE(absl::IsDataLoss(manifest.status())) << text << ": " << manifest.status();
    EXPECT_THAT(std::string(manifest.status().message()), HasSubstr(path));
  }
}

TEST(WriteManifestTest, IncompleteManifest_IsNotWritten) {
  const std::string folder = FreshFolder();
  v1::CheckpointManifest manifest;
  manifest.mutable_spec()->mutable_model()->set_preset("toy");
  EXPECT_FALSE(WriteManifest(folder + "/" + kManifestFile, manifest).ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

}  // namespace
}  // namespace fathom::checkpoint
