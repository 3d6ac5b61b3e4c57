//! The process; everything is in the library.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("messaging-service", messaging_service::DEFAULTS, messaging_service::start)
}
