//! `whimbrel-lab-agent`: the lab's hands in a host or a guest. One file, no configuration.

mod serve;
mod tools;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain!("whimbrel-lab-agent {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// What the first word asks for.
fn run(words: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match words {
        ["dial", address, token] => Ok(serve::dial(address, token)?),
        ["listen", address] => Ok(serve::listen(address)?),
        ["memory", rest @ ..] => Ok(tools::memory::run(rest)?),
        ["disk", rest @ ..] => Ok(tools::disk::run(rest)?),
        ["film", rest @ ..] => Ok(tools::film::run(rest)?),
        ["stream", rest @ ..] => Ok(tools::stream::run(rest)?),
        ["clock", rest @ ..] => Ok(tools::clock::run(rest)?),
        ["keys", rest @ ..] => Ok(tools::keys::run(rest)?),
        ["ping", rest @ ..] => Ok(tools::ping::run(rest)?),
        ["speed", rest @ ..] => Ok(tools::speed::run(rest)?),
        _ => Err("Say what: dial, listen, memory, disk, film, stream, clock, keys, ping or speed".into()),
    }
}
