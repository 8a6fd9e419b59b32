#include "cli/page.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

// Of a whole page's text, so that a name of the user's can't fill it.
constexpr size_t kTextBytesMax = 2000;
// A paragraph has these at least, even where its first words leave less.
constexpr size_t kTextColumnsMin = 20;

// Four digits where the first is small, else three.
std::string Digits(double number) {
  const double size = std::abs(number);
  if (size >= 99.95) return absl::StrFormat("%.0f", number);
  if (size >= 19.995) return absl::StrFormat("%.1f", number);
  return absl::StrFormat("%.2f", number);
}

std::string Spaces(size_t count) { return std::string(count, ' '); }

std::string Padded(const std::string& text, size_t columns, bool right) {
  const size_t width = TextColumns(text);
  if (width >= columns) return text;
  const std::string gap = Spaces(columns - width);
  return right ? gap + text : text + gap;
}

// Lines of at most `columns` characters; a longer word has a line of its own.
std::vector<std::string> BrokenLines(absl::string_view text, size_t columns) {
  std::vector<std::string> lines = {""};
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (!lines.back().empty() && TextColumns(lines.back()) + 1 + TextColumns(word) > columns) {
      lines.emplace_back();
    }
    absl::StrAppend(&lines.back(), lines.back().empty() ? "" : " ", word);
  }
  return lines;
}

}  // namespace

std::string SecondsText(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  const double size = std::abs(seconds);
  if (size == 0) return "0 s";
  if (size < 0.9995e-3) return Digits(seconds * 1e6) + " \u00b5s";
  if (size < 0.9995) return Digits(seconds * 1e3) + " ms";
  if (size < 120) return Digits(seconds) + " s";
  if (size < 2 * 3600) return Digits(seconds / 60) + " min";
  if (size < 2 * 86400) return Digits(seconds / 3600) + " hours";
  return Digits(seconds / 86400) + " days";
}

std::string GigabytesText(int64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"kB", "MB", "GB", "TB", "PB"};
  if (bytes < 1000 && bytes > -1000) return absl::StrCat(bytes, " B");
  double scaled = static_cast<double>(bytes) / 1e3;
  size_t unit = 0;
  while (std::abs(scaled) >= 999.5 && unit + 1 < kUnits.size()) {
    scaled /= 1e3;
    ++unit;
  }
  return absl::StrCat(Digits(scaled), " ", kUnits[unit]);
}

std::string AmountText(double amount) {
  static constexpr std::array<const char*, 5> kUnits = {"", " K", " M", " B", " T"};
  if (!std::isfinite(amount)) return "?";
  size_t unit = 0;
  while (std::abs(amount) >= 999.5 && unit + 1 < kUnits.size()) {
    amount /= 1e3;
    ++unit;
  }
  if (unit == 0 && amount == std::floor(amount)) return absl::StrFormat("%.0f", amount);
  const bool one_decimal = unit > 0 && std::abs(amount) >= 99.95;
  return absl::StrCat(one_decimal ? absl::StrFormat("%.1f", amount) : Digits(amount), kUnits[unit]);
}

std::string DollarsText(double dollars) {
  if (std::abs(dollars) < 999.5) return absl::StrFormat("$%.2f", dollars);
  return absl::StrCat("$", AmountText(dollars));
}

std::string PercentText(double part) {
  return std::isfinite(part) ? absl::StrFormat("%.1f%%", 100 * part) : "?";
}

std::string WholeText(int64_t number) {
  const std::string digits = absl::StrCat(number);
  const size_t first = number < 0 ? 1 : 0;
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > first && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

std::string CountOf(int64_t count, absl::string_view one) {
  return absl::StrCat(WholeText(count), " ", one, count == 1 ? "" : "s");
}

std::string Bar(double part, size_t columns) {
  static constexpr std::array<const char*, 8> kEighths = {"",       "\u258f", "\u258e", "\u258d",
                                                          "\u258c", "\u258b", "\u258a", "\u2589"};
  if (!(part > 0)) return "";
  const double whole = std::min(part, 1.0) * static_cast<double>(columns) * 8;
  const auto eighths = static_cast<size_t>(std::max(1.0, std::round(whole)));
  std::string bar;
  for (size_t i = 0; i < eighths / 8; ++i) bar += "\u2588";
  return bar + kEighths[eighths % 8];
}

std::string CleanText(absl::string_view raw) {
  std::string text = CutText(raw, kTextBytesMax);
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  return text;
}

size_t TextColumns(absl::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string Heading(absl::string_view title) {
  std::string line = absl::StrCat("\n\u2500\u2500 ", title, " ");
  for (size_t i = TextColumns(title) + 4; i < kPageColumns; ++i) line += "\u2500";
  return line + "\n";
}

std::string Paragraph(absl::string_view first, absl::string_view text) {
  const size_t margin = TextColumns(first);
  const size_t columns =
      margin + kTextColumnsMin < kPageColumns ? kPageColumns - margin : kTextColumnsMin;
  std::string out(first);
  bool more = false;
  for (const std::string& line : BrokenLines(text, columns)) {
    absl::StrAppend(&out, more ? Spaces(margin) : "", line, "\n");
    more = true;
  }
  return out;
}

std::string PageTable(const std::vector<PageColumn>& columns,
                      const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(columns.size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < columns.size(); ++i) {
      widths[i] = std::max(widths[i], TextColumns(row[i]));
    }
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t i = 0; i + 1 < columns.size(); ++i) {
      absl::StrAppend(&line, Padded(row[i], widths[i], columns[i].right), "  ");
    }
    const std::string& last = row.back();
    const bool fits = TextColumns(line) + widths.back() <= kPageColumns;
    if (columns.back().right && fits) {
      absl::StrAppend(&line, Padded(last, widths.back(), true), "\n");
    } else {
      line = Paragraph(line, last);
    }
    for (const absl::string_view part : absl::StrSplit(line, '\n', absl::SkipEmpty())) {
      absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(part), "\n");
    }
  }
  return out;
}

}  // namespace fathom::cli
