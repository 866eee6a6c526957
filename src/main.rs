//! `sim`: the command line of the simulator.

mod cli;

use std::io::Write;
use std::process::ExitCode;

/// Exit code of a defect of the program itself, as Rust's own.
const DEFECT: i32 = 101;

fn main() -> ExitCode {
    // The release build aborts on a panic, which would end with a signal and
    // leave the other threads no say; the hook gives every build one exit code.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        let _ = writeln!(
            std::io::stderr(),
            "sim {}: this is a defect of sim, not of the experiment; please report the lines above",
            env!("CARGO_PKG_VERSION")
        );
        std::process::exit(DEFECT);
    }));
    ExitCode::from(cli::main(std::env::args_os()))
}
