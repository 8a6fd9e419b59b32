#include "common/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::checkpoint {
namespace {

using Json = nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kHeaderBytesMax = 100'000'000;  // the format's own bound
constexpr int kHeaderDepthMax = 3;
constexpr char kMetadataKey[] = "__metadata__";

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};
constexpr std::array<DTypeRow, 11> kDTypes = {{{DType::kF64, "F64", 8},
                                               {DType::kF32, "F32", 4},
                                               {DType::kF16, "F16", 2},
                                               {DType::kBf16, "BF16", 2},
                                               {DType::kF8E4M3, "F8_E4M3", 1},
                                               {DType::kI64, "I64", 8},
                                               {DType::kI32, "I32", 4},
                                               {DType::kI16, "I16", 2},
                                               {DType::kI8, "I8", 1},
                                               {DType::kU8, "U8", 1},
                                               {DType::kBool, "BOOL", 1}}};

const DTypeRow& RowOf(DType dtype) {
  const DTypeRow& row = kDTypes[static_cast<size_t>(dtype)];
  FATHOM_CHECK(row.dtype == dtype) << static_cast<int>(dtype);
  return row;
}

// Bytes of a tensor; nullopt for a negative dimension or a size beyond int64.
std::optional<int64_t> ByteSize(DType dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = DTypeBytes(dtype);
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::Status Damaged(const std::string& path, const std::string& what) {
  return absl::DataLossError(absl::StrCat("safetensors file ", path, ": ", what));
}

// A name as it may be printed in a one-line message.
std::string Quoted(const std::string& name) {
  const Json text = name.size() <= 200 ? name : name.substr(0, 200) + "...";
  return text.dump(-1, ' ', true, Json::error_handler_t::replace);
}

// Parses the header; refuses what is nested too deep and a key that comes twice.
absl::StatusOr<Json> ParseHeader(const std::string& path, const char* begin, const char* end) {
  std::set<std::string> names;
  std::string problem;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kHeaderDepthMax && problem.empty()) problem = "its header is nested too deep";
    if (event == Json::parse_event_t::key && depth == 1) {
      if (!names.insert(parsed.get<std::string>()).second && problem.empty()) {
        problem = absl::StrCat("tensor ", Quoted(parsed.get<std::string>()), " comes twice");
      }
    }
    return problem.empty();
  };
  Json header = Json::parse(begin, end, watch, /*allow_exceptions=*/false);
  if (!problem.empty()) return Damaged(path, problem);
  if (header.is_discarded() || !header.is_object()) {
    return Damaged(path, "its header is not a JSON object");
  }
  return header;
}

struct PlacedTensor {
  std::string name;
  TensorView view;
  int64_t begin = 0;
  int64_t end = 0;
};

bool ReadIndex(const Json& value, int64_t& out) {
  if (!value.is_number_unsigned()) return false;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
  out = static_cast<int64_t>(number);
  return true;
}

// One entry of the header, checked on its own and against the data's size.
absl::StatusOr<PlacedTensor> ParseTensor(const std::string& path, const std::string& name,
                                         const Json& entry, int64_t data_bytes) {
  const auto bad = [&](const std::string& what) {
    return Damaged(path, absl::StrCat("tensor ", Quoted(name), ": ", what));
  };
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets")) {
    return bad("its entry is not {dtype, shape, data_offsets}");
  }
  PlacedTensor tensor;
  tensor.name = name;
  if (!entry["dtype"].is_string()) return bad("its dtype is not a string");
  const std::string dtype = entry["dtype"].get<std::string>();
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [&](const DTypeRow& known) { return dtype == known.name; });
  if (row == kDTypes.end()) return bad(absl::StrCat("unknown dtype ", Quoted(dtype)));
  tensor.view.dtype = row->dtype;
  if (!entry["shape"].is_array()) return bad("its shape is not a list");
  for (const Json& dimension : entry["shape"]) {
    if (!ReadIndex(dimension, tensor.view.shape.emplace_back())) {
      return bad("a dimension is not a whole number from 0 on");
    }
  }
  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !ReadIndex(offsets[0], tensor.begin) ||
      !ReadIndex(offsets[1], tensor.end)) {
    return bad("its data_offsets are not two whole numbers from 0 on");
  }
  if (tensor.begin > tensor.end || tensor.end > data_bytes) {
    return bad(absl::StrCat("its bytes [", tensor.begin, ", ", tensor.end,
                            ") are not within the data's ", data_bytes));
  }
  const std::optional<int64_t> bytes = ByteSize(tensor.view.dtype, tensor.view.shape);
  if (!bytes.has_value()) return bad("its shape is too large");
  if (*bytes != tensor.end - tensor.begin) {
    return bad(absl::StrCat("its shape takes ", *bytes, " bytes, its data_offsets give ",
                            tensor.end - tensor.begin));
  }
  return tensor;
}

