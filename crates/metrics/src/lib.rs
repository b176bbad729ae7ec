//! Figures of the fleet, as Prometheus reads them.
//!
//! What is so now is taken from the objects each time ([`text`]). What has been is counted in a [`Tally`], which is kept in a file: a record of a
//! migration goes after a while, what it was counted as does not. Names are KubeVirt's where the meaning is the same.

mod exposition;
mod now;
mod tally;

pub use exposition::Format;
pub use tally::{Damaged, Tally, TallyError};

use fleet::World;

use exposition::Page;

/// All figures in a format, of whoever decides.
pub fn text(world: &World, tally: &Tally, format: Format) -> String {
    let mut page = Page::new(format);
    now::leading(true, &mut page);
    now::migrations(world, &mut page);
    now::machines(world, &mut page);
    now::nodes(world, &mut page);
    now::drains(world, &mut page);
    tally.write(&mut page);
    page.finish()
}

/// The figures of who could decide, and leaves it to another: that it does not. The rest is the other's to say, and is there once.
pub fn text_while_waiting(format: Format) -> String {
    let mut page = Page::new(format);
    now::leading(false, &mut page);
    page.finish()
}
