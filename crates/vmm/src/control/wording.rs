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
        Advice::DoesNotConverge { per_cent, downtime } => format!(
            "It does not come to its end: memory is dirtied as fast as it is sent. Each of these would end it: capability auto-converge, \
             which would take about {per_cent} % of the time of vCPUs that write; downtime-limit={} or more, at once; capability \
             postcopy-ram; or whimbrel-deadline, which chooses. Capabilities and deadlines hold from the next start: cancel first",
            downtime.as_millis()
        ),
        Advice::AllowMore { throttle, postcopy } => {
            let help = [(*throttle, "throttle"), (*postcopy, "postcopy (with the capability postcopy-ram)")];
            let help: Vec<_> = help.into_iter().filter(|(helps, _)| *helps).map(|(_, name)| name).collect();
            if help.is_empty() {
                "No means is left: more bandwidth, a later deadline, or a guest that does less".into()
            } else {
                format!("The deadline is not foretold to be met: allow {} in whimbrel-means, or a longer downtime by \
                 whimbrel-downtime-max", help.join(" and "))
            }
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
        let ends = Advice::DoesNotConverge { per_cent: 71, downtime: Duration::from_millis(2100) };
        let ends = advice(&ends).unwrap();
        assert!(ends.contains("71 %") && ends.contains("downtime-limit=2100 or more"), "{ends}");
        let allow = advice(&Advice::AllowMore { throttle: true, postcopy: false }).unwrap();
        assert!(allow.contains("allow throttle in whimbrel-means") && !allow.contains("postcopy"), "{allow}");
        let tell = advice(&Advice::TellSwitchoverBandwidth).unwrap();
        assert!(tell.contains("avail-switchover-bandwidth"), "{tell}");
    }
}
