//! The words of the command line, and of the lines that are typed at the serial port.

use core::fmt;

use crate::{content::Fill, page::Touch};

/// What the guest was asked to do. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Params {
    /// `work=`: the working set. `None`: all that is owned.
    pub work: Option<u64>,
    /// `own=`: memory that is filled and checked. `None`: all that is free.
    pub own: Option<u64>,
    /// `rate=`: how fast the working set is dirtied.
    pub rate: Rate,
    /// `order=`: which page of the working set is next.
    pub order: Order,
    /// `touch=`: how much of a page changes.
    pub touch: Touch,
    /// `fill=`: what memory is filled with.
    pub fill: Fill,
    /// `verify=`: percent of the time spent on checking pages, 0 to 90.
    pub verify: u32,
    /// `cpus=`: how many CPUs to use, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// `writers=`: of these CPUs, how many dirty memory; the others only check it. `None`: all do both.
    pub writers: Option<u32>,
    /// `ip=`: the address to answer for. `None`: the network is left alone.
    pub ip: Option<[u8; 4]>,
    /// `disk=`: operations per second on the first disk. 0: the disk is left alone.
    pub disk: u32,
    /// `balloon=`: whether to serve the balloon.
    pub balloon: bool,
    /// `rng=`: whether to read random numbers.
    pub rng: bool,
    /// `keys=`: whether to print keys.
    pub keys: bool,
    /// `waits=`: whether to report how long accesses to memory took.
    pub waits: bool,
    /// `report=`: milliseconds between two reports, 10 to 3600000.
    pub report_ms: u64,
    /// `seed=`: what this guest's pages differ by from another's.
    pub seed: u64,
    /// `poweroff=PORT:VALUE`: what to write where to power off.
    pub poweroff: Option<(u16, u16)>,
    /// `virtio_mmio.device=SIZE@BASE:IRQ`, as for Linux: where else to look for devices.
    pub devices: [Option<u64>; MAX_NAMED_DEVICES],
}

/// CPUs that the guest can use.
pub const MAX_CPUS: u32 = 64;
/// Devices that the command line can name.
pub const MAX_NAMED_DEVICES: usize = 16;
/// What `verify=on` means: a quarter of the time.
const DEFAULT_VERIFY_PERCENT: u32 = 25;
/// What `disk=on` means: at about 50 µs for each exit to a slow host this is a few percent of a CPU.
const DEFAULT_DISK_RATE: u32 = 200;
const MAX_DISK_RATE: u32 = 1_000_000;

/// How fast memory is dirtied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Bytes per second, a page counting as 4096 however little of it changes.
    BytesPerSecond(u64),
    /// As fast as it goes.
    Max,
}

/// The order in which the working set is dirtied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By address, round and round.
    Sequential,
    /// At random.
    Random,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            work: None,
            own: None,
            rate: Rate::BytesPerSecond(100_000_000),
            order: Order::Sequential,
            touch: Touch::Word,
            fill: Fill::Random,
            verify: DEFAULT_VERIFY_PERCENT,
            cpus: 1,
            writers: None,
            ip: None,
            disk: 0,
            balloon: false,
            rng: false,
            keys: false,
            waits: false,
            report_ms: 1000,
            seed: 1,
            poweroff: None,
            devices: [None; MAX_NAMED_DEVICES],
        }
    }
}

/// Why a word was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such word.
    Unknown,
    /// The value is not what this word takes.
    BadValue,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Unknown => "unknown-word",
            Refusal::BadValue => "bad-value",
        })
    }
}

impl Params {
    /// Takes the words of a command line in order, the last of a kind counting. Those that are not
    /// understood go to `refused`, and change nothing.
    pub fn parse(line: &str, mut refused: impl FnMut(&str, Refusal)) -> Self {
        let mut params = Self::default();
        for word in line.split_ascii_whitespace() {
            if let Err(refusal) = params.take(word) {
                refused(word, refusal);
            }
        }
        params
    }

