#include "cli/pipeline_svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "cli/common_start.h"
#include "cli/timeline_op.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

// Lengths are in pixels of the picture.
constexpr double kMargin = 20;
constexpr double kLeft = 104;  // for the ranks' names
constexpr double kRight = 70;  // for their shares of busy time
constexpr double kLegendTop = 67;
constexpr double kLegendLine = 22;
constexpr double kPlotWidthMin = 1080;
constexpr double kPlotWidthMax = 1800;
constexpr double kWidthPerInstruction = 11;
constexpr double kCharacterWidth = 0.62;  // of a digit, in font sizes
constexpr double kTwoLineRow = 26;        // rows from this height on name their node, too
constexpr double kLabelShare = 0.75;      // of a box's width
constexpr double kLabelSizeMin = 8.5;
constexpr int kTicksAimedAt = 12;
// Above it boxes have no tooltips, which are most of the file.
constexpr int kTooltipBoxesMax = 4000;
constexpr size_t kNameBytesMax = 120;
constexpr size_t kShades = 4;
constexpr size_t kNamedPartsMax = 6;  // parts of a step with a place of their own in the legend

struct Paint {
  const char* fill;
  bool dark;  // takes light letters
};
using Shades = std::array<Paint, kShades>;
constexpr Shades kForwardPaints = {
    {{"#2f6bd8", true}, {"#86b6f2", false}, {"#1f4796", true}, {"#bcd7f8", false}}};
constexpr Shades kBackwardPaints = {
    {{"#d2601a", true}, {"#f3ab74", false}, {"#94400c", true}, {"#f9d3b5", false}}};
constexpr Shades kInputPaints = {
    {{"#b0304e", true}, {"#e590a3", false}, {"#781c33", true}, {"#f2c3cd", false}}};
constexpr std::array<Paint, kNamedPartsMax> kPartPaints = {{{"#6d58ac", true},
                                                            {"#a99bd6", false},
                                                            {"#463483", true},
                                                            {"#cfc6ea", false},
                                                            {"#1f7a86", true},
                                                            {"#8fd0d6", false}}};
constexpr Paint kWeightPaint = {"#2f8f5b", true};

constexpr char kStyle[] =
    "text{font-family:'DejaVu Sans','Segoe UI',Helvetica,Arial,sans-serif;fill:#1c2330}"
    ".m{fill:#5b6473}.t{font-size:18px;font-weight:bold}.s{font-size:12.5px}.x{font-size:11px}"
    ".e{text-anchor:end}.c{text-anchor:middle}.idle{fill:#e6e8ed}.grid{stroke:#c3c8d1;"
    "stroke-width:.8}.edge{stroke:#1c2330;stroke-width:1.2}.wait{fill:#fff;fill-opacity:.62}"
    ".b path{stroke:#fff;stroke-width:.6}.l text{fill:#fff}";

std::string Escaped(absl::string_view raw) {
  std::string escaped;
  for (const char c : CutText(raw, kNameBytesMax)) {
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else {
      escaped += absl::ascii_iscntrl(static_cast<unsigned char>(c)) ? ' ' : c;
    }
  }
  return escaped;
}

// At most one decimal, none that is zero.
std::string Length(double pixels) {
  std::string text = absl::StrFormat("%.1f", pixels);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text == "-0" ? "0" : text;
}

bool IsDrawable(const v1::TimedInstruction& instruction) {
  return std::isfinite(instruction.start_s()) && std::isfinite(instruction.end_s()) &&
         instruction.start_s() >= 0 && instruction.end_s() > instruction.start_s();
}

// How many units make the time a number that reads well, and their name.
struct TimeUnit {
  double per_second = 1;
  const char* name = "";
};

TimeUnit UnitFor(double seconds, bool has_seconds) {
  if (!has_seconds) return {1, ""};
  if (seconds < 1e-3) return {1e6, "\u00b5s"};
  if (seconds < 1) return {1e3, "ms"};
  return {1, "s"};
}

