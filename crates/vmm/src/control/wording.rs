//! What the libraries advise, in the words of this program's monitor.

use migration::Advice;

/// What people can do about a migration that does not get to its end by itself.
pub(super) fn advice(advice: &Advice) -> Option<String> {
    Some(match advice {
        Advice::RaiseDowntimeLimit { enough } => format!(
            "Raise downtime-limit: migrate-set-parameters downtime-limit={} or more takes effect at once",
            enough.as_millis()
        ),
        Advice::TellSwitchoverBandwidth => {
            "Pages are held to max-bandwidth until the switchover, which is not: if the network is faster, say so with \
             avail-switchover-bandwidth (bytes/s), and less downtime is foretold; or raise max-bandwidth"
                .into()
        }
        // One that this program has no words for yet.
        _ => return None,
    })
}

/// What people can do while it is unknown which side has the machine.
pub(super) fn undecided() -> String {
    "Do not start the machine anywhere. Restore the network between the two hosts: this side asks the destination by itself, \
     every second, who runs the machine. If the destination can never answer again, look there whether the machine ran, and \
     say so here: take_back or let_go (whimbrel-take-back, whimbrel-let-go) tell what they risk"
        .into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn advice_names_the_parameter_and_a_value_that_it_takes() {
        let raise = advice(&Advice::RaiseDowntimeLimit { enough: Duration::from_millis(4) }).unwrap();
        assert!(raise.contains("migrate-set-parameters downtime-limit=4 or more"), "{raise}");
        let tell = advice(&Advice::TellSwitchoverBandwidth).unwrap();
        assert!(tell.contains("avail-switchover-bandwidth"), "{tell}");
    }
}
