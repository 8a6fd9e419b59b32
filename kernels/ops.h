// The op table: every computation a layer needs, on plain pointers and shapes.
//
// A layer is written once against Ops and never knows which backend runs. An Ops object is one
// stream: its calls take effect in the order they are made, by one thread. `reference` (plain
// loops, every dtype up to FP64) is what the others are tested against; `cpu` rests on oneDNN; a
// CUDA backend comes as a plugin with the same table. Only the standard library is used here, so
// that a plugin builds without the rest of the house.
//
// A shape that does not fit is a broken invariant and aborts with the op's name and both shapes.
//
// Shape letters: T tokens (rows of a micro-batch), D hidden width, S tokens of one sequence,
// H heads, E routed experts, K chosen experts per token, F width of an MLP, V vocabulary.
#ifndef FATHOM_KERNELS_OPS_H_
#define FATHOM_KERNELS_OPS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace fathom::kernels {

enum class DType : uint8_t { kF64, kF32, kBF16 };

constexpr int64_t SizeOf(DType dtype) {
  return dtype == DType::kF64 ? 8 : dtype == DType::kF32 ? 4 : 2;
}

// A row-major matrix that somebody else owns. Element (r, c) is at data[r * stride + c].
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements between rows, >= cols
};

// Edge of an FP8 scaling tile, in elements (DeepSeek-V3 report, section 3.3.2).
inline constexpr int64_t kFp8Tile = 128;

// How the scales of an Fp8Matrix cover it. The last tile of a row or column may be short.
enum class Fp8Scaling : uint8_t {
  kTile1x128,     // scales[r * TileCount(cols) + c / 128]
  kBlock128x128,  // scales[(r / 128) * TileCount(cols) + c / 128]
};

constexpr int64_t TileCount(int64_t n) { return (n + kFp8Tile - 1) / kFp8Tile; }

// E4M3 codes, row-major and dense ([rows, cols]), with FP32 scales; value = decode(code) * scale.
struct Fp8Matrix {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  Fp8Scaling scaling = Fp8Scaling::kTile1x128;
};

constexpr int64_t ScaleCount(int64_t rows, int64_t cols, Fp8Scaling scaling) {
  return (scaling == Fp8Scaling::kTile1x128 ? rows : TileCount(rows)) * TileCount(cols);
}

// kAmax: scale = max(amax, 1e-4) / 448. kPowerOfTwo: that, rounded up to a power of two.
enum class ScaleRule : uint8_t { kAmax, kPowerOfTwo };

// Multi-head attention whose query and key heads are wider than its value heads. Row t of q is
// token t's heads one after another, head h at column h * qk_head_dim; k and v alike.
struct AttentionShape {
  int64_t sequences = 0;
  int64_t sequence_length = 0;  // S; q, k and v have sequences * S rows
  int64_t heads = 0;
  int64_t qk_head_dim = 0;
  int64_t v_head_dim = 0;
  double softmax_scale = 0;
};

// Where the rotary part of each head lies: element (t, h, i) at
// data[t * token_stride + h * head_stride + i], i < dim, dim even. Pairs are (2i, 2i + 1).
struct RopeView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t dim = 0;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
  int64_t sequence_length = 0;  // position of token t is t % sequence_length
  double theta = 10000;
};

struct RouterShape {
  int64_t tokens = 0;           // T
  int64_t experts = 0;          // E
  int64_t groups = 1;           // E divides into groups
  int64_t groups_kept = 1;      // groups a token may choose from
  int64_t top_k = 0;            // K
  double scaling_factor = 1;    // routed weights sum to this
  int64_t sequence_length = 0;  // S, for the sequence-wise balance loss
  double balance_alpha = 0;     // weight of that loss; 0 leaves it out
};

struct AdamWSettings {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double gradient_scale = 1;  // multiplies every gradient first (clipping, averaging)
  int64_t step = 1;           // 1 at the first update, for bias correction
};

// What AdamW keeps for n parameters.
struct AdamWState {
  Matrix master;  // [1, n] F32
  Matrix m;       // [1, n] F32 or BF16 (rounded to nearest even)
  Matrix v;       // as m
};

class Ops {
 public:
  virtual ~Ops() = default;

  virtual std::string_view name() const = 0;

  // Memory of this backend's device, 64-byte aligned and zeroed. Null only for bytes == 0.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* data) = 0;
  virtual void CopyFromHost(void* device, const void* host, size_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, size_t bytes) = 0;
  // Returns when every earlier call has taken effect.
  virtual void Synchronize() = 0;

  // --- Elementwise. Matrices of one call have the same rows and cols; dtypes may differ. The
  // arithmetic is FP32, FP64 when an operand is F64, rounded once more where the output is BF16:
  // one right answer to the bit. What narrows from FP64 to BF16 goes through FP32. ---
  virtual void Fill(const Matrix& out, double value) = 0;
  virtual void Copy(const Matrix& in, const Matrix& out) = 0;  // converts, rounding to nearest even
  virtual void Add(const Matrix& a, const Matrix& b, const Matrix& out) = 0;  // out may be a or b
  virtual void Scale(const Matrix& x, double factor) = 0;  // factor rounded to FP32 unless x is F64
  // out[r] = in[r] * factors[r]; factors FP32 [rows]. out may be in.
  virtual void ScaleRows(const Matrix& in, const float* factors, const Matrix& out) = 0;
  // out[r] = sum over c of a[r, c] * b[r, c], FP32 [rows] (FP64 inside).
  virtual void RowDot(const Matrix& a, const Matrix& b, float* out) = 0;
  virtual double SumOfSquares(const Matrix& x) = 0;  // in FP64, in index order

