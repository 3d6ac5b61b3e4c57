//! The subcommands beside serving.

use std::{fs::File, io::BufReader, path::PathBuf};

use anyhow::Context as _;
use clap::{Arg, Command, value_parser};
use kronos_common::{seal::Keyring, service::Extra};

use crate::{Config, migrate, vault};

/// Every subcommand.
pub fn all() -> Vec<Extra<Config>> {
    vec![
        Extra {
            command: Command::new("migrate").about(
                "Makes the database, the roles and the schemas, and applies what is missing. Reads [migrate] alone.",
            ),
            run: |config, _| Box::pin(async move { migrate::run(&config.migrate, &mut std::io::stdout()).await }),
        },
        Extra {
            command: Command::new("open-backup")
                .about("Writes the dump that a backup holds to standard output, for pg_restore")
                .arg(Arg::new("file").required(true).value_name("BACKUP").value_parser(value_parser!(PathBuf))),
            run: |config, matches| {
                let path = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
                Box::pin(async move { open_backup(&config, &path) })
            },
        },
    ]
}

fn open_backup(config: &Config, path: &std::path::Path) -> anyhow::Result<()> {
    let keyring = if config.sealing.active.is_empty() { None } else { Some(Keyring::new(&config.sealing)?) };
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    vault::open(BufReader::new(file), keyring.as_ref(), std::io::stdout().lock())
        .with_context(|| format!("read {}", path.display()))
}
