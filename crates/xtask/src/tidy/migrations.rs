//! Rules for SQL migrations: explained in the first line, lowercase, named in order.

use super::{SourceFile, Violation};

pub(super) fn check(file: &SourceFile, violations: &mut Vec<Violation>) {
    let Some(name) = file.path.strip_prefix("migrations/").filter(|name| name.ends_with(".sql")) else {
        return;
    };
    let file_name = name.rsplit('/').next().unwrap_or_default();
    let (number, rest) = file_name.split_once('_').unwrap_or((file_name, ""));
    if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) || rest.is_empty() {
        violations.push(Violation::new(file, 1, "name it NNNN_what_it_does.sql"));
    }
    if !file.text.starts_with("-- ") {
        violations.push(Violation::new(file, 1, "the first line is a comment that explains the migration: `-- …`"));
    }
    let mut in_text = false;
    for (index, line) in file.text.lines().enumerate() {
        if has_uppercase_code(line, &mut in_text) {
            violations.push(Violation::new(file, index + 1, "SQL is lowercase: write keywords and names small"));
        }
    }
}

/// Looks at what is outside of `'…'`, `"…"` and comments; `in_text` carries a string over the end of its line.
fn has_uppercase_code(line: &str, in_text: &mut bool) -> bool {
    let mut in_name = false;
    let mut previous = ' ';
    for c in line.chars() {
        match c {
            '\'' if !in_name => *in_text = !*in_text,
            '"' if !*in_text => in_name = !in_name,
            '-' if !*in_text && !in_name && previous == '-' => return false,
            c if !*in_text && !in_name && c.is_ascii_uppercase() => return true,
            _ => {}
        }
        previous = c;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let mut violations = Vec::new();
        check(&file(path, text), &mut violations);
        violations.into_iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_migration_is_explained_and_lowercase() {
        let path = "migrations/auth/0100_begin.sql";
        assert!(lines(path, "-- Why.\ncreate table a (b text default 'X''Y'); -- As it is\n").is_empty());
        assert_eq!(lines(path, "create table a (b text);\n"), [1]);
        assert_eq!(lines(path, "-- Why.\nCREATE table a (b text);\n"), [2]);
        assert!(lines(path, "-- Why.\nselect 'a\nB';\n").is_empty(), "a string may span lines");
        assert_eq!(lines("migrations/auth/begin.sql", "-- Why.\n"), [1]);
    }
}
