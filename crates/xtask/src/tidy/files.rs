//! Rules for any file: length, name, blanks at line ends, paths of one machine.

use super::{SourceFile, Violation};

const LONGEST: usize = 500;
/// Drawers: whatever has no place ends up in them.
const DRAWERS: [&str; 8] = ["utils", "util", "helpers", "helper", "misc", "manager", "types", "common_utils"];
const HOMES: [&str; 2] = ["/home/", "/Users/"];

pub(super) fn check(file: &SourceFile, root: &str, violations: &mut Vec<Violation>) {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    if name == "Cargo.lock" || name == "LICENSE" {
        return;
    }
    let is_rust = name.ends_with(".rs");
    let lines = file.text.lines().count();
    if is_rust && lines > LONGEST {
        violations.push(Violation::new(
            file,
            LONGEST + 1,
            format!("{lines} lines: split the file by subject, {LONGEST} is the most"),
        ));
    }
    let drawer = file.path.split('/').map(|part| part.trim_end_matches(".rs")).find(|part| DRAWERS.contains(part));
    if let Some(drawer) = drawer.filter(|_| is_rust) {
        violations.push(Violation::new(file, 1, format!("`{drawer}` says nothing: name the module after its subject")));
    }
    for (index, line) in file.text.lines().enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            violations.push(Violation::new(file, index + 1, "blanks at the end of the line: remove them"));
        }
        let of_a_machine = line.contains(root) || HOMES.iter().any(|home| is_home(line, home));
        if of_a_machine {
            violations.push(Violation::new(file, index + 1, "a path of one machine: make it relative"));
        }
    }
}

/// Somebody's home folder in some text, as opposed to a route that happens to contain the word.
fn is_home(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let rest = &line[at + home.len()..];
        let user = rest.split('/').next().unwrap_or_default();
        before.is_none_or(|c| c.is_whitespace() || "\"'`=:(".contains(c))
            && rest.contains('/')
            && !user.is_empty()
            && user.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    fn messages(path: &str, text: &str) -> Vec<String> {
        let mut violations = Vec::new();
        check(&file(path, text), "/srv/clone", &mut violations);
        violations.into_iter().map(|violation| format!("{}: {}", violation.line, violation.message)).collect()
    }

    #[test]
    fn a_rust_file_of_501_lines_is_too_long_and_other_files_may_be() {
        assert!(messages("a.rs", &"x\n".repeat(500)).is_empty());
        assert_eq!(messages("a.rs", &"x\n".repeat(501)).len(), 1);
        assert!(messages("a.md", &"x\n".repeat(501)).is_empty());
    }

    #[test]
    fn drawers_are_refused_as_files_and_as_folders() {
        assert_eq!(messages("services/x/src/utils.rs", "").len(), 1);
        assert_eq!(messages("services/x/src/helpers/one.rs", "").len(), 1);
        assert!(messages("services/x/src/datatypes.rs", "").is_empty());
    }

    #[test]
    fn blanks_and_machine_paths_are_found_with_their_line() {
        assert_eq!(messages("a.md", "one\ntwo \n"), ["2: blanks at the end of the line: remove them"]);
        assert_eq!(messages("a.md", "see /srv/clone/x\n").len(), 1);
        assert_eq!(messages("a.md", concat!("see /ho", "me/me/x\n")).len(), 1);
        assert!(messages("a.md", concat!("GET /api/ho", "me/x\n")).is_empty());
    }
}
