//! `up` and `down`: the whole platform started in dependency order, and ended without a trace.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use super::{
    DEV,
    gateway::Gateway,
    services::{self, ADMIN, DATABASE, GATEWAY, Placed, SERVICE_NAMES, SERVICES, Service},
    status,
};
use crate::{
    cargo,
    instance::{Instance, Secrets, root},
    packages, pause, ports,
    process::Process,
    progress::Progress,
    stores::{self, Purpose, Stores, stop_flag},
};

/// How long a service may take to finish what it has begun.
const DRAIN: Duration = Duration::from_secs(25);

/// `cargo xtask up [--detach]`.
pub(crate) fn up(detach: bool) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let mut instance = Instance::lock(DEV)?;
    if is_up(&instance)? {
        println!("Kronos is up already.");
        return status::print_summary(&instance);
    }
    bring_up(&instance, &stop)?;
    status::print_summary(&instance)?;
    instance.unlock();
    if detach {
        println!("\nIt runs on. To end it: cargo xtask down");
        return Ok(());
    }
    println!("\nCtrl-C takes it down.");
    watch(&instance, &stop);
    let instance = Instance::lock(DEV)?;
    take_down(&instance, false)
}

/// `cargo xtask down [--keep-data]`.
pub(crate) fn down(keep_data: bool) -> anyhow::Result<()> {
    take_down(&Instance::lock(DEV)?, keep_data)
}

/// Brings the platform up if it is not, hands its description (the file of `status --json`) to `work`, and takes it
/// down again if it was not up before.
pub(crate) fn run_against(work: impl FnOnce(&Path, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let stop = stop_flag()?;
    let mut instance = Instance::lock(DEV)?;
    let was_up = is_up(&instance)?;
    if !was_up {
        bring_up(&instance, &stop)?;
    }
    let prepared = Progress::new()
        .step("programs", |said| cargo::build_programs(said, &stop))
        .and_then(|binaries| Ok((binaries, status::write_file(&instance)?)));
    instance.unlock();
    let outcome = prepared.and_then(|(binaries, file)| work(&binaries, &file));
    if !was_up {
        take_down(&Instance::lock(DEV)?, false)?;
    }
    outcome
}

fn is_up(instance: &Instance) -> anyhow::Result<bool> {
    let services = SERVICES.iter().all(|service| instance.find(service.name).is_some());
    Ok(services && Stores::running(instance)?.is_some())
}

/// Starts what does not run. If anything fails, all is stopped again; data and logs stay.
fn bring_up(instance: &Instance, stop: &AtomicBool) -> anyhow::Result<()> {
    let progress = Progress::new();
    let outcome = start_all(instance, stop, &progress);
    if outcome.is_err() {
        let running = instance.alive().len();
        instance.stop(is_service, Duration::from_secs(5))?;
        instance.stop(|_| true, Duration::from_secs(10))?;
        if running > 0 {
            progress.note(&format!("  {running} processes that were started are stopped again"));
        }
    }
    outcome
}

fn start_all(instance: &Instance, stop: &AtomicBool, progress: &Progress) -> anyhow::Result<()> {
    for service in SERVICES.iter().filter(|service| instance.find(service.name).is_none()) {
        ports::ensure_free(service.api, service.name)?;
        ports::ensure_free(service.operations, &format!("{} (operations)", service.name))?;
    }
    packages::ensure(progress)?;

    let (stores, binaries) = std::thread::scope(|scope| {
        let stores = scope.spawn(|| ensure_stores(instance, progress));
        let binaries = progress.step("build", |said| cargo::build_services(said, stop));
        let stores = stores.join().unwrap_or_else(|_| bail!("starting the stores panicked"));
        anyhow::Ok((stores?, binaries?))
    })?;
    interrupted(stop)?;

    progress.step("migrate", |said| {
        let log = stores::migrate(&binaries.join("database-admin"), &stores, DATABASE)?;
        said.say(format!("{} schemas", log.lines().filter(|line| line.contains(" version ")).count()));
        Ok(())
    })?;

    let secrets = Secrets::open(instance)?;
    for wave in 1..=3 {
        interrupted(stop)?;
        let missing: Vec<&'static Service> =
            SERVICES.iter().filter(|service| service.wave == wave && instance.find(service.name).is_none()).collect();
        std::thread::scope(|scope| {
            let starting: Vec<_> = missing
                .into_iter()
                .map(|service| {
                    let (stores, secrets, binaries) = (&stores, &secrets, &binaries);
                    scope.spawn(move || {
                        progress.step(service.name, |said| {
                            let placed = Placed::first(service);
                            let (process, mut child) = services::spawn(instance, stores, secrets, binaries, &placed)?;
                            services::wait_ready(&placed, &process, &mut child)?;
                            said.say(services::url(service.api));
                            Ok(())
                        })
                    })
                })
                .collect();
            // All are waited for, so that each has its outcome shown; the first failure is the error.
            let outcomes: Vec<anyhow::Result<()>> = starting
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| bail!("starting a service panicked")))
                .collect();
            outcomes.into_iter().collect::<anyhow::Result<()>>()
        })?;
    }

    progress.step("administrator", |said| {
        let gateway = by_name_url(GATEWAY)?;
        let password = services::admin_password(&secrets)?;
        let administrator = wait_for_login(&gateway, &password, stop)?;
        wait_for_permissions(&administrator, stop)?;
        said.say("can log in");
        Ok(())
    })?;
    progress.note(&format!("  up after {:.1} s", progress.elapsed().as_secs_f64()));
    Ok(())
}