// 1, 2 or 5 times a power of ten.
double TickStep(double span) {
  const double rough = span / kTicksAimedAt;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double step : {1.0, 2.0, 5.0}) {
    if (step * power >= rough) return step * power;
  }
  return 10 * power;
}

class Picture {
 public:
  Picture(v1::Timeline timeline, const PictureOptions& options)
      : timeline_(std::move(timeline)), options_(options) {
    Measure();
  }

  std::string Draw() {
    std::string body;
    DrawTitle(body);
    DrawLegend(body);
    DrawRows(body);
    DrawAxis(body);
    const double width = kLeft + plot_width_ + kRight;
    const double height = PlotBottom() + 52;
    std::string out = absl::StrFormat(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%s\" height=\"%s\" "
        "viewBox=\"0 0 %s %s\">\n",
        Length(width), Length(height), Length(width), Length(height));
    absl::StrAppend(&out, "<title>", Title(), "</title>\n<style>", kStyle);
    for (const auto& [fill, name] : classes_) absl::StrAppend(&out, ".", name, "{fill:", fill, "}");
    absl::StrAppend(&out, "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fbfbfd\"/>\n",
                    body, "</svg>\n");
    return out;
  }

 private:
  void Measure() {
    int most = 1;
    for (const v1::RankTimes& rank : timeline_.ranks()) {
      ranks_.push_back(&rank);
      most = std::max(most, rank.instructions_size());
      several_of_a_stage_ |= !pipeline_ranks_.insert(rank.pipeline_rank()).second;
      for (const v1::TimedInstruction& instruction : rank.instructions()) {
        if (!IsDrawable(instruction)) continue;
        end_ = std::max(end_, instruction.end_s());
        ++boxes_;
        Note(rank, instruction);
      }
    }
    std::stable_sort(ranks_.begin(), ranks_.end(), [](const auto* a, const auto* b) {
      return std::pair(a->pipeline_rank(), a->rank()) < std::pair(b->pipeline_rank(), b->rank());
    });
    plot_width_ = std::clamp(most * kWidthPerInstruction, kPlotWidthMin, kPlotWidthMax);
    const size_t rows = ranks_.size();
    row_height_ = rows <= 4 ? 46 : rows <= 8 ? 38 : rows <= 16 ? 30 : rows <= 32 ? 22 : 14;
    gap_ = row_height_ > 20 ? 6 : 3;
    scale_ = end_ > 0 ? plot_width_ / end_ : 0;
    unit_ = UnitFor(end_, options_.has_seconds);
  }

  // What the legend will have to tell.
  void Note(const v1::RankTimes& rank, const v1::TimedInstruction& instruction) {
    const std::vector<TimelineOp> ops = ParseTimelineOps(instruction.what());
    pairs_ = pairs_ || ops.size() > 1;
    waits_ = waits_ || instruction.wait_s() > 0;
    for (const TimelineOp& op : ops) {
      if (op.kind == TimelineOpKind::kOther) {
        if (std::find(parts_.begin(), parts_.end(), op.text) == parts_.end() &&
            parts_.size() < kNamedPartsMax) {
          parts_.push_back(op.text);
        }
        continue;
      }
      seen_.emplace(op.kind, op.way);
      if (op.micro_batch >= 0) {
        digits_ = std::max(digits_, absl::StrCat(op.micro_batch).size());
      }
      if (op.kind == TimelineOpKind::kForward && op.way <= 1) {
        auto [first, added] =
            first_forward_[op.way].emplace(rank.pipeline_rank(), instruction.start_s());
        if (!added) first->second = std::min(first->second, instruction.start_s());
      }
    }
  }

