// Small questions about text: validity, closeness, length.
#ifndef FATHOM_COMMON_BASE_TEXT_H_
#define FATHOM_COMMON_BASE_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace fathom {

// No overlong forms, surrogates or code points beyond U+10FFFF.
bool IsValidUtf8(absl::string_view text);

// Valid UTF-8 of at most `max_bytes`: what is invalid becomes '?', and what is cut off "...".
std::string CutText(absl::string_view text, size_t max_bytes);

// Insertions, deletions and replacements from a to b; `limit` if that many or more. Long texts
// count as far apart.
size_t EditDistance(absl::string_view a, absl::string_view b, size_t limit);

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_TEXT_H_
