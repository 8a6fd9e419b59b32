// Pieces of a page that people read: amounts in the unit that suits them, bars, and text that keeps
// within the page's width.
#ifndef FATHOM_CLI_PAGE_H_
#define FATHOM_CLI_PAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace fathom::cli {

inline constexpr size_t kPageColumns = 100;

// Three or four digits that count. What is no number is "?".
std::string SecondsText(double seconds);  // "12.3 µs", "41.2 ms", "19.42 s", "3.5 min", "51.7 days"
std::string GigabytesText(int64_t bytes);  // powers of ten: "512 B", "71.2 GB"
std::string AmountText(double amount);     // "950", "178.9 K", "2.79 M", "671 B", "14.3 T"
std::string DollarsText(double dollars);   // "$2.00", "$358 K"
std::string PercentText(double part);      // 0.421: "42.1%"
std::string WholeText(int64_t number);     // "2,048"

// "2 nodes", "1 node".
std::string CountOf(int64_t count, absl::string_view one);

// Of `columns` characters at 1, in eighths of them; what is more than nothing shows.
std::string Bar(double part, size_t columns);

// One line without anything that moves a cursor.
std::string CleanText(absl::string_view raw);

// Characters, not bytes.
size_t TextColumns(absl::string_view text);

// "── Title ────", over the whole page, and an empty line before.
std::string Heading(absl::string_view title);

// `first`, then the words of `text`, broken into lines; further lines stand below where the text
// began.
std::string Paragraph(absl::string_view first, absl::string_view text);

// Rows of equally many cells, indented by two; the last column's text is broken where it is too
// wide.
struct PageColumn {
  bool right = false;  // aligned right, for numbers
};
std::string PageTable(const std::vector<PageColumn>& columns,
                      const std::vector<std::vector<std::string>>& rows);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_PAGE_H_
