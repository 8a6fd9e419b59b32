#include "common/base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include "absl/strings/escaping.h"
#include "common/base/check.h"

namespace fathom {

struct Sha256::Context {
  Context() : evp(EVP_MD_CTX_new()) {
    FATHOM_CHECK(evp != nullptr) << "out of memory";
    Begin();
  }
  ~Context() { EVP_MD_CTX_free(evp); }
  void Begin() {
    FATHOM_CHECK(EVP_DigestInit_ex(evp, EVP_sha256(), nullptr) == 1) << "OpenSSL has no SHA-256";
  }
  EVP_MD_CTX* evp;
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::Update(const void* data, size_t bytes) {
  FATHOM_CHECK(EVP_DigestUpdate(context_->evp, data, bytes) == 1) << "SHA-256 of" << bytes;
}

std::string Sha256::HexDigest() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int bytes = 0;
  FATHOM_CHECK(EVP_DigestFinal_ex(context_->evp, digest, &bytes) == 1) << "SHA-256";
  context_->Begin();
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), bytes));
}

std::string Sha256Hex(absl::string_view data) {
  Sha256 hash;
  hash.Update(data);
  return hash.HexDigest();
}

uint64_t Xxh64(const void* data, size_t bytes, uint64_t seed) { return XXH64(data, bytes, seed); }

}  // namespace fathom
