//! `cargo xtask`: all automation of the workspace. It starts and stops the platform, runs the tests and checks the rules;
//! it holds no logic that the services need at run time.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks on its standard streams")]

mod cargo;
mod checks;
mod instance;
mod packages;
mod phases;
mod platform;
mod ports;
mod process;
mod progress;
mod slow;
mod stores;
mod tidy;

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use clap::{Parser, Subcommand};

/// Kronos: the platform's automation.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start the whole platform, and stay until Ctrl-C.
    Up {
        /// Leave it running and return.
        #[arg(long)]
        detach: bool,
    },
    /// End the platform and remove its data.
    Down {
        /// Keep databases, queues and secrets for the next `up`.
        #[arg(long)]
        keep_data: bool,
    },
    /// Say what runs where.
    Status {
        /// Everything that a script needs, credentials included.
        #[arg(long)]
        json: bool,
    },
    /// Show the log of a service or store.
    Logs {
        /// Its name, such as auth-service or postgres.
        service: String,
        /// Go on with what is written from now.
        #[arg(short, long)]
        follow: bool,
        /// How many lines from the end.
        #[arg(short = 'n', long, default_value_t = 200)]
        lines: usize,
    },
    /// Run more or fewer instances of a service, behind the gateway.
    Scale {
        /// SERVICE=COUNT, such as messaging-service=2.
        wanted: platform::Wanted,
    },
    /// Play the platform's journeys through the gateway, told step by step. Starts the platform if need be.
    Demo {
        /// What to pass on, such as --times 10.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure, and print ratios. Starts the platform if need be.
    Bench {
        /// Which measurement, such as journey.
        name: String,
        /// What to pass on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Start what the tests need, and run them.
    Test {
        /// The slow ones too.
        #[arg(long)]
        all: bool,
        /// Of one package only.
        #[arg(short, long)]
        package: Option<String>,
        /// Of these names only.
        filters: Vec<String>,
    },
    /// Check the rules that the compiler does not know.
    Tidy,
    /// Check everything: format, rules, lints, all tests.
    Ci,
    /// Start the stores that the tests use, with an empty, migrated database template.
    Stores {
        /// Leave them running and return.
        #[arg(long)]
        detach: bool,
        /// Stop them and remove their data.
        #[arg(long, conflicts_with = "detach")]
        stop: bool,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let only_prints = matches!(
        command,
        Task::Status { .. }
            | Task::Logs { .. }
            | Task::Tidy
            | Task::Up { detach: true }
            | Task::Stores { detach: true, .. }
    );
    if only_prints && let Err(error) = end_with_the_reader() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let outcome = match command {
        Task::Up { detach } => platform::up(detach),
        Task::Down { keep_data } => platform::down(keep_data),
        Task::Status { json } => platform::status(json),
        Task::Logs { service, follow, lines } => platform::logs(&service, follow, lines),
        Task::Scale { wanted } => platform::scale(&wanted),
        Task::Demo { arguments } => program("demo", arguments),
        Task::Bench { name, arguments } => program("bench", [vec![name], arguments].concat()),
        Task::Test { all, package, filters } => checks::test(all, package.as_deref(), &filters),
        Task::Tidy => tidy::tidy(),
        Task::Ci => checks::ci(),
        Task::Stores { stop: true, .. } => stores::command_stop(),
        Task::Stores { detach, .. } => stores::command_start(detach),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a program of `tests/e2e` against the platform.
fn program(name: &str, arguments: Vec<String>) -> anyhow::Result<()> {
    platform::run_against(|binaries, target| {
        phases::run(Command::new(binaries.join(name)).arg("--target").arg(target).args(&arguments))
    })
}

/// For commands that print and leave nothing to clean up: `cargo xtask logs auth-service | head` ends quietly when `head` does.
fn end_with_the_reader() -> anyhow::Result<()> {
    let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGPIPE, 141, always)?;
    Ok(())
}

/// Waits before a next look at something that cannot call back.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
