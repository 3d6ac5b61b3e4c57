//! Rules for the members' `Cargo.toml`: lints, versions and features come from the root; services stay apart.

use super::{SourceFile, Violation};
use crate::platform::SERVICE_NAMES;

pub(super) fn check(file: &SourceFile, violations: &mut Vec<Violation>) {
    let Some(member) = file.path.strip_suffix("/Cargo.toml") else {
        return;
    };
    let own_name = member.rsplit('/').next().unwrap_or_default();
    let mut section = "";
    let mut takes_lints = false;
    for (index, line) in file.text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let mut say = |message: String| violations.push(Violation::new(file, index + 1, message));
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = header;
            if header.contains("dependencies.") {
                say(format!("[{header}]: write `name.workspace = true` in one line instead"));
            }
            continue;
        }
        if section == "lints" && line.replace(' ', "") == "workspace=true" {
            takes_lints = true;
        }
        if section == "package" && line.starts_with("version") && !line.starts_with("version.workspace") {
            say("a version number: write `version.workspace = true`".to_owned());
        }
        if !matches!(section, "dependencies" | "dev-dependencies" | "build-dependencies") || line.is_empty() {
            continue;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if !line.replace(' ', "").contains("workspace=true") {
            say(format!("{name}: declare it once in the root Cargo.toml, and write `{name}.workspace = true` here"));
        } else if line.contains("features") {
            say(format!("{name}: name its features in the root Cargo.toml, so that all members build the same"));
        }
        let is_service = SERVICE_NAMES.contains(&name);
        if is_service && name != own_name && (member.starts_with("services/") || member.starts_with("crates/")) {
            say(format!("{own_name} depends on {name}: services talk by HTTP or event, never by crate"));
        }
        if name == "kronos-testkit" && section == "dependencies" {
            say("kronos-testkit is for tests: move it to [dev-dependencies]".to_owned());
        }
    }
    if !takes_lints {
        violations.push(Violation::new(file, 1, "add `[lints]` with `workspace = true`"));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    const GOOD: &str = "[package]\nname = \"auth-service\"\nversion.workspace = true\n[lints]\nworkspace = true\n";

    fn count(path: &str, text: &str) -> usize {
        let mut violations = Vec::new();
        check(&file(path, text), &mut violations);
        violations.len()
    }

    #[test]
    fn a_member_takes_everything_from_the_root() {
        assert_eq!(count("services/auth-service/Cargo.toml", GOOD), 0);
        assert_eq!(count("services/auth-service/Cargo.toml", "[package]\n"), 1, "no lints");
        for dependency in
            ["serde = \"1\"", "serde = { workspace = true, features = [\"rc\"] }", "user-service.workspace = true"]
        {
            let text = format!("{GOOD}[dependencies]\n{dependency}\n");
            assert_eq!(count("services/auth-service/Cargo.toml", &text), 1, "{dependency}");
        }
        let text = format!(
            "{GOOD}[dependencies]\nserde.workspace = true # why\n[dev-dependencies]\nkronos-testkit.workspace = true\n"
        );
        assert_eq!(count("services/auth-service/Cargo.toml", &text), 0);
    }

    #[test]
    fn the_root_is_where_versions_are() {
        assert_eq!(count("Cargo.toml", "[workspace.dependencies]\nserde = \"1\"\n"), 0);
    }
}
