#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

// x[row, col + 0..n) . y[other, col + 0..n)
double Dot(const Matrix& x, int64_t row, const Matrix& y, int64_t other, int64_t col, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += Get(x, row, col + i) * Get(y, other, col + i);
  }
  return sum;
}

// Element (r, c) += value, over FP64 sums of a matrix's shape.
class Sums {
 public:
  explicit Sums(const Matrix& shape) : cols_(shape.cols), sums_(shape.rows * shape.cols) {}

  double& operator()(int64_t r, int64_t c) { return sums_[r * cols_ + c]; }

  void Store(const Matrix& out) const {
    for (int64_t r = 0; r < out.rows; ++r) {
      for (int64_t c = 0; c < out.cols; ++c) {
        Set(out, r, c, sums_[r * cols_ + c]);
      }
    }
  }

 private:
  int64_t cols_;
  std::vector<double> sums_;
};

}  // namespace

void ReferenceOps::AttentionForward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                                    const Matrix& v, const Matrix& out, const Matrix& lse) {
  CheckAttention(shape, q, k, v, out, lse);
  std::vector<double> score_S(shape.sequence_length);
  for (int64_t i = 0; i < q.rows; ++i) {
    const int64_t first = i / shape.sequence_length * shape.sequence_length;
    for (int64_t h = 0; h < shape.heads; ++h) {
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t j = first; j <= i; ++j) {
        const double dot = Dot(q, i, k, j, h * shape.qk_head_dim, shape.qk_head_dim);
        score_S[j - first] = dot * shape.softmax_scale;
        largest = std::fmax(largest, score_S[j - first]);
      }
      double sum = 0;
      for (int64_t j = first; j <= i; ++j) {
        score_S[j - first] = std::exp(score_S[j - first] - largest);
        sum += score_S[j - first];
      }
      for (int64_t d = h * shape.v_head_dim; d < (h + 1) * shape.v_head_dim; ++d) {
        double mean = 0;
        for (int64_t j = first; j <= i; ++j) {
          mean += score_S[j - first] / sum * Get(v, j, d);
        }
        Set(out, i, d, mean);
      }
      Set(lse, i, h, largest + std::log(sum));
    }
  }
}

// With p = exp(score - lse) and dp = dout . v, the gradient of a score is p * (dp - dout . out).
void ReferenceOps::AttentionBackward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                                     const Matrix& v, const Matrix& out, const Matrix& lse,
                                     const Matrix& dout, const Matrix& dq, const Matrix& dk,
                                     const Matrix& dv) {
  CheckAttention(shape, q, k, v, out, lse);
  CheckAttention(shape, dq, dk, dv, dout, lse);
  Sums dq_sums(q);
  Sums dk_sums(k);
  Sums dv_sums(v);
  for (int64_t i = 0; i < q.rows; ++i) {
    const int64_t first = i / shape.sequence_length * shape.sequence_length;
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t qk_col = h * shape.qk_head_dim;
      const int64_t v_col = h * shape.v_head_dim;
      const double dout_out = Dot(dout, i, out, i, v_col, shape.v_head_dim);
      for (int64_t j = first; j <= i; ++j) {
        const double score = Dot(q, i, k, j, qk_col, shape.qk_head_dim) * shape.softmax_scale;
        const double p = std::exp(score - Get(lse, i, h));
        const double dp = Dot(dout, i, v, j, v_col, shape.v_head_dim);
        const double dscore = p * (dp - dout_out) * shape.softmax_scale;
        for (int64_t d = qk_col; d < qk_col + shape.qk_head_dim; ++d) {
          dq_sums(i, d) += dscore * Get(k, j, d);
          dk_sums(j, d) += dscore * Get(q, i, d);
        }
        for (int64_t d = v_col; d < v_col + shape.v_head_dim; ++d) {
          dv_sums(j, d) += p * Get(dout, i, d);
        }
      }
    }
  }
  dq_sums.Store(dq);
  dk_sums.Store(dk);
  dv_sums.Store(dv);
}

}  // namespace fathom::kernels
