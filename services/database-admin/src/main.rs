//! The binary of database-admin: the service, and the subcommands `migrate` and `open-backup`.

fn main() -> std::process::ExitCode {
    let extras = database_admin::subcommands::all();
    kronos_common::service::main_with("database-admin", database_admin::DEFAULTS, database_admin::start, extras)
}
