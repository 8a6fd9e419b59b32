// What a command has to say, as data: null, bool, number, text, list, object with ordered keys.
// Every output format is printed from it, so that all of them say the same.
#ifndef FATHOM_CLI_VALUE_H_
#define FATHOM_CLI_VALUE_H_

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace google::protobuf {
class Message;
}

namespace fathom::cli {

class Value {
 public:
  enum class Kind : uint8_t { kNull, kBool, kInteger, kReal, kText, kList, kObject };

  Value() = default;
  Value(bool truth) : kind_(Kind::kBool), integer_(truth ? 1 : 0) {}
  template <std::integral T>
  Value(T integer) : kind_(Kind::kInteger), integer_(static_cast<int64_t>(integer)) {}
  Value(double real) : kind_(Kind::kReal), real_(real) {}
  Value(std::string text) : kind_(Kind::kText), text_(std::move(text)) {}
  Value(const char* text) : kind_(Kind::kText), text_(text) {}

  static Value List();
  static Value Object();

  // Of an object; the keys keep their order. Returns the object, for chaining.
  Value& Set(std::string key, Value value);
  // Of a list.
  Value& Add(Value value);

  Kind kind() const { return kind_; }
  bool truth() const { return integer_ != 0; }
  int64_t integer() const { return integer_; }
  double real() const { return real_; }
  const std::string& text() const { return text_; }
  // Of a list or an object; a list's keys are empty.
  const std::vector<std::pair<std::string, Value>>& members() const { return members_; }

 private:
  Kind kind_ = Kind::kNull;
  int64_t integer_ = 0;
  double real_ = 0;
  std::string text_;
  std::vector<std::pair<std::string, Value>> members_;
};

// Null for the empty text, for fields that may not be known yet.
Value TextOrNull(const std::string& text);

enum class Fields : uint8_t { kSet, kAll };

// A message's fields by their names; enums without their type's prefix. Of kAll, one that was not
// set has its default, or null where the message tells unset from default; not for types that hold
// themselves.
Value ValueOf(const google::protobuf::Message& message, Fields fields = Fields::kSet);

// Indented by two; numbers in the fewest digits that read back the same; what is no number is null.
std::string ToJson(const Value& value);
// The same in one line, without a line break at its end.
std::string ToJsonLine(const Value& value);
std::string ToYaml(const Value& value);
// For people: one "key:  value" per line, aligned, nested ones indented, lists of like objects in
// columns; nulls left out.
std::string ToText(const Value& value);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_VALUE_H_
