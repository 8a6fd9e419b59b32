#include "coordinator/store/sqlite_log.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/hash.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

// "FTHM": tells the file from any other SQLite database.
constexpr int kApplicationId = 0x4654484D;
constexpr int kSchemaVersion = 1;

// The lock dies with the process, however it ends; the process id in the file is for people.
absl::StatusOr<int> LockFolder(const std::string& folder) {
  const std::string path = folder + "/coordinator.lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", path);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(fd);
    if (error != EWOULDBLOCK) return ErrnoStatus(error, "lock", path);
    std::string holder = ReadFile(path, 64).value_or("");
    holder = std::string(absl::StripSuffix(holder, "\n"));
    return absl::FailedPreconditionError(
        absl::StrCat("the state folder ", folder, " is in use by another coordinator",
                     holder.empty() ? "" : absl::StrCat(" (process ", holder, ")"),
                     "; stop it first, or choose another --state-directory"));
  }
  const std::string pid = absl::StrCat(::getpid(), "\n");
  const bool written = ::ftruncate(fd, 0) == 0 &&
                       ::pwrite(fd, pid.data(), pid.size(), 0) == static_cast<ssize_t>(pid.size());
  if (written) return fd;
  const absl::Status status = ErrnoStatus(errno, "write", path);
  ::close(fd);
  return status;
}

int64_t Checksum(absl::string_view record) { return static_cast<int64_t>(Xxh64(record)); }

}  // namespace

struct SqliteLog::Database {
  ~Database() {
    sqlite3_finalize(insert);
    sqlite3_close_v2(handle);
    if (lock_fd >= 0) ::close(lock_fd);
  }

  absl::Status Error(int code, absl::string_view attempt) const {
    const std::string text =
        absl::StrCat("state log ", path, ": cannot ", attempt, ": ",
                     handle == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle));
    switch (code & 0xFF) {
      case SQLITE_FULL:
        return absl::ResourceExhaustedError(absl::StrCat(text, "; free space on its file system"));
      case SQLITE_CORRUPT:
      case SQLITE_NOTADB:
        return absl::DataLossError(absl::StrCat(
            text,
            "; nothing in it was changed: restore it from a backup, or move it away to begin "
            "anew"));
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        return absl::FailedPreconditionError(
            absl::StrCat(text, "; close the program that has it open"));
      case SQLITE_READONLY:
      case SQLITE_CANTOPEN:
      case SQLITE_PERM:
        return absl::PermissionDeniedError(
            absl::StrCat(text, "; check the folder's owner and permissions"));
      default:
        return absl::UnavailableError(text);
    }
  }

  absl::Status Run(const std::string& sql, absl::string_view attempt) {
    const int code = sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : Error(code, attempt);
  }

  // The first column of the first row, as text.
  absl::StatusOr<std::string> Ask(const std::string& sql, absl::string_view attempt) {
    sqlite3_stmt* statement = nullptr;
    int code = sqlite3_prepare_v2(handle, sql.c_str(), -1, &statement, nullptr);
    const auto finalize = absl::MakeCleanup([&] { sqlite3_finalize(statement); });
    if (code != SQLITE_OK) return Error(code, attempt);
    code = sqlite3_step(statement);
    if (code != SQLITE_ROW) return Error(code, attempt);
    const unsigned char* text = sqlite3_column_text(statement, 0);
    return std::string(text == nullptr ? "" : reinterpret_cast<const char*>(text));
  }

  absl::Status Prepare(const Options& options);
  absl::Status CreateOrCheckSchema();

  std::string path;
  sqlite3* handle = nullptr;
  sqlite3_stmt* insert = nullptr;
  int lock_fd = -1;
  uint64_t last_sequence = 0;
};

absl::Status SqliteLog::Database::CreateOrCheckSchema() {
  FATHOM_ASSIGN_OR_RETURN(const std::string id, Ask("PRAGMA application_id", "read its kind"));
  FATHOM_ASSIGN_OR_RETURN(const std::string version,
                          Ask("PRAGMA user_version", "read its version"));
  FATHOM_ASSIGN_OR_RETURN(const std::string tables,
                          Ask("SELECT count(*) FROM sqlite_master", "read its schema"));
  if (id == "0" && version == "0" && tables == "0") {
    return Run(
        absl::StrCat("BEGIN;"
                     "CREATE TABLE records (sequence INTEGER PRIMARY KEY, record BLOB NOT NULL,"
                     " checksum INTEGER NOT NULL) STRICT;"
                     "PRAGMA application_id=",
                     kApplicationId, ";PRAGMA user_version=", kSchemaVersion, ";COMMIT"),
        "create its schema");
  }
  if (id != absl::StrCat(kApplicationId)) {
    return absl::FailedPreconditionError(
        absl::StrCat("state log ", path,
                     ": the file is a database of another program; choose another "
                     "--state-directory"));
  }
  if (version != absl::StrCat(kSchemaVersion)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "state log ", path, ": its schema is version ", version, ", this program knows ",
        kSchemaVersion, "; run the version of Fathom that wrote it"));
  }
  return absl::OkStatus();
}