  // --- Rows by index. indices are int32 [out.rows]. ---
  virtual void GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) = 0;
  // out[indices[r]] += in[r], r ascending.
  virtual void ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) = 0;

  // --- Products ---
  // c = op(a) op(b), or c += with accumulate; op transposes when asked. a and b have one dtype,
  // F64, F32 or BF16; sums are in FP32 (FP64 for F64); c is that dtype or F32. A row of c depends
  // on that row of op(a) and on op(b) alone, not on how many rows there are.
  virtual void Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b,
                    const Matrix& c, bool accumulate) = 0;
  // c[M, N] = a[M, K] b[N, K]^T on E4M3: FP32 sums over each 128 of K, then scaled and added in
  // FP32, K ascending. a is 1x128; b is 128x128 or 1x128; c is F32 or BF16 (rounded once, at the
  // end). DeepSeek-V3 report, section 3.3.2.
  virtual void GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c,
                       bool accumulate) = 0;

  // --- FP8 (facts: DeepSeek-V3 report, section 3.3; OCP E4M3 without infinities) ---
  // Quantises x, rounded to FP32, as out.scaling says: code = E4M3(x / scale), round to nearest
  // even, saturating at 448. A NaN stays NaN and does not count for its tile's amax; an infinity
  // makes its whole tile decode to NaN. Every backend gives the same codes and scales, save the
  // sign of a NaN.
  virtual void Quantize(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) = 0;
  // The same of x's transpose: out is [x.cols, x.rows].
  virtual void QuantizeTransposed(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) = 0;
  virtual void Dequantize(const Fp8Matrix& in, const Matrix& out) = 0;
  // out = in^T with the same scales; both 128x128.
  virtual void TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) = 0;

  // Rounds x in place to E5M6 with power-of-two 1x128 scales (the 12-bit format in which the input
  // of o_proj is cached).
  virtual void RoundToE5M6(const Matrix& x) = 0;

  // --- Layers ---
  // y = x / sqrt(mean(x^2) + epsilon) * weight. x, y [T, D]; weight [1, D].
  virtual void RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                              const Matrix& y) = 0;
  // dx = (overwritten), dweight += (F32 or F64 [1, D]; skipped when data is null). The norm is
  // recomputed from x. dx may be dy.
  virtual void RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon,
                               const Matrix& dy, const Matrix& dx, const Matrix& dweight) = 0;

  // Rotates in place by position; inverse undoes it, which is also its backward.
  virtual void Rope(const RopeView& x, bool inverse) = 0;

  // Causal within each sequence. q, k [T, H*qk]; v, out [T, H*v]; lse F32 (F64 for F64) [T, H]: log
  // of the sum of exponentials, natural.
  virtual void AttentionForward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                                const Matrix& v, const Matrix& out, const Matrix& lse) = 0;
  virtual void AttentionBackward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                                 const Matrix& v, const Matrix& out, const Matrix& lse,
                                 const Matrix& dout, const Matrix& dq, const Matrix& dk,
                                 const Matrix& dv) = 0;

  // gate_up [T, 2F] holds gate then up; y = silu(gate) * up [T, F].
  virtual void SwiGluForward(const Matrix& gate_up, const Matrix& y) = 0;
  virtual void SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) = 0;
  // Of routed experts: y = silu(gate) * up * weights[t]; weights [T, 1] F32 or F64.
  virtual void WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights,
                                     const Matrix& y) = 0;
  // Its backward, with y made again: dweights[t] = sum over f of dy * silu(gate) * up (overwritten,
  // of weights' dtype and shape).
  virtual void WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights,
                                      const Matrix& dy, const Matrix& dgate_up,
                                      const Matrix& dweights, const Matrix& y) = 0;

  // out[t] = table[tokens[t]]; tokens int32 [T], table [V, D].
  virtual void EmbeddingForward(const int32_t* tokens, const Matrix& table, const Matrix& out) = 0;
  // dtable[tokens[t]] += dout[t], t ascending; dtable F32 or F64.
  virtual void EmbeddingBackward(const int32_t* tokens, const Matrix& dout,
                                 const Matrix& dtable) = 0;

  // loss[t] = -log softmax(logits[t])[labels[t]], nats, FP64 [T]; then logits are overwritten with
  // gradient_scale * (softmax - onehot), unless gradient_scale is 0, which leaves them.
  virtual void CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                            double* loss) = 0;

  // Group-limited sigmoid routing (DeepSeek-V3 report, section 2.1.2). logits [T, E] F32 or F64;
  // bias [1, E] of the same dtype, for selection only. experts int32 [T, K], descending by biased
  // score, ties to the lowest id; weights [T, K] of the logits' dtype. Adds to loads int64 [E] the
  // tokens each expert got. Returns the sum over sequences of the balance loss, alpha included (0
  // when alpha is 0).
  virtual double RouterForward(const RouterShape& shape, const Matrix& logits, const Matrix& bias,
                               int32_t* experts, const Matrix& weights, int64_t* loads) = 0;
  // dlogits (overwritten) from dweights [T, K] through the chosen sigmoid scores, plus the gradient
  // of balance_scale times what RouterForward returned (counts f_i are constants).
  virtual void RouterBackward(const RouterShape& shape, const Matrix& logits,
                              const int32_t* experts, const Matrix& dweights, double balance_scale,
                              const Matrix& dlogits) = 0;

  // --- Optimizer ---
  // One AdamW update from gradient F32: `out` from `in`, the same memory (in place) or apart, with
  // the same bits. Decay is decoupled: master -= lr * weight_decay * master.
  virtual void AdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
                     const AdamWState& out) = 0;
};

// Plain loops; any dtype. The definition of every op.
std::unique_ptr<Ops> CreateReferenceOps();

// oneDNN and vectorised loops, one thread.
std::unique_ptr<Ops> CreateCpuOps();

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_OPS_H_
