use std::process::Command;

use super::Bench;
use crate::rig::{Contender, End, Files, Guest};

/// Between two reports of a guest whose memory follows it, in milliseconds.
const REPORT_MS: u32 = 25;

impl Bench {
    /// The command of one end of a move: the same machine for both contenders, as far as they have one.
    pub(super) fn command(&self, contender: Contender, end: End, files: &Files) -> Command {
        let guest = Guest {
            memory: self.arguments.memory,
            cpus: self.arguments.cpus,
            backing: self.backing,
            kernel: &self.kernel,
            command_line: &self.command_line(),
            card: None,
            // Nobody else is on the link.
            insecure: self.link.is_some(),
        };
        let mut command = self.contenders.command(contender, end, &guest, files);
        if let (Some(log), Contender::Whimbrel) = (self.dirty_log, contender) {
            command.args(["--dirty-log", log]);
        }
        match &self.link {
            Some(link) => link.at(end, &command),
            None => command,
        }
    }

    fn command_line(&self) -> String {
        let arguments = &self.arguments;
        if let Some(rate) = self.follows {
            let (fill, cpus) = (&arguments.fill, arguments.cpus);
            return format!("{rate} order=random fill={fill} cpus={cpus} report={REPORT_MS} waits=on");
        }
        format!(
            "work={} rate={} fill={} cpus={} report=250",
            arguments.work,
            arguments.rate.0,
            arguments.fill,
            // With --downtime the others are there to be stopped and saved, and sleep.
            if arguments.downtime { 1 } else { arguments.cpus.get() }
        )
    }
}