  // Whether the numbers before the point are directions: then the last rank begins with those of
  // direction 1, while a second chunk's come after the first's.
  bool HasDirections() const {
    if (first_forward_[0].empty() || first_forward_[1].empty()) return false;
    const auto& [last, start] = *first_forward_[1].rbegin();
    const auto other = first_forward_[0].find(last);
    return last > 0 && (other == first_forward_[0].end() || start < other->second);
  }

  double X(double seconds) const { return seconds * scale_; }
  double RowTop(size_t row) const {
    return plot_top_ + static_cast<double>(row) * (row_height_ + gap_);
  }
  double PlotBottom() const { return RowTop(ranks_.size()); }

  std::string Title() const {
    if (!options_.title.empty()) return Escaped(options_.title);
    const std::string job = timeline_.job().empty() ? "pipeline" : timeline_.job();
    return Escaped(timeline_.predicted() ? absl::StrCat(job, ": a step as predicted")
                                         : absl::StrCat(job, ": step ", timeline_.step(),
                                                        ", epoch ", timeline_.epoch()));
  }

  std::string TimeText(double seconds) const {
    return absl::StrFormat("%.4g%s%s", seconds * unit_.per_second, *unit_.name == 0 ? "" : " ",
                           unit_.name);
  }

  static double BusySeconds(const v1::RankTimes& rank) {
    double busy = 0;
    for (const v1::TimedInstruction& instruction : rank.instructions()) {
      if (!IsDrawable(instruction)) continue;
      const double time = instruction.end_s() - instruction.start_s();
      busy += time - std::clamp(instruction.wait_s(), 0.0, time);
    }
    return busy;
  }

  void DrawTitle(std::string& out) const {
    double busy = 0;
    for (const v1::RankTimes* rank : ranks_) busy += BusySeconds(*rank);
    const double whole = end_ * static_cast<double>(ranks_.size());
    absl::StrAppendFormat(
        &out,
        "<text class=\"t\" x=\"20\" y=\"32\">%s</text>\n<text class=\"s m\" x=\"20\" "
        "y=\"53\">%s from start to end \u00b7 %d pipeline ranks%s \u00b7 %.1f%% of their time idle "
        "\u00b7 %d instructions</text>\n",
        Title(), TimeText(end_), pipeline_ranks_.size(),
        several_of_a_stage_ ? absl::StrCat(", ", ranks_.size(), " ranks shown") : "",
        whole > 0 ? 100 * std::max(0.0, 1 - busy / whole) : 0.0, boxes_);
  }

  // The class of a colour, named when it is first used.
  const std::string& ClassOf(const Paint& paint) {
    auto [it, added] = classes_.emplace(paint.fill, "");
    if (added) it->second = absl::StrCat("p", classes_.size());
    return it->second;
  }

  Paint PaintOf(const TimelineOp& op) const {
    const auto way = static_cast<size_t>(op.way) % kShades;
    switch (op.kind) {
      case TimelineOpKind::kForward:
        return kForwardPaints[way];
      case TimelineOpKind::kBackward:
        return kBackwardPaints[way];
      case TimelineOpKind::kBackwardInput:
        return kInputPaints[way];
      case TimelineOpKind::kWeight:
        return kWeightPaint;
      case TimelineOpKind::kOther:
        break;
    }
    const auto part = std::find(parts_.begin(), parts_.end(), op.text) - parts_.begin();
    return kPartPaints[static_cast<size_t>(part) % kNamedPartsMax];
  }

  void DrawRows(std::string& out) {
    for (size_t row = 0; row < ranks_.size(); ++row) DrawName(row, out);
    for (size_t row = 0; row < ranks_.size(); ++row) {
      absl::StrAppendFormat(&out,
                            "<rect class=\"idle\" x=\"%s\" y=\"%s\" width=\"%s\" "
                            "height=\"%s\"/>\n",
                            Length(kLeft), Length(RowTop(row)), Length(plot_width_),
                            Length(row_height_));
    }
    DrawGrid(out);
    for (size_t row = 0; row < ranks_.size(); ++row) {
      absl::StrAppendFormat(&out, "<g class=\"b\" transform=\"translate(%s %s)\">\n", Length(kLeft),
                            Length(RowTop(row)));
      DrawBoxes(*ranks_[row], out);
      out += "</g>\n";
    }
  }

