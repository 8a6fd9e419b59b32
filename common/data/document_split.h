// Long texts cut into documents, and which documents are held out for validation. Both depend on
// the text alone, so preparing the same files twice gives the same token file.
#ifndef FATHOM_COMMON_DATA_DOCUMENT_SPLIT_H_
#define FATHOM_COMMON_DATA_DOCUMENT_SPLIT_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace fathom::data {

// Bytes that are enough of a look-ahead for DocumentEnd.
constexpr size_t DocumentLookahead(size_t target_bytes) { return 2 * target_bytes; }

// Bytes of the first document of `text`, 0 only for empty text: up to the first blank line at or
// after target_bytes, else the first line end, else a character's end at twice that; all of a text
// that is not longer than target_bytes. `text` holds the whole rest, or at least DocumentLookahead
// bytes of it.
size_t DocumentEnd(absl::string_view text, size_t target_bytes);

// A target that cuts `total_bytes` of text finely enough for a held-out part of that fraction to be
// drawn from several places: 1 KiB to 64 KiB.
size_t DocumentTarget(int64_t total_bytes, double validation_fraction);

// Whether the document with this number, from 0, is held out: spread evenly, the first one never
// for a fraction below 1.
bool IsHeldOut(int64_t document, double validation_fraction);

}  // namespace fathom::data

#endif  // FATHOM_COMMON_DATA_DOCUMENT_SPLIT_H_