// Without gap or overlap from the first byte of the data to the last.
absl::Status CheckCover(const std::string& path, std::vector<PlacedTensor>& tensors,
                        int64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(), [](const PlacedTensor& a, const PlacedTensor& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const PlacedTensor& tensor : tensors) {
    if (tensor.begin != covered) {
      return Damaged(path,
                     absl::StrCat("tensor ", Quoted(tensor.name), " begins at byte ", tensor.begin,
                                  tensor.begin < covered ? ", inside the one before it"
                                                         : ", with a gap before it"));
    }
    covered = tensor.end;
  }
  if (covered == data_bytes) return absl::OkStatus();
  return Damaged(path, absl::StrCat(data_bytes, " bytes of data, its tensors fill ", covered));
}

}  // namespace

int64_t DTypeBytes(DType dtype) { return RowOf(dtype).bytes; }
const char* DTypeName(DType dtype) { return RowOf(dtype).name; }

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorEntry>& tensors,
    const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  int64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    const std::optional<int64_t> bytes = ByteSize(tensor.dtype, tensor.shape);
    const int64_t begin = offset;
    if (!bytes.has_value() || __builtin_add_overflow(offset, *bytes, &offset)) {
      return absl::InvalidArgumentError(
          absl::StrCat("can't write ", path, ": tensor ", Quoted(tensor.name), " is too large"));
    }
    if (header.contains(tensor.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("can't write ", path, ": tensor ", Quoted(tensor.name), " comes twice"));
    }
    header[tensor.name] = {{"dtype", DTypeName(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, offset}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data begins on a multiple of 8 bytes
  SafetensorsWriter writer;
  FATHOM_ASSIGN_OR_RETURN(writer.file_, OutputFile::Create(path));
  writer.expected_bytes_ = kLengthBytes + static_cast<int64_t>(text.size()) + offset;
  const uint64_t length = text.size();
  FATHOM_RETURN_IF_ERROR(writer.Append(&length, sizeof(length)));
  FATHOM_RETURN_IF_ERROR(writer.Append(text.data(), text.size()));
  return writer;
}

absl::Status SafetensorsWriter::Append(const void* bytes, size_t count) {
  if (static_cast<int64_t>(count) > expected_bytes_ - file_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("can't write ", file_.path(), ": ", count,
                                                   " bytes more, its tensors leave room for ",
                                                   expected_bytes_ - file_.size()));
  }
  FATHOM_RETURN_IF_ERROR(file_.Append(bytes, count));
  hash_.Update(bytes, count);
  return absl::OkStatus();
}

absl::StatusOr<FileDigest> SafetensorsWriter::Finish() {
  if (file_.size() != expected_bytes_) {
    return absl::InvalidArgumentError(absl::StrCat("can't finish ", file_.path(), ": ",
                                                   expected_bytes_ - file_.size(),
                                                   " bytes of its tensors are missing"));
  }
  FATHOM_RETURN_IF_ERROR(file_.Commit());
  return FileDigest{expected_bytes_, hash_.HexDigest()};
}

