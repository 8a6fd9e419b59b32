#include "cli/completion.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace fathom::cli {
namespace {

// The scripts of both shells share their decisions as `case` lists over three texts: the commands
// so far ("fathomctl get jobs"), the word before, and the word that is being written.
struct Cases {
  std::vector<std::string> paths;  // of every command below the root
  std::string values;              // what may follow an option
  std::string words;               // what may stand in a command
};

std::string Quoted(const std::string& text) { return absl::StrCat("\"", text, "\""); }

// The shell statement that offers what an argument may be.
std::string Offer(const CompletionArgument& argument) {
  switch (argument.kind) {
    case ArgumentKind::kFile:
      return "_fathomctl_files";
    case ArgumentKind::kJob:
      return "_fathomctl_offer \"$(fathomctl get jobs -o name 2>/dev/null)\"";
    case ArgumentKind::kNode:
      return "_fathomctl_offer \"$(fathomctl get nodes -o name 2>/dev/null)\"";
    case ArgumentKind::kChoice:
      return absl::StrCat("_fathomctl_offer ", Quoted(absl::StrJoin(argument.choices, " ")));
    case ArgumentKind::kText:
      break;
  }
  return ":";
}

void Collect(const CommandNode& node, const std::string& path,
             const std::vector<CompletionOption>& inherited, Cases& cases) {
  std::set<std::string> own;
  std::vector<std::string> words;
  std::vector<CompletionOption> options;
  for (const CompletionOption& option : node.options) {
    own.insert(option.names.begin(), option.names.end());
    options.push_back(option);
  }
  // A command's own option hides one of the same name further up.
  for (CompletionOption option : inherited) {
    std::erase_if(option.names, [&](const std::string& name) { return own.contains(name); });
    if (!option.names.empty()) options.push_back(option);
  }
  for (const CompletionOption& option : options) {
    words.insert(words.end(), option.names.begin(), option.names.end());
    if (!option.takes_value) continue;
    for (const std::string& name : option.names) {
      absl::StrAppend(&cases.values, "    ", Quoted(absl::StrCat(path, " ", name)), ") ",
                      Offer(option.value), "; return ;;\n");
    }
  }
  std::vector<std::string> children;
  for (const CommandNode& child : node.children) children.push_back(child.name);
  absl::StrAppend(&cases.words, "    ", Quoted(path), ")\n      case \"$cur\" in\n        -*) ",
                  "_fathomctl_offer ", Quoted(absl::StrJoin(words, " ")), " ;;\n        *) ");
  if (!children.empty()) {
    absl::StrAppend(&cases.words, "_fathomctl_offer ", Quoted(absl::StrJoin(children, " ")));
  } else if (!node.positionals.empty()) {
    absl::StrAppend(&cases.words, Offer(node.positionals.front()));
  } else {
    absl::StrAppend(&cases.words, ":");
  }
  absl::StrAppend(&cases.words, " ;;\n      esac ;;\n");
  for (const CommandNode& child : node.children) {
    const std::string child_path = absl::StrCat(path, " ", child.name);
    cases.paths.push_back(Quoted(child_path));
    Collect(child, child_path, options, cases);
  }
}

constexpr char kDecide[] = R"(  case "$path $prev" in
@VALUES@  esac
  case "$path" in
@WORDS@  esac
}
)";

constexpr char kBashHead[] =
    R"(# Completion of fathomctl for bash. Use it with: source <(fathomctl completion bash)
_fathomctl_offer() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
_fathomctl_files() { COMPREPLY=($(compgen -f -- "$cur")); }
_fathomctl() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" path="fathomctl" word
  COMPREPLY=()
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in
      @PATHS@) path="$path $word" ;;
    esac
  done
)";
constexpr char kBashTail[] = "complete -o filenames -F _fathomctl fathomctl\n";

constexpr char kZshHead[] = R"(#compdef fathomctl
# Completion of fathomctl for zsh. Use it with: source <(fathomctl completion zsh)
_fathomctl_offer() { compadd -- ${=1} }
_fathomctl_files() { _files }
_fathomctl() {
  local cur="${words[CURRENT]}" prev="${words[CURRENT-1]}" path_="fathomctl" word
  for word in "${(@)words[2,CURRENT-1]}"; do
    case "$path_ $word" in
      @PATHS@) path_="$path_ $word" ;;
    esac
  done
)";
constexpr char kZshTail[] = "compdef _fathomctl fathomctl\n";

}  // namespace

absl::StatusOr<std::string> CompletionScript(const CommandNode& root, const std::string& shell) {
  Cases cases;
  Collect(root, root.name, {}, cases);
  const std::string paths = absl::StrJoin(cases.paths, "|");
  const std::string decide =
      absl::StrReplaceAll(kDecide, {{"@VALUES@", cases.values}, {"@WORDS@", cases.words}});
  if (shell == "bash") {
    return absl::StrCat(absl::StrReplaceAll(kBashHead, {{"@PATHS@", paths}}), decide, kBashTail);
  }
  if (shell == "zsh") {
    // `path` is zsh's own list of program folders.
    return absl::StrCat(absl::StrReplaceAll(kZshHead, {{"@PATHS@", paths}}),
                        absl::StrReplaceAll(decide, {{"$path", "$path_"}}), kZshTail);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no completion for the shell '", shell, "'; there is bash and zsh"));
}

}  // namespace fathom::cli
