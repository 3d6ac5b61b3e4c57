//! The binary of database-admin.

use std::collections::BTreeMap;

fn main() -> anyhow::Result<()> {
    let mut passwords = BTreeMap::new();
    let mut var = BTreeMap::new();
    for (key, value) in std::env::vars() {
        if let Some(role) = key.strip_prefix("KRONOS_MIGRATE__ROLE_PASSWORDS__") {
            passwords.insert(role.to_lowercase(), value.into());
        } else {
            var.insert(key, value);
        }
    }
    anyhow::ensure!(std::env::args().nth(1).as_deref() == Some("migrate"), "usage: database-admin migrate");
    let settings = database_admin::migrate::Settings {
        admin_url: var.remove("KRONOS_MIGRATE__ADMIN_URL").unwrap_or_default().into(),
        database: var.remove("KRONOS_MIGRATE__DATABASE").unwrap_or_else(|| "kronos".into()),
        role_passwords: passwords,
        connection_limit: 100,
    };
    tokio::runtime::Runtime::new()?.block_on(database_admin::migrate::run(&settings, &mut std::io::stdout()))
}
