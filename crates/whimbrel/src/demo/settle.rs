use std::time::{Duration, Instant};

use guests::Report;

use super::{
    hop::{Hop, HopError},
    plan::Plan,
    screen::Screen,
};
use crate::rig::{ByteRate, Felt, Interrupt, Witness, checked_since_arrival};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until the guest has checked every page that it owns since it arrived.
pub(super) fn settle(
    plan: &Plan,
    screen: &Screen,
    interrupt: &Interrupt,
    witness: &mut Witness,
    hop: &Hop,
) -> Result<Felt, HopError> {
    // A quarter of each CPU's time goes into checks: even an emulated guest does more than this.
    let limit = Duration::from_secs(30 + plan.memory.bytes() / 50_000_000);
    let begun = Instant::now();
    screen.begin_bar("every page is checked");
    loop {
        witness.listen()?;
        let since = &witness.reports()[hop.arrived_at..];
        match checked_since_arrival(since) {
            Some(fraction) if fraction >= 1.0 => break,
            fraction => screen.move_bar(fraction.unwrap_or(0.0), &message(since)),
        }
        if begun.elapsed() > limit {
            return Err(HopError::Unchecked { seconds: limit.as_secs() });
        }
        interrupt.sleep(LOOK_EVERY)?;
    }
    screen.end_bar();
    Ok(Felt::new(witness.reports(), hop.begun_at, hop.arrived_at))
}

fn message(since: &[Report]) -> String {
    match since {
        [.., before, last] => {
            let millis = last.tsc_ms.saturating_sub(before.tsc_ms).max(1);
            let bytes = last.verified.saturating_sub(before.verified).saturating_mul(4096);
            format!("{}  errors {}", ByteRate(bytes.saturating_mul(1000) / millis), last.errors)
        }
        _ => "waiting for the guest's word".to_owned(),
    }
}
