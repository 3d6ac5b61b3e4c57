//! The gateway's process.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kronos_common::service::main("router-service", router_service::DEFAULTS, router_service::start)
}
