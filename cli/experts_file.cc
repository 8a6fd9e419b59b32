#include "cli/experts_file.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/atomic_file.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr size_t kMaxLayers = 1024;
constexpr size_t kMaxQuotedBytes = 40;
// Of lists and objects in each other: these files have four. Quoting takes stack for each.
constexpr int kMaxDepth = 16;
constexpr const char* kKeys[] = {"loads", "replicas", "groups", "nodes", "devices", "current"};

std::string Quoted(const Json& json) {
  return CutText(json.dump(-1, ' ', false, Json::error_handler_t::replace), kMaxQuotedBytes);
}

// An integer that an int holds, as the planner counts.
absl::StatusOr<int> IntOf(const Json& json, const std::string& where) {
  if (json.is_number_integer()) {
    const double value = json.get<double>();
    if (std::abs(value) <= std::numeric_limits<int>::max()) return static_cast<int>(value);
    return absl::FailedPreconditionError(
        absl::StrCat(where, " is ", Quoted(json), ", more than can be planned"));
  }
  return absl::InvalidArgumentError(absl::StrCat(where, " is ", Quoted(json), ", not an integer"));
}

absl::StatusOr<double> LoadOf(const Json& json, const std::string& where) {
  if (json.is_number() && json.get<double>() >= 0 && std::isfinite(json.get<double>())) {
    return json.get<double>();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(where, " is ", Quoted(json), ", not a number of 0 or more"));
}

// A list of lists; `element` reads one element at its place.
template <typename T, typename Element>
absl::StatusOr<std::vector<std::vector<T>>> RowsOf(const Json& json, const std::string& where,
                                                   Element element) {
  if (!json.is_array() || json.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is ", Quoted(json), ", not a list with a row for each layer"));
  }
  if (json.size() > kMaxLayers) {
    return absl::FailedPreconditionError(absl::StrCat(where, ": ", json.size(),
                                                      " layers are more than the ", kMaxLayers,
                                                      " that can be planned"));
  }
  std::vector<std::vector<T>> rows;
  for (size_t layer = 0; layer < json.size(); ++layer) {
    const std::string row_where = absl::StrCat(where, "[", layer, "]");
    const Json& row = json[layer];
    if (!row.is_array() || row.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(row_where, " is ", Quoted(row), ", not a list of numbers"));
    }
    if (!rows.empty() && row.size() != rows.front().size()) {
      return absl::InvalidArgumentError(absl::StrCat(row_where, " has ", row.size(),
                                                     " entries, but ", where, "[0] has ",
                                                     rows.front().size()));
    }
    std::vector<T> values;
    for (size_t i = 0; i < row.size(); ++i) {
      FATHOM_ASSIGN_OR_RETURN(const T value, element(row[i], absl::StrCat(row_where, "[", i, "]")));
      values.push_back(value);
    }
    rows.push_back(std::move(values));
  }
  return rows;
}

absl::Status CheckKeys(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys)) {
      return absl::InvalidArgumentError(absl::StrCat("unknown key '", CutText(key, kMaxQuotedBytes),
                                                     "'; it may hold ",
                                                     absl::StrJoin(kKeys, ", ")));
    }
  }
  for (const char* key : kKeys) {
    if (!json.contains(key) && std::string(key) != "current") {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", key, "' is missing; it holds ", absl::StrJoin(kKeys, ", "), " (current if known)"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertsFile> FileOf(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("it holds ", Quoted(json), ", not an object {\"loads\": [[..]], ..}"));
  }
  FATHOM_RETURN_IF_ERROR(CheckKeys(json));
  ExpertsFile file;
  FATHOM_ASSIGN_OR_RETURN(file.shape.replicas, IntOf(json["replicas"], "replicas"));
  FATHOM_ASSIGN_OR_RETURN(file.shape.groups, IntOf(json["groups"], "groups"));
  FATHOM_ASSIGN_OR_RETURN(file.shape.nodes, IntOf(json["nodes"], "nodes"));
  FATHOM_ASSIGN_OR_RETURN(file.shape.devices, IntOf(json["devices"], "devices"));
  FATHOM_ASSIGN_OR_RETURN(file.loads, RowsOf<double>(json["loads"], "loads", LoadOf));
  file.shape.experts = static_cast<int>(file.loads.front().size());
  if (!json.contains("current") || json["current"].is_null()) return file;
  FATHOM_ASSIGN_OR_RETURN(file.current, RowsOf<int>(json["current"], "current", IntOf));
  if (file.current.size() != file.loads.size()) {
    return absl::InvalidArgumentError(absl::StrCat("current has ", file.current.size(),
                                                   " rows, but loads has ", file.loads.size()));
  }
  return file;
}

