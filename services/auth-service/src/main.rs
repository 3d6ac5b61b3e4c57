//! The binary of auth-service.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("auth-service", auth_service::DEFAULTS, auth_service::start)
}
