//! The binary of cache-service.

fn main() -> std::process::ExitCode {
    kronos_common::service::main("cache-service", cache_service::DEFAULTS, cache_service::start)
}
