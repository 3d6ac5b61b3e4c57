//! Rebuilds this crate when a migration is added: `sqlx::migrate!` sees changed files, but not new ones.

fn main() {
    for folder in ["common", "users"] {
        println!("cargo:rerun-if-changed=../../migrations/{folder}");
    }
}