    /// Takes one word, `key=value`.
    ///
    /// # Errors
    /// Why it was not taken; nothing has changed then.
    pub fn take(&mut self, word: &str) -> Result<(), Refusal> {
        let (key, value) = word.split_once('=').ok_or(Refusal::Unknown)?;
        match key {
            "work" => set(&mut self.work, size(value).map(Some)),
            "own" => set(&mut self.own, size(value).map(Some)),
            "rate" => set(&mut self.rate, rate(value)),
            "order" => set(&mut self.order, order(value)),
            "touch" => set(&mut self.touch, touch(value)),
            "fill" => set(&mut self.fill, fill(value)),
            "verify" => set(&mut self.verify, level(value, DEFAULT_VERIFY_PERCENT, 90)),
            "cpus" => set(&mut self.cpus, value.parse().ok().filter(|n| (1..=MAX_CPUS).contains(n))),
            "writers" => {
                set(&mut self.writers, value.parse().ok().filter(|n| (1..=MAX_CPUS).contains(n)).map(Some))
            }
            "ip" => set(&mut self.ip, ip(value).map(Some)),
            "disk" => set(&mut self.disk, level(value, DEFAULT_DISK_RATE, MAX_DISK_RATE)),
            "balloon" => set(&mut self.balloon, switch(value)),
            "rng" => set(&mut self.rng, switch(value)),
            "keys" => set(&mut self.keys, switch(value)),
            "waits" => set(&mut self.waits, switch(value)),
            "report" => set(&mut self.report_ms, number(value).filter(|ms| (10..=3_600_000).contains(ms))),
            "seed" => set(&mut self.seed, number(value)),
            "poweroff" => set(&mut self.poweroff, port_and_value(value).map(Some)),
            "virtio_mmio.device" => self.add_device(value),
            _ => Err(Refusal::Unknown),
        }
    }

    fn add_device(&mut self, value: &str) -> Result<(), Refusal> {
        let (_, place) = value.split_once('@').ok_or(Refusal::BadValue)?;
        let base = place.split(':').next().and_then(number).ok_or(Refusal::BadValue)?;
        let free = self.devices.iter_mut().find(|slot| slot.is_none()).ok_or(Refusal::BadValue)?;
        *free = Some(base);
        Ok(())
    }
}

fn set<T>(place: &mut T, value: Option<T>) -> Result<(), Refusal> {
    *place = value.ok_or(Refusal::BadValue)?;
    Ok(())
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number with a suffix: `k` steps of `step` to the next.
fn scaled(text: &str, step: u64) -> Option<u64> {
    let power = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => 1,
        b'M' => 2,
        b'G' => 3,
        b'T' => 4,
        _ => 0,
    };
    let digits = if power == 0 { text } else { &text[..text.len() - 1] };
    number(digits)?.checked_mul(step.pow(power))
}

/// Memory: `256M` is 256 MiB.
fn size(text: &str) -> Option<u64> {
    scaled(text, 1024)
}

/// A rate: `100M` is 100 000 000 bytes per second.
fn rate(text: &str) -> Option<Rate> {
    if text == "max" { Some(Rate::Max) } else { scaled(text, 1000).map(Rate::BytesPerSecond) }
}

fn order(text: &str) -> Option<Order> {
    match text {
        "seq" => Some(Order::Sequential),
        "random" => Some(Order::Random),
        _ => None,
    }
}

fn touch(text: &str) -> Option<Touch> {
    match text {
        "word" => Some(Touch::Word),
        "part" => Some(Touch::Part),
        "page" => Some(Touch::Page),
        _ => None,
    }
}