  void DrawName(size_t row, std::string& out) const {
    const v1::RankTimes& rank = *ranks_[row];
    const double middle = RowTop(row) + row_height_ / 2;
    const double size = std::min(12.5, row_height_ - 2);
    const bool two_lines = !rank.node().empty() && row_height_ >= kTwoLineRow;
    std::string name = absl::StrCat("rank ", rank.pipeline_rank());
    if (several_of_a_stage_) absl::StrAppend(&name, " \u00b7 ", rank.rank());
    absl::StrAppendFormat(&out, "<text class=\"e\" font-size=\"%s\" x=\"%s\" y=\"%s\">%s</text>\n",
                          Length(size), Length(kLeft - 8),
                          Length(middle + (two_lines ? -1.5 : 0.36 * size)), name);
    if (two_lines) {
      absl::StrAppendFormat(
          &out, "<text class=\"e m\" font-size=\"9.5\" x=\"%s\" y=\"%s\">%s</text>\n",
          Length(kLeft - 8), Length(middle + 10), Escaped(CutText(rank.node(), 16)));
    }
    absl::StrAppendFormat(&out,
                          "<text class=\"m\" font-size=\"%s\" x=\"%s\" y=\"%s\">%.1f%%"
                          "</text>\n",
                          Length(std::min(11.5, size)), Length(kLeft + plot_width_ + 8),
                          Length(middle + 0.36 * size),
                          end_ > 0 ? 100 * BusySeconds(rank) / end_ : 0.0);
  }

  void DrawGrid(std::string& out) const {
    if (!(end_ > 0)) return;
    const double step = TickStep(end_);
    std::string path;
    for (int64_t tick = 0; static_cast<double>(tick) * step <= end_; ++tick) {
      absl::StrAppend(&path, "M", Length(kLeft + X(static_cast<double>(tick) * step)), " ",
                      Length(plot_top_ - 4), "V", Length(PlotBottom() + 2));
    }
    absl::StrAppend(&out, "<path class=\"grid\" d=\"", path, "\"/>\n");
  }

  static void AppendBox(double x, double y, double width, double height, std::string& path) {
    absl::StrAppend(&path, "M", Length(x), " ", Length(y), "h", Length(width), "v", Length(height),
                    "h", Length(-width), "z");
  }

  void DrawBoxes(const v1::RankTimes& rank, std::string& out) {
    const bool tooltips = boxes_ <= kTooltipBoxesMax;
    std::map<std::string, std::string> paths;  // by class; all of a colour at once
    std::string waits;
    Labels labels;
    for (const v1::TimedInstruction& instruction : rank.instructions()) {
      if (!IsDrawable(instruction)) continue;
      const double x = X(instruction.start_s());
      const double width = X(instruction.end_s()) - x;
      const std::vector<TimelineOp> ops = ParseTimelineOps(instruction.what());
      const double height = row_height_ / static_cast<double>(ops.size());
      for (size_t i = 0; i < ops.size(); ++i) {
        const Paint paint = PaintOf(ops[i]);
        const double y = static_cast<double>(i) * height;
        AppendBox(x, y, width, height, paths[ClassOf(paint)]);
        DrawLabel(ops[i], paint, x + width / 2, y + height / 2, width, height, labels);
      }
      const double wait = std::min(X(std::max(0.0, instruction.wait_s())), width);
      if (wait > 0) AppendBox(x, 0, wait, row_height_, waits);
      if (!tooltips) continue;
      out += "<g>";
      DrawPaths(paths, out);
      absl::StrAppend(&out, "<title>", Tooltip(instruction), "</title></g>\n");
      paths.clear();
    }
    DrawPaths(paths, out);
    if (!waits.empty()) absl::StrAppend(&out, "<path class=\"wait\" d=\"", waits, "\"/>\n");
    for (const auto& [style, texts] : labels) absl::StrAppend(&out, style, texts, "</g>\n");
  }

