#include "cli/value.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "common/base/check.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

std::string Number(double real) {
  if (!std::isfinite(real)) return "null";
  std::array<char, 32> digits;
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), real).ptr;
  return {digits.data(), end};
}

std::string QuotedJson(const std::string& raw) {
  const std::string text = IsValidUtf8(raw) ? raw : CutText(raw, raw.size());
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted.push_back('\\');
      quoted.push_back(c);
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppendFormat(&quoted, "\\u%04x", byte);
    } else {
      quoted.push_back(c);
    }
  }
  return quoted + "\"";
}

// Text that every YAML reader takes for text as it stands.
bool IsPlainYaml(const std::string& text) {
  static constexpr std::array<const char*, 9> kWords = {"null", "true", "false", "yes", "no",
                                                        "on",   "off",  "y",     "n"};
  if (text.empty() || !absl::ascii_isalpha(static_cast<unsigned char>(text.front()))) return false;
  const std::string lower = absl::AsciiStrToLower(text);
  if (std::find(kWords.begin(), kWords.end(), lower) != kWords.end()) return false;
  if (lower.starts_with("inf") || lower.starts_with("nan")) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' ||
           c == '/';
  });
}

std::string Scalar(const Value& value, std::string (*text)(const std::string&)) {
  switch (value.kind()) {
    case Value::Kind::kBool:
      return value.truth() ? "true" : "false";
    case Value::Kind::kInteger:
      return absl::StrCat(value.integer());
    case Value::Kind::kReal:
      return Number(value.real());
    case Value::Kind::kText:
      return text(value.text());
    default:
      return "null";
  }
}

bool IsNested(const Value& value) {
  return value.kind() == Value::Kind::kList || value.kind() == Value::Kind::kObject;
}

// Below 0 `indent` means one line.
void AppendJson(const Value& value, int indent, std::string& out) {
  if (!IsNested(value)) {
    out += Scalar(value, QuotedJson);
    return;
  }
  const bool list = value.kind() == Value::Kind::kList;
  const bool line = indent < 0;
  const std::string margin = line ? "" : "\n" + std::string(static_cast<size_t>(indent), ' ');
  out.push_back(list ? '[' : '{');
  bool first = true;
  for (const auto& [key, member] : value.members()) {
    absl::StrAppend(&out, first ? "" : line ? ", " : ",", margin, line ? "" : "  ");
    if (!list) absl::StrAppend(&out, QuotedJson(key), ": ");
    AppendJson(member, line ? indent : indent + 2, out);
    first = false;
  }
  if (!first) out += margin;
  out.push_back(list ? ']' : '}');
}

std::string YamlText(const std::string& text) {
  return IsPlainYaml(text) ? text : QuotedJson(text);
}

void AppendYaml(const Value& value, int indent, std::string& out) {
  const bool list = value.kind() == Value::Kind::kList;
  bool first = true;
  for (const auto& [key, member] : value.members()) {
    // The first key of a list's object stands on the line of its dash.
    if (!first || !out.ends_with("- ")) out.append(static_cast<size_t>(indent), ' ');
    first = false;
    absl::StrAppend(&out, list ? "-" : YamlText(key) + ":");
    if (!IsNested(member)) {
      absl::StrAppend(&out, " ", Scalar(member, YamlText), "\n");
    } else if (member.members().empty()) {
      absl::StrAppend(&out, member.kind() == Value::Kind::kList ? " []\n" : " {}\n");
    } else if (list) {
      out.push_back(' ');
      AppendYaml(member, indent + 2, out);
    } else {
      out.push_back('\n');
      AppendYaml(member, indent + 2, out);
    }
  }
}

// Control characters could move a terminal's cursor: none goes out.
std::string PrintableText(const std::string& raw) {
  std::string text = IsValidUtf8(raw) ? raw : CutText(raw, raw.size());
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\n') c = '?';
  }
  return text;
}

bool IsShown(const Value& value) {
  if (value.kind() == Value::Kind::kNull) return false;
  if (value.kind() == Value::Kind::kText) return !value.text().empty();
  return !IsNested(value) || !value.members().empty();
}

