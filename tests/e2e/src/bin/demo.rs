//! `cargo xtask demo`: plays the journey against a platform that is up, told step by step.
#![expect(clippy::print_stdout, reason = "telling is its purpose")]

use std::{path::PathBuf, time::Instant};

use anyhow::Context as _;
use clap::Parser;
use kronos_e2e::journey::{self, Told};

/// Plays Kronos's journeys through the gateway.
#[derive(Parser)]
struct Arguments {
    /// The output of `cargo xtask status --json`, in a file.
    #[arg(long)]
    target: PathBuf,
    /// How often.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    kronos_common::service::install_crypto();
    let arguments = Arguments::parse();
    let target = std::fs::read(&arguments.target).with_context(|| format!("read {}", arguments.target.display()))?;
    let target = serde_json::from_slice(&target).context("read the platform's description")?;
    for time in 1..=arguments.times {
        if arguments.times > 1 {
            println!("\n== Run {time} of {}", arguments.times);
        }
        let begun = Instant::now();
        let mut tell = |told: Told<'_>| match told {
            Told::Chapter(title) => println!("\n{title}"),
            Told::Done(line) => println!("  ✓ {line}"),
        };
        journey::play(&target, &mut tell).await?;
        println!("\nAll of it in {:.1} s.", begun.elapsed().as_secs_f64());
    }
    Ok(())
}