  static void DrawPaths(const std::map<std::string, std::string>& paths, std::string& out) {
    for (const auto& [name, path] : paths) {
      absl::StrAppend(&out, "<path class=\"", name, "\" d=\"", path, "\"/>");
    }
  }

  std::string Tooltip(const v1::TimedInstruction& instruction) const {
    std::string text =
        absl::StrCat(Escaped(instruction.what()), " ", TimeText(instruction.start_s()), " + ",
                     TimeText(instruction.end_s() - instruction.start_s()));
    if (instruction.wait_s() > 0) {
      absl::StrAppend(&text, ", waited ", TimeText(instruction.wait_s()));
    }
    return text;
  }

  // By their style, so that a group says it once for all.
  using Labels = std::map<std::string, std::string>;

  // The whole text, or the micro-batch alone where all of the picture's would fit: some numbers
  // without the others would only look odd.
  void DrawLabel(const TimelineOp& op, const Paint& paint, double x, double y, double width,
                 double height, Labels& labels) const {
    const bool numbered = op.micro_batch >= 0;
    const double most = std::min(height - 3, 12.0);
    const auto size_for = [&](size_t characters) {
      return kLabelShare * width / (kCharacterWidth * static_cast<double>(characters));
    };
    std::string text = op.text;
    // A part's name has wide letters.
    double size = size_for(numbered ? text.size() - absl::StrCat(op.micro_batch).size() + digits_
                                    : text.size() + 1);
    if (size < std::min(most, 10.0) && numbered) {
      text = absl::StrCat(op.micro_batch);
      size = size_for(digits_);
    }
    size = std::min(size, most);
    if (size < kLabelSizeMin) return;
    const std::string style = absl::StrFormat("<g class=\"c %s\" font-size=\"%s\">\n",
                                              paint.dark ? "l" : "d", Length(size));
    absl::StrAppend(&labels[style], "<text x=\"", Length(x), "\" y=\"", Length(y + 0.36 * size),
                    "\">", Escaped(text), "</text>\n");
  }

  void DrawAxis(std::string& out) const {
    if (!(end_ > 0)) return;
    const double y = PlotBottom() + 16;
    const double step = TickStep(end_);
    const std::string end_text = TimeText(end_);
    const double end_room = 8 + static_cast<double>(end_text.size()) * 11 * kCharacterWidth;
    for (int64_t tick = 0; static_cast<double>(tick) * step <= end_; ++tick) {
      const double seconds = static_cast<double>(tick) * step;
      if (X(end_ - seconds) < end_room) continue;  // there the end itself is told
      absl::StrAppendFormat(&out, "<text class=\"x c m\" x=\"%s\" y=\"%s\">%.6g</text>\n",
                            Length(kLeft + X(seconds)), Length(y), seconds * unit_.per_second);
    }
    absl::StrAppendFormat(
        &out,
        "<text class=\"x c\" font-weight=\"bold\" x=\"%s\" y=\"%s\">%s</text>\n"
        "<path class=\"edge\" d=\"M%s %sV%s\"/>\n<text class=\"x c m\" x=\"%s\" y=\"%s\">%s"
        "</text>\n<text class=\"x m\" x=\"%s\" y=\"%s\">busy</text>\n",
        Length(kLeft + plot_width_), Length(y), end_text, Length(kLeft + plot_width_),
        Length(plot_top_ - 6), Length(PlotBottom() + 3), Length(kLeft + plot_width_ / 2),
        Length(y + 20),
        options_.has_seconds ? absl::StrCat("time in ", unit_.name) : std::string("time"),
        Length(kLeft + plot_width_ + 8), Length(plot_top_ - 8));
  }

