#include "common/base/config_loader.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <memory>
#include <sstream>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr size_t kQuotedBytesMax = 60;

std::string Quote(absl::string_view text) {
  if (text.size() <= kQuotedBytesMax) return absl::StrCat("'", text, "'");
  return absl::StrCat("'", CutText(text, kQuotedBytesMax), "'");
}

// A plain number: sign, digits, fraction, exponent. strtod's hexadecimal, inf and nan are not.
bool LooksLikeNumber(absl::string_view text) {
  if (!text.empty() && (text.front() == '+' || text.front() == '-')) text.remove_prefix(1);
  if (text.empty() || !(absl::ascii_isdigit(text.front()) || text.front() == '.')) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(c) || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
  });
}

bool LooksLikeInteger(absl::string_view text) {
  if (!text.empty() && (text.front() == '+' || text.front() == '-')) text.remove_prefix(1);
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

// NodeState -> NODE_STATE_
std::string EnumPrefix(const EnumDescriptor& type) {
  std::string prefix;
  for (char c : type.name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  return prefix + "_";
}

// Walks one document. `path` is a field's full name, such as spec.phases[2].steps.
class Reader {
 public:
  explicit Reader(absl::string_view source) : source_(source) {}

  absl::Status ReadDocument(const YAML::Node& root, Message* out) {
    if (!root.IsDefined() || root.IsNull()) return absl::OkStatus();
    return ReadMessage(root, "", 0, out);
  }

 private:
  absl::Status Error(const YAML::Node& node, absl::string_view path, absl::string_view what) const {
    int line = node.Mark().line + 1;
    return absl::InvalidArgumentError(
        absl::StrCat(source_, ":", std::max(line, 1), ": ", path, path.empty() ? "" : ": ", what));
  }

  static std::string Join(absl::string_view path, absl::string_view name) {
    return absl::StrCat(path, path.empty() ? "" : ".", name);
  }

  // Every node passes here once per use, so that an alias is as dear as what it stands for.
  absl::Status Visit(const YAML::Node& node, absl::string_view path, int depth) {
    if (depth > limits::kMaxYamlDepth) {
      return Error(node, path, absl::StrCat("nested deeper than ", limits::kMaxYamlDepth));
    }
    if (++visited_ > limits::kMaxYamlNodes) {
      return Error(
          node, path,
          absl::StrCat("more than ", limits::kMaxYamlNodes, " values once aliases are followed"));
    }
    const std::string& tag = node.Tag();
    constexpr absl::string_view kCore = "tag:yaml.org,2002:";
    bool known = tag.empty() || tag == "?" || tag == "!" ||
                 (absl::StartsWith(tag, kCore) && !absl::EndsWith(tag, ":binary"));
    if (!known) return Error(node, path, absl::StrCat("tag ", Quote(tag), " is not supported"));
    return absl::OkStatus();
  }

  static std::string KindOf(const YAML::Node& node) {
    switch (node.Type()) {
      case YAML::NodeType::Map:
        return "a mapping";
      case YAML::NodeType::Sequence:
        return "a list";
      case YAML::NodeType::Scalar:
        return absl::StrCat(node.Tag() == "!" ? "the text " : "", Quote(node.Scalar()));
      default:
        return "nothing";
    }
  }

  absl::Status ReadMessage(const YAML::Node& node, const std::string& path, int depth,
                           Message* out) {
    FATHOM_RETURN_IF_ERROR(Visit(node, path, depth));
    if (!node.IsMap()) {
      return Error(node, path, absl::StrCat("expected a mapping of fields, got ", KindOf(node)));
    }
    const Descriptor* type = out->GetDescriptor();
    absl::flat_hash_set<int> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return Error(entry.first, path, "a key must be a field's name");
      const std::string& key = entry.first.Scalar();
      const FieldDescriptor* field = type->FindFieldByName(key);
      if (field == nullptr) field = type->FindFieldByCamelcaseName(key);
      if (field == nullptr) {
        return Error(entry.first, Join(path, CutText(key, kQuotedBytesMax)),
                     absl::StrCat("unknown field", Suggestion(*type, key)));
      }
      const std::string field_path = Join(path, field->name());
      if (!seen.insert(field->number()).second) {
        return Error(entry.first, field_path, "given twice");
      }
      if (entry.second.IsNull()) {
        FATHOM_RETURN_IF_ERROR(Visit(entry.second, field_path, depth + 1));
        continue;
      }
      FATHOM_RETURN_IF_ERROR(CheckOneof(entry.first, field_path, *out, *field));
      FATHOM_RETURN_IF_ERROR(ReadField(entry.second, field_path, depth + 1, *field, out));
    }
    return absl::OkStatus();
  }

  absl::Status CheckOneof(const YAML::Node& key, absl::string_view path, const Message& out,
                          const FieldDescriptor& field) const {
    const auto* oneof = field.real_containing_oneof();
    if (oneof == nullptr || !out.GetReflection()->HasOneof(out, oneof)) return absl::OkStatus();
    const auto* other = out.GetReflection()->GetOneofFieldDescriptor(out, oneof);
    return Error(key, path, absl::StrCat("cannot be given together with ", other->name()));
  }

  static std::string Suggestion(const Descriptor& type, absl::string_view key) {
    std::string best;
    size_t best_distance = std::max<size_t>(2, key.size() / 3) + 1;
    for (int i = 0; i < type.field_count(); ++i) {
      for (const std::string& name : {type.field(i)->name(), type.field(i)->camelcase_name()}) {
        size_t distance = EditDistance(key, name, best_distance);
        if (distance < best_distance) {
          best_distance = distance;
          best = name;
        }
      }
    }
    if (!best.empty()) return absl::StrCat("; did you mean ", best, "?");
    if (type.field_count() == 0) return "; none is allowed here";
    std::string names;
    for (int i = 0; i < type.field_count() && names.size() < 200; ++i) {
      absl::StrAppend(&names, i == 0 ? "" : ", ", type.field(i)->name());
    }
    return absl::StrCat("; known here: ", names);
  }

  absl::Status ReadField(const YAML::Node& node, const std::string& path, int depth,
                         const FieldDescriptor& field, Message* out) {
    if (field.is_map()) return ReadMap(node, path, depth, field, out);
    if (!field.is_repeated()) {
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        return ReadMessage(node, path, depth, out->GetReflection()->MutableMessage(out, &field));
      }
      return ReadScalar(node, path, depth, field, out);
    }
    FATHOM_RETURN_IF_ERROR(Visit(node, path, depth));
    if (!node.IsSequence()) {
      return Error(node, path, absl::StrCat("expected a list, got ", KindOf(node)));
    }
    int index = 0;
    for (const YAML::Node& item : node) {
      const std::string item_path = absl::StrCat(path, "[", index++, "]");
      if (item.IsNull()) return Error(item, item_path, "is empty");
      FATHOM_RETURN_IF_ERROR(field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE
                                 ? ReadMessage(item, item_path, depth + 1,
                                               out->GetReflection()->AddMessage(out, &field))
                                 : ReadScalar(item, item_path, depth + 1, field, out));
    }
    return absl::OkStatus();
  }

  absl::Status ReadMap(const YAML::Node& node, const std::string& path, int depth,
                       const FieldDescriptor& field, Message* out) {
    FATHOM_RETURN_IF_ERROR(Visit(node, path, depth));
    if (!node.IsMap()) {
      return Error(node, path, absl::StrCat("expected a mapping, got ", KindOf(node)));
    }
    const FieldDescriptor& key_field = *field.message_type()->map_key();
    const FieldDescriptor& value_field = *field.message_type()->map_value();
    absl::flat_hash_set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return Error(entry.first, path, "a key must be plain");
      const std::string& key = entry.first.Scalar();
      const std::string entry_path = absl::StrCat(path, "[", CutText(key, kQuotedBytesMax), "]");
      if (!seen.insert(key).second) return Error(entry.first, entry_path, "given twice");
      if (entry.second.IsNull()) return Error(entry.second, entry_path, "is empty");
      Message* pair = out->GetReflection()->AddMessage(out, &field);
      FATHOM_RETURN_IF_ERROR(ReadScalar(entry.first, entry_path, depth + 1, key_field, pair));
      FATHOM_RETURN_IF_ERROR(ReadField(entry.second, entry_path, depth + 1, value_field, pair));
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Integer(const YAML::Node& node, absl::string_view path) {
    const std::string& text = node.Scalar();
    if (node.Tag() == "!" || !LooksLikeInteger(text)) {
      return Error(node, path, absl::StrCat("expected an integer, got ", KindOf(node)));
    }
    T value;
    if (!absl::SimpleAtoi(text, &value)) {
      return Error(
          node, path,
          absl::StrCat(Quote(text), " is out of range; it must be from ",
                       std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max()));
    }
    return value;
  }

  absl::StatusOr<double> Number(const YAML::Node& node, absl::string_view path, double max) {
    const std::string& text = node.Scalar();
    if (node.Tag() == "!" || !LooksLikeNumber(text)) {
      return Error(node, path, absl::StrCat("expected a finite number, got ", KindOf(node)));
    }
    double value = 0;
    const char* begin = text.data() + (text.front() == '+' ? 1 : 0);
    auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
    if (error == std::errc::result_out_of_range || std::abs(value) > max) {
      return Error(node, path, absl::StrCat(Quote(text), " is out of range for this number"));
    }
    if (error != std::errc() || end != text.data() + text.size()) {
      return Error(node, path, absl::StrCat("expected a number, got ", KindOf(node)));
    }
    return value;
  }

  absl::StatusOr<bool> Boolean(const YAML::Node& node, absl::string_view path) {
    if (node.Tag() != "!") {
      const std::string text = absl::AsciiStrToLower(node.Scalar());
      if (text == "true") return true;
      if (text == "false") return false;
    }
    return Error(node, path, absl::StrCat("expected true or false, got ", KindOf(node)));
  }

  // NODE_STATE_READY answers to its full name and to "ready".
  absl::StatusOr<int> EnumNumber(const YAML::Node& node, absl::string_view path,
                                 const EnumDescriptor& type) {
    const std::string prefix = EnumPrefix(type);
    const std::string wanted = absl::AsciiStrToUpper(node.Scalar());
    std::string known;
    for (int i = 0; i < type.value_count(); ++i) {
      const std::string& name = type.value(i)->name();
      absl::string_view brief = absl::StripPrefix(name, prefix);
      if (wanted == name || wanted == brief) return type.value(i)->number();
      absl::StrAppend(&known, i == 0 ? "" : ", ", absl::AsciiStrToLower(brief));
    }
    return Error(node, path, absl::StrCat("expected one of ", known, ", got ", KindOf(node)));
  }

  absl::Status ReadScalar(const YAML::Node& node, const std::string& path, int depth,
                          const FieldDescriptor& field, Message* out) {
    FATHOM_RETURN_IF_ERROR(Visit(node, path, depth));
    if (!node.IsScalar()) {
      return Error(node, path, absl::StrCat("expected a single value, got ", KindOf(node)));
    }
    const Reflection& reflection = *out->GetReflection();
    const FieldDescriptor* f = &field;
    auto put = [&](auto value, auto set, auto add) -> absl::Status {
      if (!value.ok()) return value.status();
      // A map's key and value are singular fields of its entry.
      if (field.is_repeated()) {
        (reflection.*add)(out, f, *std::move(value));
      } else {
        (reflection.*set)(out, f, *std::move(value));
      }
      return absl::OkStatus();
    };
    constexpr double kDoubleMax = std::numeric_limits<double>::max();
    constexpr double kFloatMax = std::numeric_limits<float>::max();
    using R = Reflection;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return put(Integer<int32_t>(node, path), &R::SetInt32, &R::AddInt32);
      case FieldDescriptor::CPPTYPE_INT64:
        return put(Integer<int64_t>(node, path), &R::SetInt64, &R::AddInt64);
      case FieldDescriptor::CPPTYPE_UINT32:
        return put(Integer<uint32_t>(node, path), &R::SetUInt32, &R::AddUInt32);
      case FieldDescriptor::CPPTYPE_UINT64:
        return put(Integer<uint64_t>(node, path), &R::SetUInt64, &R::AddUInt64);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return put(Number(node, path, kDoubleMax), &R::SetDouble, &R::AddDouble);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return put(Number(node, path, kFloatMax), &R::SetFloat, &R::AddFloat);
      case FieldDescriptor::CPPTYPE_BOOL:
        return put(Boolean(node, path), &R::SetBool, &R::AddBool);
      case FieldDescriptor::CPPTYPE_ENUM:
        return put(EnumNumber(node, path, *field.enum_type()), &R::SetEnumValue, &R::AddEnumValue);
      case FieldDescriptor::CPPTYPE_STRING:
        return put(absl::StatusOr<std::string>(node.Scalar()), &R::SetString, &R::AddString);
      case FieldDescriptor::CPPTYPE_MESSAGE:
        break;
    }
    return Error(node, path, "cannot be given as a single value");
  }

  absl::string_view source_;
  int visited_ = 0;
};

