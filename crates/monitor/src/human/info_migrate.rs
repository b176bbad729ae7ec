use std::fmt::{self, Display};

use crate::types::{
    CertificateInfo, CompressionStats, DowntimePhases, MigrationGlobals, MigrationInfo, MigrationRamStats,
    MigrationStatus, RoundInfo, SecurityInfo, SocketAddress, WhimbrelInfo, XbzrleCacheStats,
};

/// The text of `info migrate`: QEMU's lines with QEMU's labels and units, then Whimbrel's own.
///
/// Lines end in `\n`. As in QEMU, sizes of RAM are in kbytes of 1024 bytes, and throughput is in Mbit/s of 10^6 bits.
pub fn info_migrate(info: &MigrationInfo) -> String {
    Text(info).to_string()
}

struct Text<'a>(&'a MigrationInfo);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        globals(f, info.whimbrel.as_ref().map(|whimbrel| whimbrel.globals).unwrap_or_default())?;
        for reason in info.blocked_reasons.iter().flatten() {
            writeln!(f, "blocked: {reason}")?;
        }
        status_and_times(f, info)?;
        if let Some(ram) = &info.ram {
            ram_figures(f, ram)?;
        }
        if let Some(cache) = &info.xbzrle_cache {
            differences(f, cache)?;
        }
        if let Some(packed) = &info.compression {
            packing(f, packed)?;
        }
        if let Some(percentage) = info.cpu_throttle_percentage {
            writeln!(f, "cpu throttle percentage: {percentage}")?;
        }
        if let Some(ms) = info.postcopy_blocktime {
            writeln!(f, "postcopy blocktime: {ms}")?;
        }
        if let Some(vcpus) = &info.postcopy_vcpu_blocktime {
            let list: Vec<_> = vcpus.iter().map(u64::to_string).collect();
            writeln!(f, "postcopy vcpu blocktime: {}", list.join(","))?;
        }
        if let Some(addresses) = &info.socket_address {
            socket_addresses(f, addresses)?;
        }
        match &info.whimbrel {
            Some(whimbrel) => own_figures(f, whimbrel, info.status, info.error_desc.as_deref()),
            None => Ok(()),
        }
    }
}

fn globals(f: &mut fmt::Formatter<'_>, globals: MigrationGlobals) -> fmt::Result {
    let on_off = |on| if on { "on" } else { "off" };
    writeln!(f, "globals:")?;
    writeln!(f, "store-global-state: {}", on_off(globals.store_global_state))?;
    writeln!(f, "only-migratable: {}", on_off(globals.only_migratable))?;
    writeln!(f, "send-configuration: {}", on_off(globals.send_configuration))?;
    writeln!(f, "send-section-footer: {}", on_off(globals.send_section_footer))?;
    writeln!(f, "clear-bitmap-shift: {}", globals.clear_bitmap_shift)
}

fn status_and_times(f: &mut fmt::Formatter<'_>, info: &MigrationInfo) -> fmt::Result {
    if let Some(status) = info.status {
        write!(f, "Migration status: {status}")?;
        match &info.error_desc {
            Some(error) => writeln!(f, " ({error})")?,
            None => writeln!(f)?,
        }
        // QEMU has this line whenever there is a status, be it 0.
        writeln!(f, "total time: {} ms", info.total_time.unwrap_or(0))?;
    }
    if let Some(ms) = info.expected_downtime {
        writeln!(f, "expected downtime: {ms} ms")?;
    }
    if let Some(ms) = info.downtime {
        writeln!(f, "downtime: {ms} ms")?;
    }
    if let Some(ms) = info.setup_time {
        writeln!(f, "setup: {ms} ms")?;
    }
    Ok(())
}

