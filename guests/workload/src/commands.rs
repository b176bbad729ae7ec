//! Lines typed at the serial port: echoed, and obeyed where they are orders.

use core::sync::atomic::Ordering;

use workload::{page::BYTES, params::Params};

use crate::{
    console::{Text, say},
    shared::{ORDERS, Setup},
};

/// Collects bytes into lines.
#[derive(Debug)]
pub(crate) struct Commands {
    line: Text,
}

/// An order that only the main loop can carry out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Request {
    PowerOff,
    Reset,
}

impl Commands {
    pub(crate) fn new() -> Self {
        Self { line: Text::new() }
    }

    /// Takes a byte. At the end of a line the line is echoed and obeyed.
    pub(crate) fn take(&mut self, byte: u8, setup: &Setup) -> Option<Request> {
        match byte {
            b'\r' | b'\n' => {}
            // Text stays ASCII, so that any byte can be echoed.
            0x20..=0x7e => {
                self.line.push(byte);
                return None;
            }
            _ => {
                self.line.push(b'?');
                return None;
            }
        }
        let line = self.line.as_str();
        if line.is_empty() {
            return None;
        }
        say!("whimbrel echo {line}");
        let mut request = None;
        for word in line.split_ascii_whitespace() {
            match word {
                "poweroff" => request = Some(Request::PowerOff),
                "reset" => request = Some(Request::Reset),
                _ if word.contains('=') => obey(word, setup),
                // Anything else was typed to see it echoed.
                _ => {}
            }
        }
        self.line.clear();
        request
    }
}

fn obey(word: &str, setup: &Setup) {
    let mut params = Params::default();
    let can_change = ["work=", "rate=", "verify="].into_iter().any(|key| word.starts_with(key));
    if !can_change {
        say!("whimbrel warning not-changeable-while-running word={word}");
        return;
    }
    if let Err(refusal) = params.take(word) {
        say!("whimbrel warning {refusal} word={word}");
        return;
    }
    if word.starts_with("work=") {
        ORDERS.set_work(params.work, setup.generations.len() as u64);
    } else if word.starts_with("rate=") {
        ORDERS.set_rate(params.rate);
    } else {
        ORDERS.verify.store(params.verify, Ordering::Relaxed);
    }
    say!(
        "whimbrel set work={} rate={} verify={}",
        ORDERS.work_pages.load(Ordering::Relaxed) * BYTES,
        ORDERS.rate(),
        ORDERS.verify.load(Ordering::Relaxed),
    );
}