// yaml-cpp takes byte 4 for the end of its input and passes broken UTF-8 on; both end here.
absl::Status CheckText(absl::string_view text, absl::string_view source) {
  if (static_cast<int64_t>(text.size()) > limits::kMaxConfigBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": longer than the ", limits::kMaxConfigBytes, " bytes allowed"));
  }
  int line = 1;
  for (char c : text) {
    if (c == '\n') ++line;
    bool control = absl::ascii_iscntrl(static_cast<unsigned char>(c));
    if (control && c != '\n' && c != '\r' && c != '\t') {
      return absl::InvalidArgumentError(absl::StrCat(
          source, ":", line, ": a control character (byte ", static_cast<int>(c), ") in the text"));
    }
  }
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": the text is not valid UTF-8"));
  }
  return absl::OkStatus();
}

// Looks a text over before the document is built from it. yaml-cpp's own loop over documents does
// not end on some broken texts ("a: b" with a stray indicator yields empty documents for ever), so
// this asks for two documents at most and gives up when one has more values than a message may.
class Guard final : public YAML::EventHandler {
 public:
  absl::Status Check(const std::string& text, absl::string_view source) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(*this) || !parser.HandleNextDocument(*this)) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(source, ":", std::max(document_line_, 1),
                                                   ": a second document; give one per file"));
  }

  void OnDocumentStart(const YAML::Mark& mark) override { document_line_ = mark.line + 1; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { Count(mark); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { Count(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                const std::string&) override {
    Count(mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    Count(mark);
  }
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    Count(mark);
  }
  void OnMapEnd() override {}

 private:
  void Count(const YAML::Mark& mark) {
    // A key is a value of its own here.
    if (++values_ > 2 * limits::kMaxYamlNodes) {
      throw YAML::ParserException(mark,
                                  absl::StrCat("more than ", limits::kMaxYamlNodes, " values"));
    }
  }

  int values_ = 0;
  int document_line_ = 0;
};

}  // namespace

absl::Status LoadYaml(absl::string_view text, absl::string_view source_name, Message* out) {
  FATHOM_RETURN_IF_ERROR(CheckText(text, source_name));
  std::unique_ptr<Message> result(out->New());
  try {
    const std::string copy(text);
    FATHOM_RETURN_IF_ERROR(Guard().Check(copy, source_name));
    FATHOM_RETURN_IF_ERROR(Reader(source_name).ReadDocument(YAML::Load(copy), result.get()));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source_name, ":",
                                                   std::max(error.mark.line + 1, 1),
                                                   ": not valid YAML: ", CutText(error.msg, 200)));
  }
  out->GetReflection()->Swap(out, result.get());
  return absl::OkStatus();
}

