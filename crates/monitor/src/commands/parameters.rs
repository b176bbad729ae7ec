use std::ops::RangeInclusive;

use super::{
    Context, Outcome,
    arguments::{Arguments, in_range},
    done, encodings, ending,
};
use crate::{
    CommandError,
    types::{AnnounceParameters, Digest, MAX_CHANNELS, ParameterChange, Postcopy},
};

/// The parameters that can be set, as `migrate-set-parameters` and `migrate_set_parameter` name them.
pub(crate) const PARAMETER_NAMES: [&str; 14] = [
    "announce-initial",
    "announce-max",
    "announce-rounds",
    "announce-step",
    "max-bandwidth",
    "downtime-limit",
    "avail-switchover-bandwidth",
    "multifd-channels",
    "tls-creds",
    "tls-hostname",
    "tls-authz",
    "max-postcopy-bandwidth",
    "whimbrel-digest",
    "whimbrel-postcopy",
];

/// Parameters of QEMU's that mean something that Whimbrel does not do.
const NOT_SUPPORTED: [&str; 12] = [
    "block-bitmap-mapping",
    "block-incremental",
    "compress-level",
    "compress-threads",
    "compress-wait-thread",
    "decompress-threads",
    "direct-io",
    "mode",
    "multifd-qatzip-level",
    "multifd-zlib-level",
    "x-checkpoint-delay",
    "zero-page-detection",
];

/// Milliseconds that `downtime-limit` may be: QEMU's range.
const DOWNTIME_LIMIT_MS: RangeInclusive<u64> = 0..=2_000_000;

impl AnnounceParameters {
    /// Milliseconds that `initial` and `max` may be: QEMU's range.
    pub(super) const PAUSE_MS: RangeInclusive<u64> = 0..=100_000;
    /// Packets that `rounds` may be: QEMU's range.
    pub(super) const ROUNDS: RangeInclusive<u64> = 0..=1000;
    /// Milliseconds that `step` may be: QEMU's range.
    pub(super) const STEP_MS: RangeInclusive<u64> = 1..=10_000;
}

pub(super) fn migrate_set_parameters(context: Context<'_>, arguments: Arguments) -> Outcome {
    done(context.handler.migrate_set_parameters(&parse(arguments)?))
}

fn parse(mut arguments: Arguments) -> Result<ParameterChange, CommandError> {
    if let Some(name) = arguments.names().find(|name| NOT_SUPPORTED.contains(name)) {
        return Err(CommandError::generic(format!(
            "Parameter '{name}' of QEMU's is not supported by Whimbrel"
        )));
    }
    let tls_creds = arguments.optional_string_or_null("tls-creds")?;
    let tls_hostname = arguments.optional_string_or_null("tls-hostname")?;
    let tls_authz = arguments.optional_string_or_null("tls-authz")?;
    let end = ending::take(&mut arguments)?;
    let encoding = encodings::take(&mut arguments)?;
    let mut number = |name: &str, range: RangeInclusive<u64>| match arguments.optional_u64(name)? {
        Some(value) => in_range(name, value, range).map(Some),
        None => Ok(None),
    };
    let change = ParameterChange {
        announce_initial: number("announce-initial", AnnounceParameters::PAUSE_MS)?,
        announce_max: number("announce-max", AnnounceParameters::PAUSE_MS)?,
        announce_rounds: number("announce-rounds", AnnounceParameters::ROUNDS)?,
        announce_step: number("announce-step", AnnounceParameters::STEP_MS)?,
        max_bandwidth: number("max-bandwidth", 0..=u64::MAX)?,
        downtime_limit: number("downtime-limit", DOWNTIME_LIMIT_MS)?,
        avail_switchover_bandwidth: number("avail-switchover-bandwidth", 0..=u64::MAX)?,
        multifd_channels: number("multifd-channels", 1..=u64::from(MAX_CHANNELS))?
            .and_then(|count| u8::try_from(count).ok()),
        tls_creds,
        tls_hostname,
        tls_authz,
        max_postcopy_bandwidth: number("max-postcopy-bandwidth", 0..=u64::MAX)?,
        whimbrel_digest: digest(&mut arguments)?,
        whimbrel_postcopy: postcopy(&mut arguments)?,
        encoding,
        end,
    };
    arguments.finish()?;
    Ok(change)
}

/// One parameter given as text: the arguments of `migrate_set_parameter`. As in QEMU, bandwidths are in MiB/s if they have
/// no suffix.
pub(crate) fn parse_text(name: &str, value: &str) -> Result<ParameterChange, CommandError> {
    if let Some(word) = ending::word(name, value) {
        return parse(Arguments::new([(name.to_owned(), word?)].into_iter().collect()));
    }
    if let Some(word) = encodings::word(name, value) {
        return parse(Arguments::new([(name.to_owned(), word)].into_iter().collect()));
    }
    let unknown = || CommandError::generic(format!("invalid parameter value: {name}"));
    let argument = match name {
        _ if NOT_SUPPORTED.contains(&name) => serde_json::Value::Null,
        "tls-creds" | "tls-hostname" | "tls-authz" => value.trim_matches(['\'', '"']).into(),
        "whimbrel-digest" if value == "on" => true.into(),
        "whimbrel-digest" | "whimbrel-postcopy" => value.into(),
        "max-bandwidth" | "max-postcopy-bandwidth" | "avail-switchover-bandwidth" => {
            parse_size(name, value, 1 << 20)?.into()
        }
        _ if [&PARAMETER_NAMES[..], &ending::NAMES, &encodings::NAMES].concat().contains(&name) => {
            parse_size(name, value, 1)?.into()
        }
        _ => return Err(unknown()),
    };
    parse(Arguments::new([(name.to_owned(), argument)].into_iter().collect()))
}

/// A number with an optional suffix B, K, M, G or T (powers of 1024); without one it counts in `unit`.
pub(crate) fn parse_size(name: &str, text: &str, unit: u64) -> Result<u64, CommandError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => Some(unit),
        "b" | "B" => Some(1),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        _ => None,
    };
    let number =
        digits.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    number.ok_or_else(|| {
        let wanted = "a non-negative number below 2^64, with an optional suffix B, K, M, G or T";
        CommandError::generic(format!("Parameter '{name}' expects {wanted}, not '{text}'"))
    })
}

/// What is to be compared: one of three words, or a boolean, of which true means all that can be.
fn digest(arguments: &mut Arguments) -> Result<Option<Digest>, CommandError> {
    const NAME: &str = "whimbrel-digest";
    let Some(name) = arguments.optional_word(NAME, Digest::Full.name(), Digest::Off.name())? else {
        return Ok(None);
    };
    let digest = Digest::from_name(&name).ok_or_else(|| {
        let expected = "'off', 'transfer' or 'full'";
        CommandError::generic(format!("Parameter '{NAME}' expects {expected}, not '{name}'"))
    });
    digest.map(Some)
}

/// When the machine may run before its memory is there: one of three words.
fn postcopy(arguments: &mut Arguments) -> Result<Option<Postcopy>, CommandError> {
    const NAME: &str = "whimbrel-postcopy";
    let Some(name) = arguments.optional_string(NAME)? else { return Ok(None) };
    let postcopy = Postcopy::from_name(&name).ok_or_else(|| {
        let expected = "'request', 'auto' or 'immediate'";
        CommandError::generic(format!("Parameter '{NAME}' expects {expected}, not '{name}'"))
    });
    postcopy.map(Some)
}
