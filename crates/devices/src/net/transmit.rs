use std::io::ErrorKind;

use super::{BUDGET, TRANSMIT, Tap};
use crate::virtio::{Driver, GuestError};

/// Sends what the driver queued, until the queue is empty, the tap is full, or other devices should have their turn.
/// True if the tap is full: then it is tried again when the tap is ready.
pub(super) fn transmit(tap: &Tap, driver: &mut Driver<'_>) -> Result<bool, GuestError> {
    let mut full = false;
    let mut done = false;
    driver.silence(TRANSMIT)?;
    for _ in 0..BUDGET {
        if let Some(chain) = driver.pop(TRANSMIT)? {
            match chain.readable.write_to(tap) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    driver.unpop(TRANSMIT, 1);
                    full = true;
                    break;
                }
                // A packet that the tap refuses (malformed, interface down) is lost, as on a wire.
                sent => {
                    let _ = sent.inspect_err(|error| tap.note(error));
                    driver.complete(TRANSMIT, &[(chain.head, 0)])?;
                }
            }
        } else if driver.listen(TRANSMIT)? {
            driver.silence(TRANSMIT)?;
        } else {
            done = true;
            break;
        }
    }
    if !done && !full {
        driver.again(TRANSMIT);
    }
    driver.interrupt(TRANSMIT)?;
    Ok(full)
}
