#include "cli/render.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/check.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

// One line, nothing that moves a cursor.
std::string CellText(const std::string& raw) {
  std::string text = IsValidUtf8(raw) ? raw : CutText(raw, raw.size());
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  return text.empty() ? "-" : text;
}

// Characters, not bytes.
size_t DisplayWidth(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string TableText(const Table& table, bool wide) {
  if (table.rows.empty()) return table.none.empty() ? "" : table.none + "\n";
  std::vector<std::vector<std::string>> lines(table.rows.size() + 1);
  std::vector<bool> right;
  for (size_t column = 0; column < table.columns.size(); ++column) {
    if (table.columns[column].wide && !wide) continue;
    right.push_back(table.columns[column].right);
    lines[0].push_back(table.columns[column].title);
    for (size_t row = 0; row < table.rows.size(); ++row) {
      FATHOM_CHECK(table.rows[row].cells.size() == table.columns.size()) << table.rows[row].name;
      lines[row + 1].push_back(CellText(table.rows[row].cells[column]));
    }
  }
  std::vector<size_t> widths(right.size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(line[i]));
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string gap(widths[i] - DisplayWidth(line[i]), ' ');
      absl::StrAppend(&text, i == 0 ? "" : "  ", right[i] ? gap : "", line[i], right[i] ? "" : gap);
    }
    absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(text), "\n");
  }
  return out;
}

}  // namespace

const std::vector<std::string>& OutputFormatNames() {
  static const std::vector<std::string>* names =
      new std::vector<std::string>{"table", "wide", "json", "yaml", "name"};
  return *names;
}

std::string RenderTable(const Table& table, OutputFormat format) {
  if (format == OutputFormat::kTable || format == OutputFormat::kWide) {
    return TableText(table, format == OutputFormat::kWide);
  }
  if (format == OutputFormat::kName) {
    std::string out;
    for (const Row& row : table.rows) absl::StrAppend(&out, CellText(row.name), "\n");
    return out;
  }
  Value items = Value::List();
  for (const Row& row : table.rows) items.Add(row.value);
  Value document = Value::Object();
  document.Set("items", std::move(items));
  return format == OutputFormat::kJson ? ToJson(document) : ToYaml(document);
}

std::string RenderOne(const std::string& name, const Value& value, OutputFormat format) {
  switch (format) {
    case OutputFormat::kJson:
      return ToJson(value);
    case OutputFormat::kYaml:
      return ToYaml(value);
    case OutputFormat::kName:
      return CellText(name) + "\n";
    default:
      return ToText(value);
  }
}

std::string LossText(double loss) { return absl::StrFormat("%.4f", loss); }

std::string CountText(double count) {
  static constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  while (std::abs(count) >= 999.5 && unit + 1 < kUnits.size()) {
    count /= 1000;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f", count)
                   : absl::StrFormat("%.3g%s", count, kUnits[unit]);
}

std::string DurationText(double seconds) {
  if (!(seconds >= 0) || !std::isfinite(seconds)) return "?";
  if (seconds < 9.95) return absl::StrFormat("%.1fs", seconds);
  const auto whole = static_cast<int64_t>(std::min(std::round(seconds), 1e15));
  if (whole < 60) return absl::StrFormat("%ds", whole);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
  return absl::StrFormat("%dd%dh", whole / 86400, whole / 3600 % 24);
}

std::string TimeText(int64_t unix_ms) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::FromUnixMillis(unix_ms), absl::UTCTimeZone());
}

Value TimeValue(int64_t unix_ms) { return unix_ms == 0 ? Value() : Value(TimeText(unix_ms)); }

std::string BytesText(int64_t bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto scaled = static_cast<double>(bytes);
  size_t unit = 0;
  while (scaled >= 1023.5 && unit + 1 < kUnits.size()) {
    scaled /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%d B", bytes)
                   : absl::StrFormat("%.3g %s", scaled, kUnits[unit]);
}

}  // namespace fathom::cli
