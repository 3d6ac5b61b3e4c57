//! The binary of auth-service: the service, and the subcommand `audit-verify`.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use auth_service::{Config, audit::offline};
use kronos_common::service::{Extra, main_with};

fn main() -> ExitCode {
    main_with("auth-service", auth_service::DEFAULTS, auth_service::start, vec![audit_verify()])
}

/// Checks exports of the record, offline.
fn audit_verify() -> Extra<Config> {
    let path = |name: &'static str| {
        clap::Arg::new(name).value_name("FILE").value_parser(clap::value_parser!(PathBuf)).required(true)
    };
    let command = clap::Command::new("audit-verify")
        .about("Check exports of the record of security events: that nothing was changed, removed, moved or cut off")
        .arg(
            path("exports")
                .num_args(1..)
                .help("Answers of GET /auth/audit/export, in their order, from the first entry on"),
        )
        .arg(
            path("keys").long("keys").help("A key set, as /.well-known/jwks.json gave it when the record was exported"),
        )
        .arg(
            path("checkpoint")
                .long("checkpoint")
                .required(false)
                .action(clap::ArgAction::Append)
                .help("An answer of GET /auth/audit/checkpoint that was kept elsewhere; may be repeated"),
        );
    Extra {
        command,
        run: |_, matches| {
            let all = |name: &str| -> Vec<PathBuf> { matches.get_many(name).into_iter().flatten().cloned().collect() };
            let (exports, keys, kept) = (all("exports"), all("keys"), all("checkpoint"));
            Box::pin(async move {
                let exports: Vec<&Path> = exports.iter().map(PathBuf::as_path).collect();
                let kept: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
                let keys = keys.first().context("clap asks for it")?;
                let said = offline::run(&exports, keys, &kept)?;
                writeln!(std::io::stdout(), "{said}").context("print")
            })
        },
    }
}