fn ram_figures(f: &mut fmt::Formatter<'_>, ram: &MigrationRamStats) -> fmt::Result {
    writeln!(f, "transferred ram: {} kbytes", ram.transferred >> 10)?;
    writeln!(f, "throughput: {:.2} mbps", ram.mbps)?;
    writeln!(f, "remaining ram: {} kbytes", ram.remaining >> 10)?;
    writeln!(f, "total ram: {} kbytes", ram.total >> 10)?;
    writeln!(f, "duplicate: {} pages", ram.duplicate)?;
    writeln!(f, "normal: {} pages", ram.normal)?;
    writeln!(f, "normal bytes: {} kbytes", ram.normal_bytes >> 10)?;
    writeln!(f, "dirty sync count: {}", ram.dirty_sync_count)?;
    writeln!(f, "page size: {} kbytes", ram.page_size >> 10)?;
    writeln!(f, "multifd bytes: {} kbytes", ram.multifd_bytes >> 10)?;
    writeln!(f, "pages-per-second: {}", ram.pages_per_second)?;
    if ram.dirty_pages_rate > 0 {
        writeln!(f, "dirty pages rate: {} pages", ram.dirty_pages_rate)?;
    }
    if ram.postcopy_requests > 0 {
        writeln!(f, "postcopy request count: {}", ram.postcopy_requests)?;
    }
    writeln!(f, "precopy ram: {} kbytes", ram.precopy_bytes >> 10)?;
    writeln!(f, "downtime ram: {} kbytes", ram.downtime_bytes >> 10)?;
    if ram.postcopy_bytes > 0 {
        writeln!(f, "postcopy ram: {} kbytes", ram.postcopy_bytes >> 10)?;
    }
    if ram.dirty_sync_missed_zero_copy > 0 {
        writeln!(f, "Zero-copy-send fallbacks happened: {} times", ram.dirty_sync_missed_zero_copy)?;
    }
    Ok(())
}

fn differences(f: &mut fmt::Formatter<'_>, cache: &XbzrleCacheStats) -> fmt::Result {
    writeln!(f, "cache size: {} bytes", cache.cache_size)?;
    writeln!(f, "xbzrle transferred: {} kbytes", cache.bytes >> 10)?;
    writeln!(f, "xbzrle pages: {} pages", cache.pages)?;
    writeln!(f, "xbzrle cache miss: {} pages", cache.cache_miss)?;
    writeln!(f, "xbzrle cache miss rate: {:.2}", cache.cache_miss_rate)?;
    writeln!(f, "xbzrle encoding rate: {:.2}", cache.encoding_rate)?;
    writeln!(f, "xbzrle overflow: {}", cache.overflow)
}

fn packing(f: &mut fmt::Formatter<'_>, packed: &CompressionStats) -> fmt::Result {
    writeln!(f, "compression pages: {} pages", packed.pages)?;
    writeln!(f, "compression busy: {}", packed.busy)?;
    writeln!(f, "compression busy rate: {:.2}", packed.busy_rate)?;
    writeln!(f, "compressed size: {} kbytes", packed.compressed_size >> 10)?;
    writeln!(f, "compression rate: {:.2}", packed.compression_rate)
}

fn socket_addresses(f: &mut fmt::Formatter<'_>, addresses: &[SocketAddress]) -> fmt::Result {
    writeln!(f, "socket address: [")?;
    for address in addresses {
        match address {
            SocketAddress::Inet { host, port } => writeln!(f, "\ttcp:{host}:{port}")?,
            SocketAddress::Unix { path } => writeln!(f, "\tunix:{path}")?,
            SocketAddress::Fd { str } => writeln!(f, "\tfd:{str}")?,
            SocketAddress::Vsock { cid, port } => writeln!(f, "\tvsock:{cid}:{port}")?,
        }
    }
    writeln!(f, "]")
}