absl::Status CopyAsFloat(const TensorView& tensor, int64_t begin, absl::Span<float> out) {
  const int64_t count = static_cast<int64_t>(out.size());
  if (begin < 0 || begin > tensor.elements() || count > tensor.elements() - begin) {
    return absl::OutOfRangeError(
        absl::StrCat("elements [", begin, ", ", begin + count, ") wanted of ", tensor.elements()));
  }
  const uint8_t* at = tensor.bytes.data() + begin * DTypeBytes(tensor.dtype);
  if (count == 0) return absl::OkStatus();
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out.data(), at, out.size() * sizeof(float));
      return absl::OkStatus();
    case DType::kBf16:
      for (size_t i = 0; i < out.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, at + i * sizeof(half), sizeof(half));
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
      }
      return absl::OkStatus();
    case DType::kF64:
      for (size_t i = 0; i < out.size(); ++i) {
        double wide;
        std::memcpy(&wide, at + i * sizeof(wide), sizeof(wide));
        out[i] = static_cast<float>(wide);
      }
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("a tensor of ", DTypeName(tensor.dtype), " can't be read as floats"));
  }
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const int descriptor =
      open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // a pipe must not hang
  if (descriptor < 0) return ErrnoStatus(errno, "open safetensors file", path);
  struct Closer {
    int descriptor;
    ~Closer() { close(descriptor); }
  } closer{descriptor};
  struct stat status = {};
  if (fstat(descriptor, &status) != 0) return ErrnoStatus(errno, "stat", path);
  if (!S_ISREG(status.st_mode)) return Damaged(path, "not a regular file");
  if (status.st_size < kLengthBytes) {
    return Damaged(path, absl::StrCat(status.st_size, " bytes, too short for its header's length"));
  }
  SafetensorsFile file;
  file.path_ = path;
  file.mapping_bytes_ = static_cast<size_t>(status.st_size);
  void* mapping = mmap(nullptr, file.mapping_bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
  if (mapping == MAP_FAILED) return ErrnoStatus(errno, "map", path);
  file.mapping_ = static_cast<const uint8_t*>(mapping);
  FATHOM_RETURN_IF_ERROR(file.Parse());
  return file;
}

absl::Status SafetensorsFile::Parse() {
  uint64_t length = 0;
  std::memcpy(&length, mapping_, sizeof(length));
  const int64_t after_length = bytes() - kLengthBytes;
  if (length > static_cast<uint64_t>(std::min(kHeaderBytesMax, after_length))) {
    return Damaged(path_,
                   absl::StrCat("its header claims ", length, " bytes, the file has ", after_length,
                                " after the length and the format allows ", kHeaderBytesMax));
  }
  const char* text = reinterpret_cast<const char*>(mapping_) + kLengthBytes;
  FATHOM_ASSIGN_OR_RETURN(const Json header, ParseHeader(path_, text, text + length));
  const int64_t data_bytes = after_length - static_cast<int64_t>(length);
  const uint8_t* data = mapping_ + kLengthBytes + length;
  std::vector<PlacedTensor> placed;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      if (!entry.is_object()) return Damaged(path_, "its __metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) return Damaged(path_, "its __metadata__ holds more than strings");
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    FATHOM_ASSIGN_OR_RETURN(PlacedTensor tensor, ParseTensor(path_, name, entry, data_bytes));
    placed.push_back(std::move(tensor));
  }
  FATHOM_RETURN_IF_ERROR(CheckCover(path_, placed, data_bytes));
  for (PlacedTensor& tensor : placed) {
    tensor.view.bytes =
        absl::MakeConstSpan(data + tensor.begin, static_cast<size_t>(tensor.end - tensor.begin));
    tensors_.emplace(std::move(tensor.name), std::move(tensor.view));
  }
  return absl::OkStatus();
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept { *this = std::move(other); }

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  path_ = std::move(other.path_);
  tensors_ = std::move(other.tensors_);
  metadata_ = std::move(other.metadata_);
  mapping_ = std::exchange(other.mapping_, nullptr);
  mapping_bytes_ = std::exchange(other.mapping_bytes_, 0);
  return *this;
}

SafetensorsFile::~SafetensorsFile() { Unmap(); }

void SafetensorsFile::Unmap() {
  if (mapping_ != nullptr) munmap(const_cast<uint8_t*>(mapping_), mapping_bytes_);
  mapping_ = nullptr;
}

absl::StatusOr<const TensorView*> SafetensorsFile::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second;
  return absl::NotFoundError(absl::StrCat("safetensors file ", path_, " has no tensor ", name));
}

std::string SafetensorsFile::Digest() const {
  return Sha256Hex({reinterpret_cast<const char*>(mapping_), mapping_bytes_});
}

}  // namespace fathom::checkpoint
