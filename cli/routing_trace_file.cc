#include "cli/routing_trace_file.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "coordinator/planner/expert_placement.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;
using planner::RoutingTrace;

constexpr size_t kMaxQuotedBytes = 40;

// Takes the file as it is parsed: a tree of it would be many times as large as the trace.
class TraceReader final : public nlohmann::json_sax<Json> {
 public:
  RoutingTrace& trace() { return trace_; }

  absl::Status Finish() const {
    for (const char* key : {"experts", "layers"}) {
      if (status_.ok() && !keys_.contains(key)) {
        return absl::InvalidArgumentError(absl::StrCat("'", key, "' is missing"));
      }
    }
    return status_;
  }

  bool null() override { return Wrong("null"); }
  bool boolean(bool truth) override { return Wrong(truth ? "true" : "false"); }
  bool number_float(double, const std::string& text) override { return Wrong(text); }
  bool binary(Json::binary_t&) override { return Wrong("binary"); }
  bool string(std::string& text) override {
    return Wrong(absl::StrCat("\"", CutText(text, kMaxQuotedBytes), "\""));
  }
  bool number_integer(int64_t number) override { return Number(number); }
  bool number_unsigned(uint64_t number) override {
    return Number(
        static_cast<int64_t>(std::min<uint64_t>(number, std::numeric_limits<int64_t>::max())));
  }

  bool start_object(size_t) override {
    if (level_ == Level::kFile) {
      level_ = Level::kTop;
      return true;
    }
    if (level_ != Level::kLayers) return Wrong("an object");
    if (trace_.layers.size() >= static_cast<size_t>(limits::kMaxTracedLayers)) {
      return TooMany("layers", limits::kMaxTracedLayers);
    }
    level_ = Level::kLayer;
    ranks_given_ = false;
    trace_.layers.emplace_back();
    return true;
  }

  bool key(std::string& name) override {
    if (level_ == Level::kLayer) {
      if (name != "ranks" || ranks_given_) return WrongKey(name, "ranks");
      ranks_given_ = true;
      return true;
    }
    if (name != "experts" && name != "groups" && name != "topk_group" && name != "layers") {
      return WrongKey(name, "experts, groups, topk_group and layers");
    }
    key_ = name;
    return keys_.insert(name).second || WrongKey(name, "each key once");
  }

  bool end_object() override {
    if (level_ == Level::kLayer && !ranks_given_) {
      return Fail(absl::StrCat(LayerText(), ": 'ranks' is missing"));
    }
    level_ = level_ == Level::kLayer ? Level::kLayers : Level::kFile;
    return true;
  }

  bool start_array(size_t) override {
    switch (level_) {
      case Level::kTop:
        if (key_ != "layers") return Wrong("a list");
        level_ = Level::kLayers;
        return true;
      case Level::kLayer:
        level_ = Level::kRanks;
        return true;
      case Level::kRanks:
        if (trace_.layers.back().size() >= static_cast<size_t>(planner::kMaxExpertDevices)) {
          return TooMany("ranks", planner::kMaxExpertDevices);
        }
        level_ = Level::kRank;
        trace_.layers.back().emplace_back();
        return true;
      case Level::kRank:
        level_ = Level::kToken;
        token_.clear();
        return true;
      default:
        return Wrong("a list");
    }
  }

