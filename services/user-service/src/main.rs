//! The process of user-service.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("user-service", user_service::DEFAULTS, user_service::start)
}
