//! `cargo xtask`: all automation of the workspace. It starts and stops the platform, runs the tests and checks the rules;
//! it holds no logic that the services need at run time.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on its standard streams"
)]

mod instance;
mod packages;
mod ports;
mod process;
mod progress;
mod stores;

use std::{path::PathBuf, process::ExitCode, time::Duration};

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
    let outcome = match Cli::parse().command {
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

/// Waits before a next look at something that cannot call back.
#[expect(clippy::disallowed_methods, reason = "there is no runtime here to block")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
