#include "common/metrics/metrics_http.h"

#include <httplib.h>
#include <sys/socket.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom {

struct MetricsHttp::Server {
  httplib::Server http;
  std::thread thread;
};

namespace {

httplib::Server::Handler Adapt(MetricsHttp::Handler handler) {
  return
      [handler = std::move(handler)](const httplib::Request& request, httplib::Response& response) {
        HttpRequest own{request.method, request.path, {}, {}, request.body};
        for (size_t i = 1; i < request.matches.size(); ++i)
          own.captures.push_back(request.matches[i]);
        for (const auto& [key, value] : request.params) own.query.emplace(key, value);
        HttpReply reply = handler(own);
        response.status = reply.status;
        for (const auto& [name, value] : reply.headers) response.set_header(name, value);
        response.set_content(reply.body, reply.content_type.c_str());
      };
}

}  // namespace

MetricsHttp::MetricsHttp(MetricRegistry* registry, Refresh refresh)
    : server_(std::make_unique<Server>()) {
  httplib::Server& http = server_->http;
  http.set_payload_max_length(limits::kMaxHttpBodyBytes);
  http.set_read_timeout(std::chrono::milliseconds(limits::kHttpTimeoutMs));
  http.set_write_timeout(std::chrono::milliseconds(limits::kHttpTimeoutMs));
  // An idle kept-alive connection would hold a thread, and Stop.
  http.set_keep_alive_max_count(1);
  http.new_task_queue = [] { return new httplib::ThreadPool(limits::kMaxHttpThreads); };
  // The library's default, SO_REUSEPORT, would let two daemons share a port unnoticed.
  http.set_socket_options([](socket_t socket) {
    int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  Handle("/healthz", [](const HttpRequest&) { return HttpReply{200, "ok\n"}; });
  Handle("/metrics", [registry, refresh = std::move(refresh)](const HttpRequest&) {
    if (refresh) refresh();
    return HttpReply{200, registry->Text(), "text/plain; version=0.0.4; charset=utf-8"};
  });
}

MetricsHttp::~MetricsHttp() { Stop(); }

void MetricsHttp::Handle(const std::string& path_regex, Handler handler) {
  FATHOM_CHECK(!server_->thread.joinable()) << "Handle after Start: " << path_regex;
  httplib::Server::Handler adapted = Adapt(std::move(handler));
  server_->http.Get(path_regex, adapted);
  server_->http.Post(path_regex, adapted);
}

absl::Status MetricsHttp::Start(const std::string& address) {
  FATHOM_CHECK(!server_->thread.joinable()) << "started twice";
  FATHOM_ASSIGN_OR_RETURN(HostPort wanted, ParseHostPort(address));
  httplib::Server& http = server_->http;
  bool bound = true;
  if (wanted.port == 0) {
    wanted.port = http.bind_to_any_port(wanted.host);
    bound = wanted.port > 0;
  } else {
    bound = http.bind_to_port(wanted.host, wanted.port);
  }
  if (!bound) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", address,
        " (metrics): another program may listen there, or the host is "
        "not one of this machine's; choose another address, or port 0 for any free one"));
  }
  address_ = ToString(wanted);
  server_->thread = std::thread([&http] { http.listen_after_bind(); });
  // Stop does nothing before the loop runs; it starts with its first instruction.
  while (!http.is_running()) std::this_thread::yield();
  return absl::OkStatus();
}

void MetricsHttp::Stop() {
  if (!server_->thread.joinable()) return;
  server_->http.stop();
  server_->thread.join();
}

}  // namespace fathom
