//! `whimbrel-vmm`: one process, one virtual machine.

use std::{io::IsTerminal as _, process::ExitCode};

use config::{Invocation, LogFormat, LogLevel, from_args_with};

fn main() -> ExitCode {
    let config = match from_args_with(std::env::args_os(), vmm::read_in_time) {
        Ok(Invocation::Run(config)) => *config,
        Ok(Invocation::Print(text)) => {
            return match output::show(&format!("{text}\n")) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error),
            };
        }
        Ok(Invocation::PrintCpu) => {
            return match vmm::host_cpu() {
                Ok(text) => match output::show(&format!("{text}\n")) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => fail(&error),
                },
                Err(error) => fail(&error),
            };
        }
        Err(error) => return fail(&error),
    };
    log_to_stderr(config.log(), config.log_format());
    match vmm::run(&config) {
        Ok(status) => {
            vmm::last_lines();
            ExitCode::from(status)
        }
        Err(error) => fail(&error),
    }
}

/// Says what went wrong and everything that caused it.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    vmm::last_words(error);
    ExitCode::FAILURE
}

fn log_to_stderr(level: LogLevel, format: LogFormat) {
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_writer(output::Log::default).with_ansi(colours);
    // It would print its own errors with `eprintln!`, which panics where standard error is what fails.
    let log = log.log_internal_errors(false).with_max_level(max_level(level));
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
}

fn max_level(level: LogLevel) -> tracing::level_filters::LevelFilter {
    use tracing::level_filters::LevelFilter;
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