absl::StatusOr<std::string> ReadStandardInput() {
  std::string text;
  std::istreambuf_iterator<char> it(std::cin), end;
  for (; it != end && static_cast<int64_t>(text.size()) <= kMaxFileBytes; ++it) text.push_back(*it);
  if (static_cast<int64_t>(text.size()) > kMaxFileBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("standard input is longer than ", kMaxFileBytes, " bytes"));
  }
  return text;
}

absl::StatusOr<Json> ParseJson(absl::string_view text, const std::string& source_name) {
  std::string wrong;
  std::set<std::string> keys;  // of the file's object
  const auto look = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (!wrong.empty()) return false;
    if (depth > kMaxDepth) {
      wrong = absl::StrCat("lists and objects in each other, more than ", kMaxDepth, " deep");
    } else if (depth == 1 && event == Json::parse_event_t::key &&
               !keys.insert(parsed.get<std::string>()).second) {
      wrong = absl::StrCat("key '", CutText(parsed.get<std::string>(), kMaxQuotedBytes),
                           "' stands there twice; give it once");
    }
    return wrong.empty();
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), look);
    if (wrong.empty()) return json;
    return absl::InvalidArgumentError(absl::StrCat(source_name, ": ", wrong));
  } catch (const Json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const absl::string_view what = error.what();
    const size_t begin = what.find("] ");
    return absl::InvalidArgumentError(absl::StrCat(
        source_name,
        " is not JSON: ", CutText(what.substr(begin == what.npos ? 0 : begin + 2), 200)));
  }
}

absl::StatusOr<std::vector<std::vector<int>>> SlotsOf(const Json& json) {
  constexpr char kSlots[] = "physical_to_logical";
  if (!json.is_object() || !json.contains("layers") || !json["layers"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "it holds ", Quoted(json), ", not an object {\"layers\": [{\"", kSlots, "\": [..]}, ..]}"));
  }
  Json rows = Json::array();
  for (const Json& layer : json["layers"]) {
    if (!layer.is_object() || !layer.contains(kSlots)) {
      return absl::InvalidArgumentError(absl::StrCat("layers[", rows.size(), "] is ", Quoted(layer),
                                                     ", not an object with ", kSlots));
    }
    rows.push_back(layer[kSlots]);
  }
  return RowsOf<int>(rows, kSlots, IntOf);
}

}  // namespace

absl::StatusOr<ExpertsFile> ParseExpertsFile(absl::string_view text,
                                             const std::string& source_name) {
  FATHOM_ASSIGN_OR_RETURN(const Json json, ParseJson(text, source_name));
  auto file = FileOf(json);
  if (!file.ok()) return WithContext(file.status(), source_name);
  return file;
}

absl::StatusOr<ExpertsFile> LoadExpertsFile(const std::string& path) {
  if (path == "-") {
    FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadStandardInput());
    return ParseExpertsFile(text, "standard input");
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  return ParseExpertsFile(text, path);
}

absl::StatusOr<std::vector<std::vector<int>>> LoadPlacementFile(const std::string& path) {
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  FATHOM_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  auto slots = SlotsOf(json);
  if (!slots.ok()) return WithContext(slots.status(), path);
  return slots;
}

}  // namespace fathom::cli