std::string CellText(const Value& value);

// "key value  key value" of an object, "value  value" of a list.
std::string Inline(const Value& value) {
  std::string line;
  for (const auto& [key, member] : value.members()) {
    if (!IsShown(member)) continue;
    absl::StrAppend(&line, line.empty() ? "" : "  ", key, key.empty() ? "" : " ", CellText(member));
  }
  return line;
}

std::string CellText(const Value& value) {
  if (!IsShown(value)) return "-";
  if (IsNested(value)) return absl::StrCat("[", Inline(value), "]");
  // A cell is one line, whatever its text holds.
  return absl::StrReplaceAll(Scalar(value, PrintableText), {{"\n", " | "}});
}

std::string Padded(const std::string& text, size_t width) {
  return text.size() < width ? text + std::string(width - text.size(), ' ') : text;
}

// A list of objects of the same keys: one line each, in columns; those without any value left out.
void AppendColumns(const Value& list, const std::string& margin, std::string& out) {
  const auto& keys = list.members().front().second.members();
  std::vector<std::vector<std::string>> lines(list.members().size() + 1);
  for (size_t column = 0; column < keys.size(); ++column) {
    std::vector<std::string> cells = {keys[column].first};
    bool shown = false;
    for (const auto& [unused, item] : list.members()) {
      shown = shown || IsShown(item.members()[column].second);
      cells.push_back(CellText(item.members()[column].second));
    }
    if (!shown) continue;
    size_t width = 0;
    for (const std::string& cell : cells) width = std::max(width, cell.size());
    for (size_t line = 0; line < lines.size(); ++line) {
      lines[line].push_back(Padded(cells[line], width));
    }
  }
  for (const auto& line : lines) {
    const std::string text = absl::StrCat(margin, absl::StrJoin(line, "  "));
    absl::StrAppend(&out, absl::StripTrailingAsciiWhitespace(text), "\n");
  }
}

bool HasColumns(const Value& list) {
  if (list.members().size() < 2) return false;
  const auto& first = list.members().front().second;
  return first.kind() == Value::Kind::kObject &&
         std::all_of(list.members().begin(), list.members().end(), [&](const auto& item) {
           const auto& members = item.second.members();
           return item.second.kind() == Value::Kind::kObject &&
                  std::equal(members.begin(), members.end(), first.members().begin(),
                             first.members().end(),
                             [](const auto& a, const auto& b) { return a.first == b.first; });
         });
}

void AppendText(const Value& value, int indent, std::string& out) {
  size_t width = 0;
  for (const auto& [key, member] : value.members()) {
    if (IsShown(member) && !IsNested(member)) width = std::max(width, key.size() + 1);
  }
  const std::string margin(static_cast<size_t>(indent), ' ');
  for (const auto& [key, member] : value.members()) {
    if (!IsShown(member)) continue;
    absl::StrAppend(&out, margin, IsNested(member) ? key + ":" : Padded(key + ":", width));
    if (!IsNested(member)) {
      absl::StrAppend(&out, " ", Scalar(member, PrintableText), "\n");
      continue;
    }
    out.push_back('\n');
    if (member.kind() == Value::Kind::kObject) {
      AppendText(member, indent + 2, out);
    } else if (HasColumns(member)) {
      AppendColumns(member, margin + "  ", out);
    } else {
      for (const auto& [unused, item] : member.members()) {
        absl::StrAppend(&out, margin, "  ", IsNested(item) ? Inline(item) : CellText(item), "\n");
      }
    }
  }
}

