// What a kernel does when its caller breaks the contract: says which op and which shapes, and
// aborts.
//
// Standard library only, like everything under kernels/. A wrong shape is a programming error,
// never bad input, so there is no status to return.
#ifndef FATHOM_KERNELS_CHECK_H_
#define FATHOM_KERNELS_CHECK_H_

#include <cstdint>
#include <string_view>

#include "kernels/ops.h"

namespace fathom::kernels {

// Prints "<op>: <what>" to stderr and aborts.
[[noreturn]] void Fail(std::string_view op, std::string_view what);

inline void Check(bool holds, std::string_view op, std::string_view what) {
  if (!holds) [[unlikely]] {
    Fail(op, what);
  }
}

// Aborts unless m is [rows, cols] with a stride that holds a row; m's name goes into the message.
void CheckShape(std::string_view op, std::string_view name, const Matrix& m, int64_t rows,
                int64_t cols);

// Aborts unless b has a's shape.
inline void CheckSameShape(std::string_view op, const Matrix& a, std::string_view name,
                           const Matrix& b) {
  CheckShape(op, name, b, a.rows, a.cols);
}

// Aborts unless 0 <= index < bound.
void CheckIndex(std::string_view op, std::string_view name, int64_t index, int64_t bound);

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CHECK_H_
