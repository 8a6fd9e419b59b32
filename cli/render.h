// Every output format in one place: what a command found goes in, text comes out.
#ifndef FATHOM_CLI_RENDER_H_
#define FATHOM_CLI_RENDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cli/value.h"

namespace fathom::cli {

enum class OutputFormat : uint8_t { kTable, kWide, kJson, kYaml, kName };

// "table", "wide", "json", "yaml", "name", in the order of OutputFormat.
const std::vector<std::string>& OutputFormatNames();

struct Column {
  std::string title;
  bool wide = false;   // only in the wide table
  bool right = false;  // aligned right, for numbers
};

struct Row {
  std::string name;                // what -o name prints
  std::vector<std::string> cells;  // one per column
  Value value;                     // what -o json and yaml print
};

struct Table {
  std::vector<Column> columns;
  std::vector<Row> rows;
  std::string none;  // what a table without rows says
};

// In JSON and YAML {"items": [...]}.
std::string RenderTable(const Table& table, OutputFormat format);

// One thing: in JSON and YAML the object itself, else text for people.
std::string RenderOne(const std::string& name, const Value& value, OutputFormat format);

// Short forms for cells.
std::string LossText(double loss);    // "2.4137"
std::string CountText(double count);  // "950", "12.3k", "4.1M"
std::string DurationText(
    double seconds);                    // "0.4s", "59s", "2m05s", "3h10m", "2d4h"; "?" if negative
std::string TimeText(int64_t unix_ms);  // "2024-05-01T12:00:00Z"
Value TimeValue(int64_t unix_ms);       // the same, or null for 0
std::string BytesText(int64_t bytes);   // "17 B", "3.2 MiB"

}  // namespace fathom::cli

#endif  // FATHOM_CLI_RENDER_H_
