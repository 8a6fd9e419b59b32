// Attention by blocks of 64 query rows of one head: what a block may look at is a whole row of
// keys, so the softmax is exact and not a running one. Everything right of the block's own tile is
// never computed; inside that tile the causal mask applies.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/cpu/vector_math.h"

namespace fathom::kernels {
namespace {

constexpr int64_t kBlockRows = 64;

// FP32 elements and the distance of their rows.
struct Floats {
  float* data = nullptr;
  int64_t stride = 0;

  float* At(int64_t row, int64_t col) const { return data + row * stride + col; }
};

// c = op(a) op(b) on sub-matrices that start where the pointers point.
void Multiply(int64_t m, int64_t n, int64_t k, const Floats& a, bool transpose_a, const Floats& b,
              bool transpose_b, const Floats& c, bool accumulate) {
  RawSgemm({.m = m,
            .n = n,
            .k = k,
            .a = a.data,
            .a_stride = a.stride,
            .transpose_a = transpose_a,
            .b = b.data,
            .b_stride = b.stride,
            .transpose_b = transpose_b,
            .c = c.data,
            .c_stride = c.stride,
            .accumulate = accumulate});
}

// One head of one sequence, all in FP32; rows count from the sequence's first token.
struct Head {
  int64_t length = 0;
  int64_t qk_dim = 0;
  int64_t v_dim = 0;
  float scale = 0;
  Floats q, k, v, out;
};

// Rows [row, row + rows) of a head see keys [0, row + r].
struct Block {
  int64_t row = 0;
  int64_t rows = 0;
  int64_t keys() const { return row + rows; }
};

template <typename F>
void ForEachBlock(int64_t length, F f) {
  for (int64_t row = 0; row < length; row += kBlockRows) {
    f(Block{.row = row, .rows = std::min(kBlockRows, length - row)});
  }
}

Floats From(const Floats& x, int64_t row) { return {.data = x.At(row, 0), .stride = x.stride}; }

// Turns row r of raw products into probabilities; returns the log of the sum of exponentials.
float Softmax(const Block& block, int64_t r, float scale, float* p) {
  const int64_t seen = block.row + r + 1;
#pragma GCC ivdep
  for (int64_t j = 0; j < seen; ++j) {
    p[j] *= scale;
  }
  const float largest =
      MaxOf(seen, -std::numeric_limits<float>::infinity(), [p](int64_t j) { return p[j]; });
#pragma GCC ivdep
  for (int64_t j = 0; j < seen; ++j) {
    p[j] = Exp(p[j] - largest);
  }
  const float sum = SumOf<float>(seen, [p](int64_t j) { return p[j]; });
  const float factor = 1.0f / sum;
#pragma GCC ivdep
  for (int64_t j = 0; j < seen; ++j) {
    p[j] *= factor;
  }
  std::fill(p + seen, p + block.keys(), 0.0f);
  return largest + std::log(sum);
}

// p holds raw products and becomes probabilities; dp becomes the gradient of the raw products.
void SoftmaxBackward(const Block& block, int64_t r, float scale, float lse, float dout_out,
                     float* p, float* dp) {
  const int64_t seen = block.row + r + 1;
#pragma GCC ivdep
  for (int64_t j = 0; j < seen; ++j) {
    p[j] = Exp(p[j] * scale - lse);
    dp[j] = p[j] * (dp[j] - dout_out) * scale;
  }
  std::fill(p + seen, p + block.keys(), 0.0f);
  std::fill(dp + seen, dp + block.keys(), 0.0f);
}

// The head's rows of m, in place when they are FP32, else converted into *buffer, which moves on.
Floats ReadHead(const Matrix& m, int64_t first, int64_t length, int64_t col, int64_t dim,
                float** buffer) {
  if (m.dtype == DType::kF32) {
    return {.data = static_cast<float*>(RowData(m, first)) + col, .stride = m.stride};
  }
  const Floats out = {.data = *buffer, .stride = dim};
  *buffer += length * dim;
  for (int64_t t = 0; t < length; ++t) {
    ReadRow(m, first + t, col, dim, out.At(t, 0));
  }
  return out;
}

// Where a head's result goes, zeroed.
Floats ZeroHead(const Matrix& m, int64_t first, int64_t length, int64_t col, int64_t dim,
                float** buffer) {
  Floats out = {.data = *buffer, .stride = dim};
  if (m.dtype == DType::kF32) {
    out = {.data = static_cast<float*>(RowData(m, first)) + col, .stride = m.stride};
  } else {
    *buffer += length * dim;
  }
  for (int64_t t = 0; t < length; ++t) {
    std::fill_n(out.At(t, 0), dim, 0.0f);
  }
  return out;
}

void StoreHead(const Matrix& m, int64_t first, int64_t length, int64_t col, int64_t dim,
               const Floats& from) {
  for (int64_t t = 0; t < length; ++t) {
    StoreRow(m, first + t, col, dim, from.At(t, 0));
  }
}

struct Gradients {
  Floats dout, dq, dk, dv;
};

void ForwardHead(const Head& head, const Matrix& lse, int64_t first, int64_t h, float* scores) {
  ForEachBlock(head.length, [&](const Block& block) {
    const Floats p = {.data = scores, .stride = block.keys()};
    Multiply(block.rows, block.keys(), head.qk_dim, From(head.q, block.row), false, head.k, true, p,
             false);
    for (int64_t r = 0; r < block.rows; ++r) {
      const float value = Softmax(block, r, head.scale, p.At(r, 0));
      *(static_cast<float*>(RowData(lse, first + block.row + r)) + h) = value;
    }
    Multiply(block.rows, head.v_dim, block.keys(), p, false, head.v, false,
             From(head.out, block.row), false);
  });
}

void BackwardHead(const Head& head, const Gradients& gradients, const Matrix& lse, int64_t first,
                  int64_t h, float* scores) {
  ForEachBlock(head.length, [&](const Block& block) {
    const Floats p = {.data = scores, .stride = block.keys()};
    const Floats dp = {.data = scores + block.rows * block.keys(), .stride = block.keys()};
    const Floats q = From(head.q, block.row);
    const Floats out = From(head.out, block.row);
    const Floats dout = From(gradients.dout, block.row);
    Multiply(block.rows, block.keys(), head.qk_dim, q, false, head.k, true, p, false);
    Multiply(block.rows, block.keys(), head.v_dim, dout, false, head.v, true, dp, false);
    for (int64_t r = 0; r < block.rows; ++r) {
      const float* x = dout.At(r, 0);
      const float* y = out.At(r, 0);
      const float dout_out = SumOf<float>(head.v_dim, [x, y](int64_t i) { return x[i] * y[i]; });
      const float row_lse = static_cast<const float*>(RowData(lse, first + block.row + r))[h];
      SoftmaxBackward(block, r, head.scale, row_lse, dout_out, p.At(r, 0), dp.At(r, 0));
    }
    Multiply(block.keys(), head.v_dim, block.rows, p, true, dout, false, gradients.dv, true);
    Multiply(block.keys(), head.qk_dim, block.rows, dp, true, q, false, gradients.dk, true);
    Multiply(block.rows, head.qk_dim, block.keys(), dp, false, head.k, false,
             From(gradients.dq, block.row), false);
  });
}

}  // namespace

void CpuOps::AttentionForward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                              const Matrix& v, const Matrix& out, const Matrix& lse) {
  CheckAttention(shape, q, k, v, out, lse);
  if (AnyF64({&q, &k, &v, &out, &lse})) {
    ReferenceOps::AttentionForward(shape, q, k, v, out, lse);
    return;
  }
  const int64_t length = shape.sequence_length;
  const int64_t scores_size = kBlockRows * length;
  float* scores = Scratch(scores_size + 2 * length * (shape.qk_head_dim + shape.v_head_dim));
  for (int64_t first = 0; first < q.rows; first += length) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t qk_col = h * shape.qk_head_dim;
      const int64_t v_col = h * shape.v_head_dim;
      float* buffer = scores + scores_size;
      const Head head = {.length = length,
                         .qk_dim = shape.qk_head_dim,
                         .v_dim = shape.v_head_dim,
                         .scale = static_cast<float>(shape.softmax_scale),
                         .q = ReadHead(q, first, length, qk_col, shape.qk_head_dim, &buffer),
                         .k = ReadHead(k, first, length, qk_col, shape.qk_head_dim, &buffer),
                         .v = ReadHead(v, first, length, v_col, shape.v_head_dim, &buffer),
                         .out = ZeroHead(out, first, length, v_col, shape.v_head_dim, &buffer)};
      ForwardHead(head, lse, first, h, scores);
      StoreHead(out, first, length, v_col, shape.v_head_dim, head.out);
    }
  }
}

