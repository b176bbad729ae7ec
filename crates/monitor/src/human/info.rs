use super::{dirty_rate, dump, info_migrate, prediction};
use crate::{
    CommandError,
    commands::{self, Context},
    types::{BlockStats, RunState, VersionInfo},
};

/// Makes the text of one `info` command.
pub(super) type Topic = fn(Context<'_>) -> Result<String, CommandError>;

/// What `info` can show: name, help, text.
const TOPICS: [(&str, &str, Topic); 15] = [
    ("balloon", "show balloon information", balloon),
    ("blockstats", "show what each disk has read and written", blockstats),
    ("cpus", "show the vCPUs and their threads", cpus),
    (
        "dirty_rate",
        "show how fast the guest writes its memory, as calc_dirty_rate measured it",
        dirty_rate::info,
    ),
    ("dump", "show how far a dump is", dump::info),
    ("migrate", "show migration status (-a is accepted: all is always shown)", |c| {
        Ok(info_migrate(&c.handler.query_migrate()))
    }),
    ("migrate_capabilities", "show current migration capabilities", migrate_capabilities),
    ("migrate_parameters", "show current migration parameters", migrate_parameters),
    ("name", "show the machine's name", |c| Ok(line(c.handler.query_name().name.unwrap_or_default()))),
    ("prediction", "show what whimbrel_predict foretells of a migration", prediction::info),
    ("status", "show whether the machine runs", status),
    ("threads", "show all threads of the process, to pin them to CPUs", threads),
    ("uuid", "show the machine's UUID", |c| Ok(line(c.handler.query_uuid().uuid))),
    ("vcpu_dirty_limit", "show how fast vCPUs may write memory, and do", dirty_rate::limits),
    ("version", "show the version", |_| Ok(version())),
];

pub(super) fn find(name: &str) -> Option<Topic> {
    TOPICS.iter().find(|(topic, _, _)| *topic == name).map(|&(_, _, text)| text)
}

pub(super) fn help() -> String {
    TOPICS.iter().map(|(name, help, _)| format!("info {name} -- {help}\n")).collect()
}

fn line(mut text: String) -> String {
    text.push('\n');
    text
}

fn version() -> String {
    let VersionInfo { qemu, package } = VersionInfo::default();
    format!("{package} (QMP of QEMU {}.{}.{})\n", qemu.major, qemu.minor, qemu.micro)
}

/// QEMU says `running`, or `paused` with the reason if it is another than the operator.
fn status(context: Context<'_>) -> Result<String, CommandError> {
    let status = context.handler.query_status();
    Ok(match status.status {
        _ if status.running => "VM status: running\n".to_owned(),
        RunState::Paused => "VM status: paused\n".to_owned(),
        other => format!("VM status: paused ({other})\n"),
    })
}

fn balloon(context: Context<'_>) -> Result<String, CommandError> {
    Ok(format!("balloon: actual={}\n", context.handler.query_balloon()?.actual >> 20))
}

fn blockstats(context: Context<'_>) -> Result<String, CommandError> {
    let line = |BlockStats { device, stats: s, .. }: &BlockStats| {
        format!(
            "{device}: rd_bytes={} wr_bytes={} rd_operations={} wr_operations={} flush_operations={} wr_total_time_ns={} \
             rd_total_time_ns={} flush_total_time_ns={} failed_rd_operations={} failed_wr_operations={} failed_flush_operations={}\n",
            s.rd_bytes,
            s.wr_bytes,
            s.rd_operations,
            s.wr_operations,
            s.flush_operations,
            s.wr_total_time_ns,
            s.rd_total_time_ns,
            s.flush_total_time_ns,
            s.failed_rd_operations,
            s.failed_wr_operations,
            s.failed_flush_operations,
        )
    };
    Ok(context.handler.query_blockstats().iter().map(line).collect())
}

fn cpus(context: Context<'_>) -> Result<String, CommandError> {
    let cpus = context.handler.query_cpus_fast();
    Ok(cpus.iter().map(|cpu| format!("  CPU #{}: thread_id={}\n", cpu.cpu_index, cpu.thread_id)).collect())
}

fn threads(context: Context<'_>) -> Result<String, CommandError> {
    let threads = context.handler.query_whimbrel_threads()?;
    Ok(threads.iter().map(|thread| format!("  {}: thread_id={}\n", thread.name, thread.thread_id)).collect())
}

fn migrate_capabilities(context: Context<'_>) -> Result<String, CommandError> {
    let states = commands::capability_states(context.handler);
    Ok(states.iter().map(|c| format!("{}: {}\n", c.capability, if c.state { "on" } else { "off" })).collect())
}

fn migrate_parameters(context: Context<'_>) -> Result<String, CommandError> {
    let p = context.handler.query_migrate_parameters();
    Ok([
        format!("announce-initial: {} ms\n", p.announce.initial),
        format!("announce-max: {} ms\n", p.announce.max),
        format!("announce-rounds: {}\n", p.announce.rounds),
        format!("announce-step: {} ms\n", p.announce.step),
        format!("throttle-trigger-threshold: {}\n", p.end.throttle_trigger_threshold),
        format!("cpu-throttle-initial: {}\n", p.end.cpu_throttle_initial),
        format!("cpu-throttle-increment: {}\n", p.end.cpu_throttle_increment),
        format!("cpu-throttle-tailslow: {}\n", if p.end.cpu_throttle_tailslow { "on" } else { "off" }),
        format!("max-cpu-throttle: {}\n", p.end.max_cpu_throttle),
        format!("x-vcpu-dirty-limit-period: {} ms\n", p.end.x_vcpu_dirty_limit_period),
        format!("vcpu-dirty-limit: {} MB/s\n", p.end.vcpu_dirty_limit),
        format!("tls-creds: '{}'\n", p.tls_creds),
        format!("tls-hostname: '{}'\n", p.tls_hostname),
        format!("max-bandwidth: {} bytes/second\n", p.max_bandwidth),
        format!("avail-switchover-bandwidth: {} bytes/second\n", p.avail_switchover_bandwidth),
        format!("downtime-limit: {} ms\n", p.downtime_limit),
        format!("multifd-channels: {}\n", p.multifd_channels),
        format!("multifd-compression: {}\n", p.encoding.multifd_compression.name()),
        format!("multifd-zstd-level: {}\n", p.encoding.multifd_zstd_level),
        format!("xbzrle-cache-size: {} bytes\n", p.encoding.xbzrle_cache_size),
        format!("whimbrel-compression: {}\n", p.encoding.whimbrel_compression.name()),
        format!("max-postcopy-bandwidth: {} bytes/second\n", p.max_postcopy_bandwidth),
        format!("whimbrel-digest: {}\n", p.whimbrel_digest.name()),
        format!("whimbrel-postcopy: {}\n", p.whimbrel_postcopy.name()),
        format!("whimbrel-throttle: {}\n", p.end.whimbrel_throttle.name()),
        format!("whimbrel-deadline: {} s\n", p.end.whimbrel_deadline),
        format!("whimbrel-means: {}\n", p.end.whimbrel_means),
        format!("whimbrel-downtime-max: {} ms\n", p.end.whimbrel_downtime_max),
        format!("tls-authz: '{}'\n", p.tls_authz),
    ]
    .concat())
}