absl::Status LoadYamlFile(const std::string& path, Message* out) {
  FATHOM_ASSIGN_OR_RETURN(std::string text, ReadFile(path, limits::kMaxConfigBytes));
  return LoadYaml(text, path, out);
}

namespace {

// Plain where YAML 1.1 and 1.2 readers all take it for the same text; quoted otherwise.
std::string YamlText(const std::string& text) {
  bool plain = !text.empty() && absl::ascii_isalpha(text.front());
  for (char c : text) {
    plain = plain && (absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '/' || c == '.');
  }
  const std::string lower = absl::AsciiStrToLower(text);
  for (absl::string_view word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}) {
    plain = plain && lower != word;
  }
  if (plain) return text;
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", std::string(1, c));
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (absl::ascii_iscntrl(c)) {
      absl::StrAppend(&quoted, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

template <typename T>
std::string Shortest(T value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  char buffer[40];
  auto result = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, result.ptr);
}

class Writer {
 public:
  void Fields(const Message& message, int indent) {
    std::vector<const FieldDescriptor*> fields;
    message.GetReflection()->ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      Indent(indent);
      absl::StrAppend(&out_, field->name(), ":");
      if (field->is_map()) {
        Map(message, *field, indent);
      } else if (field->is_repeated()) {
        List(message, *field, indent);
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        Nested(message.GetReflection()->GetMessage(message, field), indent + 1);
      } else {
        absl::StrAppend(&out_, " ", Scalar(message, *field, -1), "\n");
      }
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  void Indent(int indent) { out_.append(2 * static_cast<size_t>(indent), ' '); }

  static bool IsEmpty(const Message& message) {
    std::vector<const FieldDescriptor*> fields;
    message.GetReflection()->ListFields(message, &fields);
    return fields.empty();
  }

  void Nested(const Message& message, int indent) {
    if (IsEmpty(message)) {
      out_ += " {}\n";
      return;
    }
    out_ += "\n";
    Fields(message, indent);
  }

  void List(const Message& message, const FieldDescriptor& field, int indent) {
    const Reflection& reflection = *message.GetReflection();
    const int size = reflection.FieldSize(message, &field);
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      out_ += " [";
      for (int i = 0; i < size; ++i) {
        absl::StrAppend(&out_, i == 0 ? "" : ", ", Scalar(message, field, i));
      }
      out_ += "]\n";
      return;
    }
    out_ += "\n";
    for (int i = 0; i < size; ++i) {
      const Message& item = reflection.GetRepeatedMessage(message, &field, i);
      Indent(indent);
      if (IsEmpty(item)) {
        out_ += "- {}\n";
        continue;
      }
      const size_t start = out_.size();
      Fields(item, indent + 1);
      // The first field stands on the dash's own line.
      const size_t spaces = 2 * static_cast<size_t>(indent);
      out_[start + spaces] = '-';
      out_.erase(start, spaces);
    }
  }

  void Map(const Message& message, const FieldDescriptor& field, int indent) {
    const Reflection& reflection = *message.GetReflection();
    const FieldDescriptor& key = *field.message_type()->map_key();
    const FieldDescriptor& value = *field.message_type()->map_value();
    std::vector<const Message*> entries;
    entries.reserve(static_cast<size_t>(reflection.FieldSize(message, &field)));
    for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
      entries.push_back(&reflection.GetRepeatedMessage(message, &field, i));
    }
    std::sort(entries.begin(), entries.end(), [&](const Message* a, const Message* b) {
      return Scalar(*a, key, -1) < Scalar(*b, key, -1);
    });
    out_ += "\n";
    for (const Message* entry : entries) {
      Indent(indent + 1);
      absl::StrAppend(&out_, Scalar(*entry, key, -1), ":");
      if (value.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        Nested(entry->GetReflection()->GetMessage(*entry, &value), indent + 2);
      } else {
        absl::StrAppend(&out_, " ", Scalar(*entry, value, -1), "\n");
      }
    }
  }

  // index < 0: the field is singular.
  static std::string Scalar(const Message& message, const FieldDescriptor& field, int index) {
    const Reflection& r = *message.GetReflection();
    const FieldDescriptor* f = &field;
    const bool one = index < 0;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return absl::StrCat(one ? r.GetInt32(message, f) : r.GetRepeatedInt32(message, f, index));
      case FieldDescriptor::CPPTYPE_INT64:
        return absl::StrCat(one ? r.GetInt64(message, f) : r.GetRepeatedInt64(message, f, index));
      case FieldDescriptor::CPPTYPE_UINT32:
        return absl::StrCat(one ? r.GetUInt32(message, f) : r.GetRepeatedUInt32(message, f, index));
      case FieldDescriptor::CPPTYPE_UINT64:
        return absl::StrCat(one ? r.GetUInt64(message, f) : r.GetRepeatedUInt64(message, f, index));
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return Shortest(one ? r.GetDouble(message, f) : r.GetRepeatedDouble(message, f, index));
      case FieldDescriptor::CPPTYPE_FLOAT:
        return Shortest(one ? r.GetFloat(message, f) : r.GetRepeatedFloat(message, f, index));
      case FieldDescriptor::CPPTYPE_BOOL:
        return (one ? r.GetBool(message, f) : r.GetRepeatedBool(message, f, index)) ? "true"
                                                                                    : "false";
      case FieldDescriptor::CPPTYPE_ENUM: {
        const auto* value = one ? r.GetEnum(message, f) : r.GetRepeatedEnum(message, f, index);
        const std::string prefix = EnumPrefix(*value->type());
        return absl::AsciiStrToLower(absl::StripPrefix(value->name(), prefix));
      }
      case FieldDescriptor::CPPTYPE_STRING:
        return YamlText(one ? r.GetString(message, f) : r.GetRepeatedString(message, f, index));
      case FieldDescriptor::CPPTYPE_MESSAGE:
        break;
    }
    return "";
  }

  std::string out_;
};

}  // namespace

std::string ToYaml(const Message& message) {
  Writer writer;
  writer.Fields(message, 0);
  std::string text = writer.Take();
  return text.empty() ? "{}\n" : text;
}

}  // namespace fathom
