#include "cli/job_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr char kApiVersion[] = "fathom/v1";
constexpr char kKind[] = "Job";

absl::StatusOr<std::string> ReadStandardInput() {
  std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  if (static_cast<int64_t>(text.size()) > limits::kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the job on standard input is longer than ",
                                                   limits::kMaxConfigBytes, " bytes"));
  }
  return text;
}

// Moves what `path` names from `given` to `target`; both are of one type, and in `given` it is
// there.
absl::Status TakeField(const std::vector<std::string>& path, size_t depth, Message& given,
                       Message& target) {
  const auto* type = target.GetDescriptor();
  const FieldDescriptor* field = type->FindFieldByName(path[depth]);
  if (field == nullptr) field = type->FindFieldByCamelcaseName(path[depth]);
  // The loader has taken the same path already.
  if (field == nullptr) return absl::InvalidArgumentError("unknown field");
  const Reflection& reflection = *target.GetReflection();
  if (field->is_map()) {
    target.MergeFrom(given);
    return absl::OkStatus();
  }
  if (depth + 1 == path.size()) {
    reflection.SwapFields(&target, &given, {field});
    return absl::OkStatus();
  }
  return TakeField(path, depth + 1, *reflection.MutableMessage(&given, field),
                   *reflection.MutableMessage(&target, field));
}

}  // namespace

absl::StatusOr<v1::Job> ParseJob(absl::string_view text, const std::string& source_name) {
  v1::Job job;
  FATHOM_RETURN_IF_ERROR(LoadYaml(text, source_name, &job));
  if (job.api_version() != kApiVersion) {
    return absl::InvalidArgumentError(absl::StrCat(source_name, ": apiVersion is '",
                                                   job.api_version(), "'; a job file begins with",
                                                   " apiVersion: ", kApiVersion));
  }
  if (job.kind() != kKind) {
    return absl::InvalidArgumentError(
        absl::StrCat(source_name, ": kind is '", job.kind(), "'; a job file says kind: ", kKind));
  }
  return job;
}

absl::StatusOr<v1::Job> LoadJobFile(const std::string& path) {
  if (path == "-") {
    FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadStandardInput());
    return ParseJob(text, "standard input");
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, limits::kMaxConfigBytes));
  return ParseJob(text, path);
}

absl::Status ApplyOverrides(const std::vector<std::string>& overrides, v1::Job& job) {
  for (const std::string& override_text : overrides) {
    const std::string source = absl::StrCat("--set ", override_text);
    const size_t equals = override_text.find('=');
    const std::string left = override_text.substr(0, equals);
    const std::vector<std::string> path = absl::StrSplit(left, '.');
    bool sound = equals != std::string::npos && override_text.find('\n') == std::string::npos &&
                 path.size() <= static_cast<size_t>(limits::kMaxYamlDepth);
    for (const std::string& part : path) {
      sound = sound && !part.empty() && part.find_first_of(" :#'\"{}[]") == std::string::npos;
    }
    if (!sound) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": expected FIELD=VALUE, such as spec.training.steps=50"));
    }
    // One nested document of just this field: what may stand there is checked as in a file.
    std::string document;
    for (size_t depth = 0; depth < path.size(); ++depth) {
      absl::StrAppend(&document, std::string(2 * depth, ' '), path[depth], ":",
                      depth + 1 < path.size() ? "\n" : " ");
    }
    absl::StrAppend(&document, override_text.substr(equals + 1), "\n");
    v1::Job given;
    FATHOM_RETURN_IF_ERROR(LoadYaml(document, source, &given));
    FATHOM_RETURN_IF_ERROR(WithContext(TakeField(path, 0, given, job), source));
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