fn by_name_url(name: &str) -> anyhow::Result<String> {
    Ok(services::url(services::by_name(name)?.api))
}

/// The first start makes the administrator in the background: up means that it is done.
fn wait_for_login(gateway: &str, password: &str, stop: &AtomicBool) -> anyhow::Result<Gateway> {
    let mut outcome = Gateway::login(gateway, ADMIN, password);
    for _ in 0..150 {
        if outcome.is_ok() {
            break;
        }
        interrupted(stop)?;
        pause(Duration::from_millis(200));
        outcome = Gateway::login(gateway, ADMIN, password);
    }
    outcome.context("the first administrator cannot log in through the gateway after 30 s")
}

/// Services declare theirs in the background: up means that roles can grant them.
fn wait_for_permissions(administrator: &Gateway, stop: &AtomicBool) -> anyhow::Result<()> {
    for service in SERVICE_NAMES {
        let mut tries = 0;
        while !administrator.has_permissions_of(service)? {
            tries += 1;
            ensure!(
                tries < 150,
                "{service} has not declared its permissions after 30 s: see `cargo xtask logs {service}`"
            );
            interrupted(stop)?;
            pause(Duration::from_millis(200));
        }
    }
    Ok(())
}

/// Those that run already, or all of them anew, on the data that is there.
fn ensure_stores(instance: &Instance, progress: &Progress) -> anyhow::Result<Stores> {
    if let Some(stores) = Stores::running(instance)? {
        return Ok(stores);
    }
    // Services of an earlier start would speak to stores that are gone.
    instance.stop(is_service, DRAIN)?;
    instance.stop(|_| true, Duration::from_secs(10))?;
    stores::start(instance, Purpose::Platform, progress)
}

/// Waits for Ctrl-C, and says when a process ends by itself.
fn watch(instance: &Instance, stop: &AtomicBool) {
    let mut told: Vec<u32> = Vec::new();
    let instance_dir = &instance.dir;
    while !stop.load(Ordering::Relaxed) && instance_dir.exists() {
        // `scale` changes what should run: only what is still on record and dead is worth a word.
        if let Ok(now) = Instance::look(DEV) {
            for process in now.known().iter().filter(|process| !process.is_alive()) {
                if !told.contains(&process.pid) {
                    told.push(process.pid);
                    println!("{} (pid {}) has ended; its log: {}", process.name, process.pid, process.log.display());
                }
            }
        }
        pause(Duration::from_millis(300));
    }
}

fn take_down(instance: &Instance, keep_data: bool) -> anyhow::Result<()> {
    let count = instance.alive().len();
    let mut killed = instance.stop(is_service, DRAIN)?;
    killed.extend(instance.stop(|_| true, Duration::from_secs(if keep_data { 30 } else { 5 }))?);
    if !keep_data {
        instance.remove()?;
    }
    if count == 0 {
        println!("Kronos is not up.");
        return Ok(());
    }
    let what = if keep_data { "the data is kept" } else { "the data is removed" };
    println!("Kronos is down: {count} processes ended, {what}.");
    // Without its data a store has nothing to finish.
    let late: Vec<&str> =
        killed.iter().map(String::as_str).filter(|name| keep_data || !stores::NAMES.contains(name)).collect();
    if !late.is_empty() {
        println!("These had to be killed: {}", late.join(", "));
    }
    if keep_data {
        println!("  {}", root()?.join(".kronos").join(DEV).display());
    }
    Ok(())
}

fn is_service(process: &Process) -> bool {
    SERVICES.iter().any(|service| process.name.starts_with(service.name))
}

fn interrupted(stop: &AtomicBool) -> anyhow::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(anyhow::anyhow!("stopped")) } else { Ok(()) }
}