  static std::string LegendText(TimelineOpKind kind, int way) {
    switch (kind) {
      case TimelineOpKind::kForward:
        return absl::StrCat("F", way, " forward");
      case TimelineOpKind::kBackward:
        return absl::StrCat("B", way, " backward");
      case TimelineOpKind::kBackwardInput:
        return absl::StrCat("Bi", way, " backward, input only");
      default:
        return "W deferred weight gradient";
    }
  }

  struct LegendItem {
    std::string fill;  // class; empty: text alone
    std::string text;
  };

  std::vector<LegendItem> LegendItems() {
    std::vector<LegendItem> items;
    for (const auto& [kind, way] : seen_) {
      TimelineOp op;
      op.kind = kind;
      op.way = way;
      items.push_back({ClassOf(PaintOf(op)), LegendText(kind, way)});
    }
    for (const std::string& part : parts_) {
      TimelineOp op;
      op.text = part;
      items.push_back({ClassOf(PaintOf(op)), part});
    }
    items.push_back({"idle", "idle"});
    if (waits_) items.push_back({"wait", "pale: waiting for a peer"});
    if (pairs_) items.push_back({"", "two halves: an overlapped pair"});
    if (!first_forward_[1].empty()) {
      items.push_back({"", HasDirections() ? "0, 1: direction" : "0, 1: chunk of the rank"});
    }
    return items;
  }

  // In as many lines as it takes; the plot begins below them.
  void DrawLegend(std::string& out) {
    double x = kMargin;
    double y = kLegendTop;
    for (const LegendItem& item : LegendItems()) {
      const double text_x = item.fill.empty() ? 0 : 20;
      const double width = text_x + static_cast<double>(item.text.size()) * 6.7;
      if (x > kMargin && x + width > kLeft + plot_width_ + kRight - kMargin) {
        x = kMargin;
        y += kLegendLine;
      }
      const auto swatch = [&](const std::string& fill) {
        absl::StrAppendFormat(&out,
                              "<rect class=\"%s\" x=\"%s\" y=\"%s\" width=\"15\" height=\"15\"/>\n",
                              fill, Length(x), Length(y));
      };
      if (item.fill == "wait") swatch(ClassOf(kBackwardPaints[0]));
      if (!item.fill.empty()) swatch(item.fill);
      absl::StrAppendFormat(&out, "<text class=\"x%s\" x=\"%s\" y=\"%s\">%s</text>\n",
                            item.fill.empty() ? " m" : "", Length(x + text_x), Length(y + 12),
                            Escaped(item.text));
      x += width + 16;
    }
    plot_top_ = y + kLegendLine + 15;
  }

  const v1::Timeline timeline_;
  const PictureOptions& options_;
  std::vector<const v1::RankTimes*> ranks_;  // in the order of their rows
  double end_ = 0;                           // seconds
  int boxes_ = 0;
  double plot_width_ = 0;
  double plot_top_ = 0;  // known once the legend is drawn
  double row_height_ = 0;
  double gap_ = 0;
  double scale_ = 0;  // pixels per second
  TimeUnit unit_;
  std::set<int> pipeline_ranks_;
  bool several_of_a_stage_ = false;
  size_t digits_ = 1;  // of the greatest micro-batch
  bool pairs_ = false;
  bool waits_ = false;
  std::set<std::pair<TimelineOpKind, int>> seen_;
  std::vector<std::string> parts_;
  // By way 0 and 1: when each pipeline rank begins its first forward.
  std::array<std::map<int, double>, 2> first_forward_;
  std::map<std::string, std::string> classes_;  // by colour
};

}  // namespace

std::string PipelineSvg(const v1::Timeline& timeline, const PictureOptions& options) {
  return Picture(WithCommonStart(timeline), options).Draw();
}

}  // namespace fathom::cli