absl::Status SqliteLog::Database::Prepare(const Options& options) {
  const int code =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  if (code != SQLITE_OK) return Error(code, "open it");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, 2000);
  FATHOM_ASSIGN_OR_RETURN(const std::string health, Ask("PRAGMA quick_check(1)", "check it"));
  if (health != "ok") {
    return absl::DataLossError(absl::StrCat(
        "state log ", path, " is damaged: ", health,
        "; nothing in it was changed: restore it from a backup, or move it away to begin anew"));
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string mode,
                          Ask("PRAGMA journal_mode=WAL", "set its journal"));
  if (mode != "wal") {
    return absl::FailedPreconditionError(
        absl::StrCat("state log ", path,
                     ": the file system does not support SQLite's WAL mode (it may be a "
                     "network file system); choose a --state-directory on a local disk"));
  }
  FATHOM_RETURN_IF_ERROR(Run("PRAGMA synchronous=FULL", "set its durability"));
  FATHOM_RETURN_IF_ERROR(CreateOrCheckSchema());
  if (options.max_pages > 0) {
    FATHOM_RETURN_IF_ERROR(
        Ask(absl::StrCat("PRAGMA max_page_count=", options.max_pages), "bound it").status());
  }
  const int prepared = sqlite3_prepare_v2(
      handle, "INSERT INTO records (sequence, record, checksum) VALUES (?, ?, ?)", -1, &insert,
      nullptr);
  if (prepared != SQLITE_OK) return Error(prepared, "prepare to write");
  FATHOM_ASSIGN_OR_RETURN(const std::string last,
                          Ask("SELECT coalesce(max(sequence), 0) FROM records", "read it"));
  last_sequence = std::stoull(last);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SqliteLog>> SqliteLog::Open(const std::string& folder,
                                                           const Options& options) {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  auto database = std::make_unique<Database>();
  database->path = folder + "/coordinator.db";
  FATHOM_ASSIGN_OR_RETURN(database->lock_fd, LockFolder(folder));
  FATHOM_RETURN_IF_ERROR(database->Prepare(options));
  // The new files' names must survive a power failure as their content does.
  FATHOM_RETURN_IF_ERROR(SyncDirectory(folder));
  return std::unique_ptr<SqliteLog>(new SqliteLog(std::move(database)));
}

SqliteLog::SqliteLog(std::unique_ptr<Database> database) : database_(std::move(database)) {}
SqliteLog::~SqliteLog() = default;

absl::Status SqliteLog::Append(const std::vector<v1::Record>& records) {
  if (records.empty()) return absl::OkStatus();
  Database& db = *database_;
  uint64_t expected = db.last_sequence;
  for (const v1::Record& record : records) {
    if (record.sequence() == ++expected) continue;
    return absl::InvalidArgumentError(absl::StrCat("state log ", db.path, ": record ",
                                                   record.sequence(), " given, but ", expected,
                                                   " is next"));
  }
  FATHOM_RETURN_IF_ERROR(db.Run("BEGIN IMMEDIATE", "begin to write"));
  auto rollback =
      absl::MakeCleanup([&] { sqlite3_exec(db.handle, "ROLLBACK", nullptr, nullptr, nullptr); });
  for (const v1::Record& record : records) {
    const std::string bytes = record.SerializeAsString();
    sqlite3_bind_int64(db.insert, 1, static_cast<int64_t>(record.sequence()));
    sqlite3_bind_blob64(db.insert, 2, bytes.data(), bytes.size(), SQLITE_STATIC);
    sqlite3_bind_int64(db.insert, 3, Checksum(bytes));
    const int code = sqlite3_step(db.insert);
    const absl::Status status = code == SQLITE_DONE ? absl::OkStatus() : db.Error(code, "write");
    sqlite3_reset(db.insert);
    sqlite3_clear_bindings(db.insert);
    FATHOM_RETURN_IF_ERROR(status);
  }
  FATHOM_RETURN_IF_ERROR(db.Run("COMMIT", "make records durable"));
  std::move(rollback).Cancel();
  db.last_sequence = expected;
  return absl::OkStatus();
}

absl::Status SqliteLog::Replay(const std::function<absl::Status(const v1::Record&)>& take) {
  Database& db = *database_;
  sqlite3_stmt* statement = nullptr;
  int code = sqlite3_prepare_v2(db.handle,
                                "SELECT sequence, record, checksum FROM records ORDER BY sequence",
                                -1, &statement, nullptr);
  const auto finalize = absl::MakeCleanup([&] { sqlite3_finalize(statement); });
  if (code != SQLITE_OK) return db.Error(code, "read it");
  uint64_t expected = 0;
  while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
    ++expected;
    const uint64_t sequence = static_cast<uint64_t>(sqlite3_column_int64(statement, 0));
    const char* data = static_cast<const char*>(sqlite3_column_blob(statement, 1));
    const absl::string_view bytes(data, static_cast<size_t>(sqlite3_column_bytes(statement, 1)));
    v1::Record record;
    const bool whole = sequence == expected &&
                       Checksum(bytes) == sqlite3_column_int64(statement, 2) &&
                       record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) &&
                       record.sequence() == sequence;
    if (!whole) {
      return absl::DataLossError(
          absl::StrCat("state log ", db.path, ": record ", expected,
                       " is missing or damaged; nothing in it was "
                       "changed: restore it from a backup, or move it away to begin anew"));
    }
    FATHOM_RETURN_IF_ERROR(WithContext(take(record), absl::StrCat("state log ", db.path)));
  }
  return code == SQLITE_DONE ? absl::OkStatus() : db.Error(code, "read it");
}

}  // namespace fathom