// JobState's JOB_STATE_RUNNING -> RUNNING.
std::string EnumText(const google::protobuf::EnumValueDescriptor& value) {
  std::string prefix;
  for (const char c : value.type()->name()) {
    if (absl::ascii_isupper(static_cast<unsigned char>(c)) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(static_cast<unsigned char>(c));
  }
  prefix += '_';
  return value.name().starts_with(prefix) ? value.name().substr(prefix.size()) : value.name();
}

// A singular field (index < 0), or one element of a repeated one.
Value FieldValue(const Message& message, const FieldDescriptor& field, int index, Fields fields) {
  const Reflection& reflection = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? reflection.GetBool(message, &field)
                 : reflection.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? reflection.GetInt32(message, &field)
                 : reflection.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? reflection.GetInt64(message, &field)
                 : reflection.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? reflection.GetUInt32(message, &field)
                 : reflection.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? reflection.GetUInt64(message, &field)
                 : reflection.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? reflection.GetDouble(message, &field)
                 : reflection.GetRepeatedDouble(message, &field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return static_cast<double>(one ? reflection.GetFloat(message, &field)
                                     : reflection.GetRepeatedFloat(message, &field, index));
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? reflection.GetString(message, &field)
                 : reflection.GetRepeatedString(message, &field, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumText(*(one ? reflection.GetEnum(message, &field)
                            : reflection.GetRepeatedEnum(message, &field, index)));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ValueOf(one ? reflection.GetMessage(message, &field)
                         : reflection.GetRepeatedMessage(message, &field, index),
                     fields);
  }
  return Value();
}

// In the order of their numbers, and of kAll in that of the proto file.
std::vector<const FieldDescriptor*> FieldsOf(const Message& message, Fields fields) {
  std::vector<const FieldDescriptor*> chosen;
  if (fields == Fields::kSet) {
    message.GetReflection()->ListFields(message, &chosen);
    return chosen;
  }
  const auto& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) chosen.push_back(type.field(i));
  return chosen;
}

}  // namespace

Value Value::List() {
  Value value;
  value.kind_ = Kind::kList;
  return value;
}

Value Value::Object() {
  Value value;
  value.kind_ = Kind::kObject;
  return value;
}

Value& Value::Set(std::string key, Value value) {
  FATHOM_CHECK(kind_ == Kind::kObject) << key;
  members_.emplace_back(std::move(key), std::move(value));
  return *this;
}

Value& Value::Add(Value value) {
  FATHOM_CHECK(kind_ == Kind::kList) << "not a list";
  members_.emplace_back("", std::move(value));
  return *this;
}

Value TextOrNull(const std::string& text) { return text.empty() ? Value() : Value(text); }

Value ValueOf(const Message& message, Fields fields) {
  Value object = Value::Object();
  const Reflection& reflection = *message.GetReflection();
  for (const FieldDescriptor* field : FieldsOf(message, fields)) {
    if (field->is_map()) {
      Value entries = Value::Object();
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        const Message& entry = reflection.GetRepeatedMessage(message, field, i);
        const auto* type = entry.GetDescriptor();
        const Value key = FieldValue(entry, *type->map_key(), -1, fields);
        entries.Set(Scalar(key, PrintableText), FieldValue(entry, *type->map_value(), -1, fields));
      }
      object.Set(field->name(), std::move(entries));
    } else if (field->is_repeated()) {
      Value list = Value::List();
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        list.Add(FieldValue(message, *field, i, fields));
      }
      object.Set(field->name(), std::move(list));
    } else if (field->has_presence() && field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE &&
               !reflection.HasField(message, field)) {
      object.Set(field->name(), Value());
    } else {
      object.Set(field->name(), FieldValue(message, *field, -1, fields));
    }
  }
  return object;
}

std::string ToJson(const Value& value) {
  std::string out;
  AppendJson(value, 0, out);
  return out + "\n";
}

std::string ToJsonLine(const Value& value) {
  std::string out;
  AppendJson(value, -1, out);
  return out;
}

std::string ToYaml(const Value& value) {
  if (!IsNested(value)) return Scalar(value, YamlText) + "\n";
  if (value.members().empty()) return value.kind() == Value::Kind::kList ? "[]\n" : "{}\n";
  std::string out;
  AppendYaml(value, 0, out);
  return out;
}

std::string ToText(const Value& value) {
  if (!IsNested(value)) return Scalar(value, PrintableText) + "\n";
  std::string out;
  AppendText(value, 0, out);
  return out;
}

}  // namespace fathom::cli
