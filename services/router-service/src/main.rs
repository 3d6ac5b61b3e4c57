//! The gateway's process.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("router-service", router_service::DEFAULTS, router_service::start)
}
