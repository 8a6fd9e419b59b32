#include "kernels/check.h"

#include <cstdio>
#include <cstdlib>
#include <string>

namespace fathom::kernels {
namespace {

std::string ShapeText(int64_t rows, int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

}  // namespace

void Fail(std::string_view op, std::string_view what) {
  std::fprintf(stderr, "kernels: %.*s: %.*s\n", static_cast<int>(op.size()), op.data(),
               static_cast<int>(what.size()), what.data());
  std::abort();
}

void CheckShape(std::string_view op, std::string_view name, const Matrix& m, int64_t rows,
                int64_t cols) {
  if (m.rows == rows && m.cols == cols && m.rows >= 0 && m.cols >= 0 && m.stride >= m.cols &&
      (m.data != nullptr || m.rows == 0 || m.cols == 0)) [[likely]] {
    return;
  }
  Fail(op, std::string(name) + " is " + ShapeText(m.rows, m.cols) + " with stride " +
               std::to_string(m.stride) + (m.data == nullptr ? " and no data" : "") + ", want " +
               ShapeText(rows, cols));
}

void CheckIndex(std::string_view op, std::string_view name, int64_t index, int64_t bound) {
  if (index >= 0 && index < bound) [[likely]] {
    return;
  }
  Fail(op, std::string(name) + " " + std::to_string(index) + " is outside [0, " +
               std::to_string(bound) + ")");
}

}  // namespace fathom::kernels
