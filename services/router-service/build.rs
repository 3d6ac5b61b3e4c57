//! Rebuilds this crate when a migration is added: `sqlx::migrate!` sees changed files, but not new ones.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/router");
}
