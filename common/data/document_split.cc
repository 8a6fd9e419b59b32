#include "common/data/document_split.h"

#include <algorithm>
#include <cmath>

namespace fathom::data {
namespace {

constexpr size_t kTargetMin = 1 << 10;
constexpr size_t kTargetMax = 1 << 16;
constexpr double kHeldOutPlaces = 8;  // documents the held-out part should at least be made of

bool IsContinuationByte(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

size_t DocumentEnd(absl::string_view text, size_t target_bytes) {
  if (text.size() <= target_bytes) return text.size();
  const size_t limit = std::min(text.size(), DocumentLookahead(target_bytes));
  const absl::string_view head = text.substr(0, limit);
  const size_t from = target_bytes == 0 ? 0 : target_bytes - 1;
  const size_t blank_line = head.find("\n\n", from);
  if (blank_line != absl::string_view::npos) return blank_line + 2;
  const size_t line = head.find('\n', from);
  if (line != absl::string_view::npos) return line + 1;
  size_t end = limit;
  while (end > 1 && end < text.size() && IsContinuationByte(text[end]) && limit - end < 4) --end;
  return std::max<size_t>(end, 1);
}

size_t DocumentTarget(int64_t total_bytes, double validation_fraction) {
  const double wanted = static_cast<double>(total_bytes) * validation_fraction / kHeldOutPlaces;
  return static_cast<size_t>(
      std::clamp(wanted, static_cast<double>(kTargetMin), static_cast<double>(kTargetMax)));
}

bool IsHeldOut(int64_t document, double validation_fraction) {
  const double before = std::floor(static_cast<double>(document) * validation_fraction);
  const double after = std::floor(static_cast<double>(document + 1) * validation_fraction);
  return after > before;
}

}  // namespace fathom::data