/// How connections are protected, and who the other side is.
fn protection(f: &mut fmt::Formatter<'_>, security: &SecurityInfo) -> fmt::Result {
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    if !security.encrypted {
        return writeln!(f, "encryption: none. {}", said(&security.note));
    }
    let (protocol, cipher) = (said(&security.protocol), said(&security.cipher));
    writeln!(f, "encryption: {protocol}, {cipher}, keys renewed {} times", security.rekeys.unwrap_or(0))?;
    for (whose, certificate) in [("own", &security.own), ("peer", &security.peer)] {
        if let Some(CertificateInfo { subject, names, not_after }) = certificate {
            writeln!(f, "{whose} certificate: {subject} ({}), valid until {not_after}", names.join(", "))?;
        }
    }
    Ok(())
}

fn own_figures(
    f: &mut fmt::Formatter<'_>,
    own: &WhimbrelInfo,
    status: Option<MigrationStatus>,
    error: Option<&str>,
) -> fmt::Result {
    writeln!(f, "whimbrel:")?;
    if let Some(session) = &own.session {
        writeln!(f, "session: {session}")?;
    }
    if let Some(channels) = own.channels.filter(|channels| *channels > 0) {
        writeln!(f, "channels: {channels}")?;
    }
    if let Some(faults) = &own.faults {
        let us = |time: Option<f64>| time.map_or_else(|| "-".into(), |time| format!("{time:.0}"));
        writeln!(
            f,
            "pages waited for: {}, us mean {}, p50 {}, p99 {}, p99.9 {}, worst {}; still missing: {}",
            faults.count,
            us(faults.mean_us),
            us(faults.p50_us),
            us(faults.p99_us),
            us(faults.p999_us),
            us(faults.worst_us),
            faults.missing_pages
        )?;
        // A VMM of a release before does not say.
        if faults.under_way_ms + faults.receiving_ms + faults.placing_ms > 0.0 {
            writeln!(
                f,
                "of that, ms under way {:.1}, receiving {:.1}, placing {:.1}; on their way already when they were asked for: {}",
                faults.under_way_ms, faults.receiving_ms, faults.placing_ms, faults.pushed
            )?;
        }
    }
    if let Some(arrived) = &own.arrived {
        let (bytes, memory) = (Bytes(arrived.bytes), Bytes(arrived.memory_bytes));
        writeln!(
            f,
            "arrived: {bytes} in {} pages, and {} zero pages, of a machine with {memory}",
            arrived.pages, arrived.zero_pages
        )?;
    }
    if let Some(security) = &own.security {
        protection(f, security)?;
    }
    if let Some(percentage) = own.percentage {
        progress(f, percentage, own, status)?;
    }
    if let Some(predicted) = own.predicted_downtime_ms {
        writeln!(f, "predicted downtime: {predicted:.1} ms")?;
    }
    if let Some(limit) = own.downtime_limit_ms {
        writeln!(f, "downtime limit: {limit} ms")?;
    }
    end(f, own)?;
    if let Some(seconds) = own.cpu_seconds {
        writeln!(f, "cpu time: {seconds:.2} s")?;
    }
    // The status has told why it failed.
    let told = |reason: &&String| error.is_some_and(|error| reason.ends_with(error));
    if let Some(reason) = own.reason.as_ref().filter(|reason| !told(reason)) {
        writeln!(f, "reason: {reason}")?;
    }
    if let Some(advice) = &own.advice {
        writeln!(f, "advice: {advice}")?;
    }
    if let Some(phases) = &own.downtime_phases {
        downtime_phases(f, phases)?;
    }
    rounds(f, &own.rounds)
}

/// How it comes to its end, as far as that is not by rounds alone.
fn end(f: &mut fmt::Formatter<'_>, own: &WhimbrelInfo) -> fmt::Result {
    for vcpu in own.throttle.iter().flat_map(|throttle| &throttle.vcpus) {
        let (index, percentage) = (vcpu.cpu_index, vcpu.percentage);
        writeln!(f, "taken from vCPU {index}: {:.0} ms, {percentage:.0} % now", vcpu.taken_ms)?;
    }
    if let Some(deadline) = &own.deadline {
        let plan = deadline.plan.as_deref().map_or_else(String::new, |plan| format!(": {plan}"));
        writeln!(f, "deadline: {} s, {} left{plan}", deadline.seconds, Duration(deadline.left_ms))?;
    }
    for decision in &own.decisions {
        writeln!(f, "decided after {}: {}", Duration(decision.at_ms), decision.text)?;
    }
    Ok(())
}