fn fill(text: &str) -> Option<Fill> {
    match text {
        "zero" => Some(Fill::Zero),
        "sparse" => Some(Fill::Sparse),
        "text" => Some(Fill::Text),
        "random" => Some(Fill::Random),
        _ => None,
    }
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// `on`, `off`, or a number up to `most`.
fn level(text: &str, on: u32, most: u32) -> Option<u32> {
    match switch(text) {
        Some(true) => Some(on),
        Some(false) => Some(0),
        None => text.parse().ok().filter(|n| *n <= most),
    }
}

fn ip(text: &str) -> Option<[u8; 4]> {
    let mut address = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut address {
        *byte = parts.next()?.parse().ok()?;
    }
    if parts.next().is_some() || address == [0; 4] { None } else { Some(address) }
}

fn port_and_value(text: &str) -> Option<(u16, u16)> {
    let (port, value) = text.split_once(':')?;
    Some((u16::try_from(number(port)?).ok()?, u16::try_from(number(value)?).ok()?))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::BytesPerSecond(rate) => write!(f, "{rate}"),
            Rate::Max => f.write_str("max"),
        }
    }
}

impl fmt::Display for Params {
    /// All that does not depend on the machine, in the words that were typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::Sequential => "seq",
            Order::Random => "random",
        };
        let touch = match self.touch {
            Touch::Word => "word",
            Touch::Part => "part",
            Touch::Page => "page",
        };
        let fill = match self.fill {
            Fill::Zero => "zero",
            Fill::Sparse => "sparse",
            Fill::Text => "text",
            Fill::Random => "random",
        };
        let on = |on: bool| if on { "on" } else { "off" };
        write!(f, "rate={} order={order} touch={touch} fill={fill} verify={}", self.rate, self.verify)?;
        let [a, b, c, d] = self.ip.unwrap_or_default();
        write!(f, " ip={a}.{b}.{c}.{d} disk={} balloon={}", self.disk, on(self.balloon))?;
        write!(f, " rng={} keys={} waits={}", on(self.rng), on(self.keys), on(self.waits))?;
        write!(f, " report={} seed={:#x}", self.report_ms, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Params, Vec<(String, Refusal)>) {
        let mut refusals = Vec::new();
        let params = Params::parse(line, |word, refusal| refusals.push((word.to_owned(), refusal)));
        (params, refusals)
    }

    #[test]
    fn every_word_is_understood() {
        let (params, refusals) = parse(
            "work=256M own=1G rate=100M order=random touch=part fill=text verify=off cpus=2 ip=10.0.0.2 \
             disk=on balloon=on rng=on keys=on waits=on report=500 seed=0xabc poweroff=0x604:0x2000 \
             virtio_mmio.device=512@0xfeb02e00:12",
        );
        assert_eq!(refusals, []);
        assert_eq!((params.work, params.own), (Some(256 << 20), Some(1 << 30)));
        assert_eq!(params.rate, Rate::BytesPerSecond(100_000_000));
        assert_eq!((params.order, params.touch, params.fill), (Order::Random, Touch::Part, Fill::Text));
        assert_eq!((params.verify, params.cpus, params.ip), (0, 2, Some([10, 0, 0, 2])));
        assert_eq!((params.disk, params.balloon, params.rng, params.keys), (200, true, true, true));
        assert_eq!((params.waits, params.report_ms, params.seed), (true, 500, 0xabc));
        assert_eq!(params.poweroff, Some((0x604, 0x2000)));
        assert_eq!(params.devices[0], Some(0xfeb0_2e00));
    }

    #[test]
    fn what_is_not_understood_is_named_and_changes_nothing() {
        let (params, refusals) = parse("console=ttyS0 quiet work=lots cpus=65 ip=1.2.3 rate=99999999999G");
        assert_eq!(params.work, None);
        assert_eq!(params.cpus, 1);
        assert_eq!(refusals.len(), 6);
        assert_eq!(refusals[0], ("console=ttyS0".to_owned(), Refusal::Unknown));
        assert_eq!(refusals[2], ("work=lots".to_owned(), Refusal::BadValue));
    }

    #[test]
    fn odd_texts_are_bad_values() {
        for word in ["work=", "work=M", "work=é", "verify=91", "poweroff=1", "report=1", "ip=0.0.0.0", "ip="]
        {
            assert_eq!(Params::default().take(word), Err(Refusal::BadValue), "{word}");
        }
    }
}
