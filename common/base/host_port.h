// "host:port" as people write it: parsed, and told whether only this machine can reach it.
#ifndef FATHOM_COMMON_BASE_HOST_PORT_H_
#define FATHOM_COMMON_BASE_HOST_PORT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace fathom {

struct HostPort {
  std::string host;  // without brackets
  int port = 0;      // 0 .. 65535; 0 asks for any free one
};

// "127.0.0.1:7070", "localhost:0", "[::1]:7070". INVALID_ARGUMENT otherwise, quoting the text.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// With brackets around an IPv6 host.
std::string ToString(const HostPort& address);

// True for "localhost", 127.0.0.0/8 and ::1. Other names are not looked up, and count as false.
bool IsLoopback(absl::string_view host);

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_HOST_PORT_H_
