//! The program; all of it is in the library.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("log-service", log_service::DEFAULTS, log_service::start)
}
