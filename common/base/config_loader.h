// YAML to any protobuf message and back, by reflection. Keys are the fields' names in snake_case or
// lowerCamelCase; everything a message can't hold exactly is an error that names line and field:
//
//   job.yaml:12: spec.model.hiden_size: unknown field; did you mean hidden_size?
//
// Limits: one document; no merge keys or custom tags; bytes and depth bounded (limits.h), and
// aliases count as often as they are used. NaN and infinity are not numbers here. A null leaves a
// field out.
#ifndef FATHOM_COMMON_BASE_CONFIG_LOADER_H_
#define FATHOM_COMMON_BASE_CONFIG_LOADER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}

namespace fathom {

// Replaces *out by what `text` says; leaves it alone on failure. `source_name` stands in errors.
// INVALID_ARGUMENT: as above.
absl::Status LoadYaml(absl::string_view text, absl::string_view source_name,
                      google::protobuf::Message* out);

// LoadYaml of a file. Also ReadFile's codes.
absl::Status LoadYamlFile(const std::string& path, google::protobuf::Message* out);

// The set fields in the message's order, keys in snake_case. LoadYaml gives the same message back.
std::string ToYaml(const google::protobuf::Message& message);

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_CONFIG_LOADER_H_
