// The safetensors file format: 8 bytes of header length (little-endian), a JSON header that gives
// each tensor's dtype, shape and place, then the bytes. Any safetensors reader opens what the
// writer makes.
//
// The reader trusts nothing: length, JSON, shapes, sizes and places are all checked against each
// other and the file before a tensor can be had. Tensors must fill the data without gap or overlap,
// as the format demands.
#ifndef FATHOM_COMMON_CHECKPOINT_SAFETENSORS_H_
#define FATHOM_COMMON_CHECKPOINT_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/base/hash.h"
#include "common/base/output_file.h"

namespace fathom::checkpoint {

enum class DType : uint8_t { kF64, kF32, kF16, kBf16, kF8E4M3, kI64, kI32, kI16, kI8, kU8, kBool };

int64_t DTypeBytes(DType dtype);
const char* DTypeName(DType dtype);  // as in the header: "F32", "BF16", ...

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major; empty: one element
};

// Of a whole file.
struct FileDigest {
  int64_t bytes = 0;
  std::string sha256;  // hex
};

// Streams one file; it appears under its name only when Finish succeeds, and is then durable.
class SafetensorsWriter {
 public:
  // The tensors in the order in which their bytes will come. As OutputFile::Create, and
  // INVALID_ARGUMENT: two tensors of one name, or sizes that overflow.
  static absl::StatusOr<SafetensorsWriter> Create(
      const std::string& path, const std::vector<TensorEntry>& tensors,
      const std::map<std::string, std::string>& metadata);

  // The next bytes, in any portions. INVALID_ARGUMENT: more than the tensors hold.
  // RESOURCE_EXHAUSTED: the disk is full.
  absl::Status Append(const void* bytes, size_t count);

  // INVALID_ARGUMENT: fewer bytes came than the tensors hold.
  absl::StatusOr<FileDigest> Finish();

 private:
  SafetensorsWriter() = default;

  OutputFile file_;
  Sha256 hash_;
  int64_t expected_bytes_ = 0;  // of the whole file
};

// A tensor inside a mapped file; lives as long as its SafetensorsFile.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;  // may be unaligned

  int64_t elements() const { return static_cast<int64_t>(bytes.size()) / DTypeBytes(dtype); }
};

// Elements [begin, begin + out.size()) of a tensor of F32, BF16 or F64 as floats. INVALID_ARGUMENT:
// another dtype. OUT_OF_RANGE.
absl::Status CopyAsFloat(const TensorView& tensor, int64_t begin, absl::Span<float> out);

class SafetensorsFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED; DATA_LOSS: anything wrong with the file, with what and where.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }
  int64_t bytes() const { return static_cast<int64_t>(mapping_bytes_); }

  // NOT_FOUND names file and tensor.
  absl::StatusOr<const TensorView*> Find(const std::string& name) const;

  // SHA-256 of the whole file, in hex; reads all of it.
  std::string Digest() const;

 private:
  SafetensorsFile() = default;
  absl::Status Parse();
  void Unmap();

  std::string path_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  const uint8_t* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
};

}  // namespace fathom::checkpoint

#endif  // FATHOM_COMMON_CHECKPOINT_SAFETENSORS_H_
