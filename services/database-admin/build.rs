//! Rebuilds this crate when a migration is added: `sqlx::migrate!` sees changed files, but not new ones.

fn main() {
    for folder in ["common", "auth", "users", "logs", "cache", "router", "messaging", "dbadmin"] {
        println!("cargo:rerun-if-changed=../../migrations/{folder}");
    }
}
