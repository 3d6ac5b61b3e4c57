//! A service's `main`: command line, configuration, telemetry, runtime, exit code.

use std::{collections::HashMap, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use futures::future::BoxFuture;

use crate::{
    config::{self, ServiceConfig},
    identity::ServiceToken,
    service::Running,
    telemetry,
};

/// A subcommand beside serving, such as `database-admin migrate`.
pub struct Extra<C> {
    /// Name and help.
    pub command: Command,
    /// What it does with the configuration.
    pub run: fn(C, ArgMatches) -> BoxFuture<'static, anyhow::Result<()>>,
}

/// Runs a service until it is told to end. Exit code 0 after a drain, 1 with a message on standard error otherwise.
pub fn main<C, F>(name: &'static str, defaults: &'static str, start: fn(C) -> F) -> ExitCode
where
    C: ServiceConfig,
    F: Future<Output = anyhow::Result<Running>>,
{
    main_with(name, defaults, start, Vec::new())
}

/// As [`main`], with subcommands.
pub fn main_with<C, F>(name: &'static str, defaults: &'static str, start: fn(C) -> F, extras: Vec<Extra<C>>) -> ExitCode
where
    C: ServiceConfig,
    F: Future<Output = anyhow::Result<Running>>,
{
    match run(name, defaults, start, extras) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run<C, F>(name: &'static str, defaults: &'static str, start: fn(C) -> F, extras: Vec<Extra<C>>) -> anyhow::Result<()>
where
    C: ServiceConfig,
    F: Future<Output = anyhow::Result<Running>>,
{
    let matches = command(name).subcommands(extras.iter().map(|extra| extra.command.clone())).get_matches();
    let file = matches.get_one::<PathBuf>("config").cloned();
    let environment: HashMap<String, String> = config::environment();
    let config: C = config::load(defaults, file.as_deref(), &environment)?;
    if matches.get_flag("check") {
        let text = config::describe(defaults, file.as_deref(), &environment)?;
        return writeln!(std::io::stdout(), "{text}").context("print the configuration");
    }
    install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    if let Some((chosen, matches)) = matches.subcommand() {
        let extra = extras.into_iter().find(|extra| extra.command.get_name() == chosen);
        let extra = extra.context("clap accepts no other subcommand")?;
        return runtime.block_on((extra.run)(config, matches.clone()));
    }
    let mut telemetry = telemetry::init(name, config.telemetry())?;
    let shipping = telemetry.take_shipping().zip(config.telemetry().logs_endpoint.clone());
    let token = ServiceToken::new(config.identity())?;
    runtime.block_on(async {
        let shipping_end = tokio_util::sync::CancellationToken::new();
        let shipper =
            shipping.map(|(receiver, endpoint)| tokio::spawn(receiver.ship(endpoint, token, shipping_end.clone())));
        let served = async { start(config).await?.until_signal().await }.await;
        if let Err(error) = &served {
            tracing::error!(error = format!("{error:#}"), "{name} failed");
        }
        shipping_end.cancel();
        if let Some(shipper) = shipper {
            // Lines that could not be shipped are on standard output.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(3), shipper).await;
        }
        served
    })?;
    telemetry.finish();
    Ok(())
}

fn command(name: &'static str) -> Command {
    Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about(format!(
            "{name}, a part of Kronos. Configured by a file and KRONOS_… variables; `--check` shows the result."
        ))
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .global(true)
                .help("A TOML file over the built-in defaults"),
        )
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Check the configuration, print it with secrets hidden, and end"),
        )
}

/// Makes aws-lc-rs the process's one TLS provider. Calling it again changes nothing.
pub fn install_crypto() {
    // The error says only that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
