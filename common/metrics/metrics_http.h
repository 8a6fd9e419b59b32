// A small HTTP server for a daemon: /metrics for Prometheus, /healthz, and what its owner adds.
//
// Requests are answered on a few threads of its own; handlers must be safe to call from them.
// Bodies, times and threads are bounded (limits.h). Plain HTTP: keep it on loopback unless the
// network is trusted.
#ifndef FATHOM_COMMON_METRICS_METRICS_HTTP_H_
#define FATHOM_COMMON_METRICS_METRICS_HTTP_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/metrics/metric_registry.h"

namespace fathom {

struct HttpRequest {
  std::string method;                        // "GET" or "POST"
  std::string path;                          // decoded, without the query
  std::vector<std::string> captures;         // of the handler's regular expression
  std::map<std::string, std::string> query;  // of a repeated key, the first value
  std::string body;
};

struct HttpReply {
  int status = 200;
  std::string body;
  std::string content_type = "text/plain; charset=utf-8";
  std::map<std::string, std::string> headers = {};  // further ones
};

class MetricsHttp {
 public:
  using Handler = std::function<HttpReply(const HttpRequest&)>;
  // Called just before the metrics are written, to set those that are only known then.
  using Refresh = std::function<void()>;

  // `registry` must outlive this.
  explicit MetricsHttp(MetricRegistry* registry, Refresh refresh = nullptr);
  ~MetricsHttp();  // stops

  // GET and POST of paths that match the whole of `path_regex` (ECMAScript). Before Start only.
  void Handle(const std::string& path_regex, Handler handler);

  // Listens on "host:port"; port 0 takes any free one. INVALID_ARGUMENT: not such an address.
  // UNAVAILABLE: it can't listen there, as when another program does.
  absl::Status Start(const std::string& address);

  // "host:port" as bound; after Start.
  const std::string& address() const { return address_; }

  // Waits for requests in progress. May be called twice.
  void Stop();

 private:
  struct Server;
  std::unique_ptr<Server> server_;
  std::string address_;
};

}  // namespace fathom

#endif  // FATHOM_COMMON_METRICS_METRICS_HTTP_H_