fn progress(
    f: &mut fmt::Formatter<'_>,
    percentage: f64,
    own: &WhimbrelInfo,
    status: Option<MigrationStatus>,
) -> fmt::Result {
    write!(f, "progress: {percentage:.1} %")?;
    let ended = status.is_some_and(MigrationStatus::is_final);
    match own.eta_ms {
        Some(ms) if !ended => write!(f, ", {} to go", Duration(ms))?,
        _ => {}
    }
    match &own.eta_note {
        Some(note) => writeln!(f, " ({note})"),
        None => writeln!(f),
    }
}

fn downtime_phases(f: &mut fmt::Formatter<'_>, phases: &DowntimePhases) -> fmt::Result {
    writeln!(f, "downtime by phase:")?;
    for (name, ms) in phases.measured() {
        writeln!(f, "{:>13} {ms:>9.2} ms", name)?;
    }
    Ok(())
}

/// What the guest felt in each round, where that was measured.
fn stalls(f: &mut fmt::Formatter<'_>, rounds: &[RoundInfo]) -> fmt::Result {
    for round in rounds {
        let (Some(kernel), Some(waiting)) = (round.vcpu_kernel_ms, round.vcpu_waiting_ms) else { continue };
        let faults = round.faults.map_or_else(String::new, |faults| format!("{faults} page faults, "));
        writeln!(
            f,
            "vCPUs in round {}: {faults}{kernel:.1} ms in the kernel, {waiting:.1} ms waiting for a CPU",
            round.round
        )?;
    }
    Ok(())
}

fn rounds(f: &mut fmt::Formatter<'_>, rounds: &[RoundInfo]) -> fmt::Result {
    if rounds.is_empty() {
        return Ok(());
    }
    row(f, ["round", "sent", "pages", "zero", "dirtied", "dirty rate", "wire rate", "took", "predicted"])?;
    for round in rounds {
        let cells = [
            round.round.to_string(),
            Bytes(round.bytes).to_string(),
            round.pages.to_string(),
            round.zero_pages.to_string(),
            round.dirty_pages.to_string(),
            format!("{}/s", Bytes(round.dirty_rate)),
            format!("{}/s", Bytes(round.wire_rate)),
            Duration(round.duration_ms).to_string(),
            round.predicted_downtime_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        ];
        row(f, cells.each_ref().map(String::as_str))?;
    }
    stalls(f, rounds)?;
    for (round, decision) in rounds.iter().filter_map(|round| Some((round.round, round.decision.as_ref()?))) {
        writeln!(f, "after round {round}: {decision}")?;
    }
    Ok(())
}

/// A row of the table of rounds, right-aligned: the widest are the rates of a fast link and the pages of a terabyte.
fn row(f: &mut fmt::Formatter<'_>, cells: [&str; 9]) -> fmt::Result {
    let [round, sent, pages, zero, dirtied, dirty_rate, wire_rate, took, predicted] = cells;
    write!(f, "{round:>5} {sent:>10} {pages:>10} {zero:>10} {dirtied:>10}")?;
    writeln!(f, " {dirty_rate:>12} {wire_rate:>12} {took:>9} {predicted:>11}")
}

/// A number of bytes with a decimal unit: rates of networks are thought of in powers of ten.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, unit)) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Milliseconds, shown in seconds from one second on.
struct Duration(u64);

impl Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 { write!(f, "{} ms", self.0) } else { write!(f, "{:.1} s", self.0 as f64 / 1000.0) }
    }
}