void CpuOps::AttentionBackward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                               const Matrix& v, const Matrix& out, const Matrix& lse,
                               const Matrix& dout, const Matrix& dq, const Matrix& dk,
                               const Matrix& dv) {
  CheckAttention(shape, q, k, v, out, lse);
  CheckAttention(shape, dq, dk, dv, dout, lse);
  if (AnyF64({&q, &k, &v, &out, &lse, &dout, &dq, &dk, &dv})) {
    ReferenceOps::AttentionBackward(shape, q, k, v, out, lse, dout, dq, dk, dv);
    return;
  }
  const int64_t length = shape.sequence_length;
  const int64_t qk_dim = shape.qk_head_dim;
  const int64_t v_dim = shape.v_head_dim;
  const int64_t scores_size = 2 * kBlockRows * length;
  float* scores = Scratch(scores_size + 4 * length * (qk_dim + v_dim));
  for (int64_t first = 0; first < q.rows; first += length) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      float* buffer = scores + scores_size;
      const Head head = {.length = length,
                         .qk_dim = qk_dim,
                         .v_dim = v_dim,
                         .scale = static_cast<float>(shape.softmax_scale),
                         .q = ReadHead(q, first, length, h * qk_dim, qk_dim, &buffer),
                         .k = ReadHead(k, first, length, h * qk_dim, qk_dim, &buffer),
                         .v = ReadHead(v, first, length, h * v_dim, v_dim, &buffer),
                         .out = ReadHead(out, first, length, h * v_dim, v_dim, &buffer)};
      const Gradients gradients = {.dout = ReadHead(dout, first, length, h * v_dim, v_dim, &buffer),
                                   .dq = ZeroHead(dq, first, length, h * qk_dim, qk_dim, &buffer),
                                   .dk = ZeroHead(dk, first, length, h * qk_dim, qk_dim, &buffer),
                                   .dv = ZeroHead(dv, first, length, h * v_dim, v_dim, &buffer)};
      BackwardHead(head, gradients, lse, first, h, scores);
      StoreHead(dq, first, length, h * qk_dim, qk_dim, gradients.dq);
      StoreHead(dk, first, length, h * qk_dim, qk_dim, gradients.dk);
      StoreHead(dv, first, length, h * v_dim, v_dim, gradients.dv);
    }
  }
}

}  // namespace fathom::kernels