  bool end_array() override {
    switch (level_) {
      case Level::kToken:
        if (token_.empty())
          return Fail(absl::StrCat(RankText(), ": token ", NextToken(), " chooses no expert"));
        trace_.layers.back().back().Add(token_);
        level_ = Level::kRank;
        return true;
      case Level::kRank:
        level_ = Level::kRanks;
        return true;
      case Level::kRanks:
        level_ = Level::kLayer;
        return true;
      default:
        level_ = Level::kTop;
        return true;
    }
  }

  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    const absl::string_view what = error.what();
    const size_t begin = what.find("] ");
    return Fail(
        absl::StrCat("not JSON: ", CutText(what.substr(begin == what.npos ? 0 : begin + 2), 200)));
  }

 private:
  // What the next value is part of.
  enum class Level : uint8_t { kFile, kTop, kLayers, kLayer, kRanks, kRank, kToken };

  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(message);
    return false;
  }

  bool TooMany(const char* what, int most) {
    status_ = absl::FailedPreconditionError(
        absl::StrCat(level_ == Level::kRanks ? absl::StrCat(LayerText(), ": ") : "", "more ", what,
                     " than the ", most, " that can be planned"));
    return false;
  }

  bool WrongKey(const std::string& name, const char* known) {
    return Fail(absl::StrCat(level_ == Level::kLayer ? absl::StrCat(LayerText(), ": ") : "",
                             "unknown or repeated key '", CutText(name, kMaxQuotedBytes),
                             "'; it may hold ", known));
  }

  bool Number(int64_t number) {
    const int64_t most = std::numeric_limits<int>::max();
    const int value = static_cast<int>(std::clamp(number, -most, most));
    if (level_ == Level::kToken) {
      token_.push_back(value);
      return true;
    }
    if (level_ != Level::kTop || key_ == "layers") return Wrong(absl::StrCat(number));
    (key_ == "experts"  ? trace_.experts
     : key_ == "groups" ? trace_.groups
                        : trace_.topk_group) = value;
    return true;
  }

  bool Wrong(const std::string& found) {
    switch (level_) {
      case Level::kFile:
        return Fail(absl::StrCat("it holds ", found, ", not an object {\"experts\": .., .."));
      case Level::kTop:
        return Fail(absl::StrCat(key_, " is ", found, ", not ",
                                 key_ == "layers" ? "a list of layers" : "an integer"));
      case Level::kLayers:
        return Fail(absl::StrCat("layer ", trace_.layers.size(), " is ", found,
                                 ", not an object {\"ranks\": [..]}"));
      case Level::kLayer:
        return Fail(absl::StrCat(LayerText(), ": ranks is ", found, ", not a list of ranks"));
      case Level::kRanks:
        return Fail(absl::StrCat(LayerText(), ": rank ", trace_.layers.back().size(), " is ", found,
                                 ", not a list of tokens"));
      case Level::kRank:
        return Fail(absl::StrCat(RankText(), ": token ", NextToken(), " is ", found,
                                 ", not a list of experts"));
      case Level::kToken:
        break;
    }
    return Fail(absl::StrCat(RankText(), ": token ", NextToken(), " chooses ", found,
                             ", not an expert's number"));
  }

  std::string LayerText() const { return absl::StrCat("layer ", trace_.layers.size() - 1); }
  std::string RankText() const {
    return absl::StrCat(LayerText(), ", rank ", trace_.layers.back().size() - 1);
  }
  size_t NextToken() const { return trace_.layers.back().back().size(); }

  RoutingTrace trace_;
  absl::Status status_;
  Level level_ = Level::kFile;
  std::string key_;  // of the file's object, the last one
  std::set<std::string> keys_;
  bool ranks_given_ = false;  // of the layer at hand
  std::vector<int> token_;    // the one at hand
};

}  // namespace

absl::StatusOr<RoutingTrace> ParseRoutingTrace(absl::string_view text,
                                               const std::string& source_name) {
  TraceReader reader;
  const bool read = Json::sax_parse(text.begin(), text.end(), &reader);
  absl::Status status = reader.Finish();
  if (status.ok() && !read) status = absl::InvalidArgumentError("not JSON");
  if (status.ok()) status = planner::CheckTrace(reader.trace());
  if (!status.ok()) return WithContext(status, source_name);
  return std::move(reader.trace());
}

absl::StatusOr<RoutingTrace> LoadRoutingTrace(const std::string& path) {
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxRoutingTraceBytes));
  return ParseRoutingTrace(text, path);
}

}  // namespace fathom::cli
