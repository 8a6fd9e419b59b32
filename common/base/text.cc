#include "common/base/text.h"

#include <algorithm>
#include <vector>

namespace fathom {
namespace {

constexpr size_t kComparedBytesMax = 128;

// Length of the valid UTF-8 sequence that `text` begins with, or 0.
size_t SequenceBytes(absl::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return 0;
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  if (lead == 0xE0 && second < 0xA0) return 0;  // overlong
  if (lead == 0xED && second > 0x9F) return 0;  // surrogate
  if (lead == 0xF0 && second < 0x90) return 0;  // overlong
  if (lead == 0xF4 && second > 0x8F) return 0;  // beyond U+10FFFF
  return bytes;
}

}  // namespace

bool IsValidUtf8(absl::string_view text) {
  while (!text.empty()) {
    size_t bytes = SequenceBytes(text);
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

std::string CutText(absl::string_view text, size_t max_bytes) {
  constexpr absl::string_view kDots = "...";
  const bool cut = text.size() > max_bytes;
  const size_t room = cut ? (max_bytes > kDots.size() ? max_bytes - kDots.size() : 0) : max_bytes;
  std::string result;
  while (!text.empty()) {
    size_t bytes = SequenceBytes(text);
    if (result.size() + std::max<size_t>(bytes, 1) > room) break;
    result.append(bytes == 0 ? "?" : std::string(text.substr(0, bytes)));
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  if (cut) result.append(kDots.data(), std::min(kDots.size(), max_bytes));
  return result;
}

size_t EditDistance(absl::string_view a, absl::string_view b, size_t limit) {
  if (a.size() > kComparedBytesMax || b.size() > kComparedBytesMax) return limit;
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return std::min(row[b.size()], limit);
}

}  // namespace fathom
