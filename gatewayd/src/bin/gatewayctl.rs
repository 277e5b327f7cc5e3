//! The command line tool: see `gatewayd::ctl`.

fn main() -> std::process::ExitCode {
    gatewayd::ctl::main()
}
