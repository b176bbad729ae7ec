//! Whatever machine can be described, its printed description describes the same machine.

use config::{Config, DiskLocking, ImageFormat, OnReadError, OnWriteError, RawConfig, RawDisk, RawNet};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// A value of a type that is parsed from text, from any text that `pattern` makes and the type accepts.
fn typed<T: std::str::FromStr + std::fmt::Debug>(pattern: &'static str) -> impl Strategy<Value = T> {
    pattern.prop_filter_map("not accepted", |text| text.parse().ok())
}

fn disk() -> impl Strategy<Value = RawDisk> {
    let serial = option::of(typed("[A-Za-z0-9._-]{1,20}"));
    let errors = (
        select(vec![OnWriteError::Enospc, OnWriteError::Stop, OnWriteError::Report]),
        select(vec![OnReadError::Report, OnReadError::Stop]),
    );
    let lock = select(vec![DiskLocking::On, DiskLocking::Warn, DiskLocking::Off]);
    let format = select(vec![ImageFormat::Probe, ImageFormat::Raw]);
    (typed("\\PC{1,40}"), any::<bool>(), any::<bool>(), serial, errors, lock, format).prop_map(
        |(path, readonly, direct, serial, (werror, rerror), lock, format)| RawDisk {
            path,
            readonly,
            direct,
            serial,
            werror,
            rerror,
            lock,
            format,
        },
    )
}

fn net() -> impl Strategy<Value = RawNet> {
    let tap = typed("\\PC{1,9}").prop_map(|tap| (Some(tap), None));
    let fd = typed("[0-9]{1,9}").prop_map(|fd| (None, Some(fd)));
    let mac = option::of(typed("[0-9a-f][02468ace](:[0-9a-fA-F]{2}){5}"));
    (prop_oneof![tap, fd], mac).prop_map(|((tap, fd), mac)| RawNet { tap, fd, mac })
}

prop_compose! {
    fn machine()(
        // Words that YAML reads as something else than text are the ones to be afraid of.
        name in option::of(prop_oneof![typed("[A-Za-z0-9][A-Za-z0-9._-]{0,62}"), typed("0x[0-9]{1,3}|[0-9]{1,9}|null|true|on|1e3")]),
        uuid in option::of(any::<[u8; 16]>().prop_map(config::Uuid::from_bytes)),
        memory in option::of(typed("[0-9]{1,4}[KMGTkmgt](iB)?")),
        memory_backing in option::of(select(vec![config::Backing::Anonymous, config::Backing::Memfd, config::Backing::Hugetlb])),
        cpus in option::of(typed("[0-9]{1,2}")),
        kernel in typed("\\PC{1,40}"),
        initrd in option::of(typed("\\PC{1,40}")),
        cmdline in option::of(typed("\\PC{0,300}")),
    )(
        disks in vec(disk(), 0..9),
        nets in vec(net(), 0..5),
        switches in any::<[Option<bool>; 5]>(),
        serial in option::of(prop_oneof![typed("stdio|none"), typed("(file|unix):\\PC{1,40}")]),
        monitor in option::of(typed("unix:(\\PC{1,20}|,,){1,3}")),
        incoming in option::of(typed("defer|unix:\\PC{1,40}|tcp:127\\.0\\.0\\.[0-9]:[0-9]{1,5}|tcp:\\[::1\\]:[0-9]{1,4}")),
        differing in proptest::sample::subsequence(vec![config::Identity::Name, config::Identity::Uuid, config::Identity::Mac, config::Identity::Image], 0..=4),
        userfaultfd in option::of(typed("fd=[3-9]")),
        cpu in option::of(typed("host|x86-64-v[234](,[+-]aes)?")),
        dirty_log in option::of(typed("auto|bitmap|ring|ring=(1024|2048|32768)")),
        seccomp in option::of(select(vec![config::Seccomp::On, config::Seccomp::Off, config::Seccomp::Log])),
        report_dir in option::of(typed("\\PC{1,40}")),
        tls in option::of(typed("\\PC{1,40}")),
        log in option::of(select(vec![config::LogLevel::Error, config::LogLevel::Warn, config::LogLevel::Trace])),
        log_format in option::of(select(vec![config::LogFormat::Text, config::LogFormat::Json])),
        name in Just(name), uuid in Just(uuid), memory in Just(memory), memory_backing in Just(memory_backing),
        cpus in Just(cpus), kernel in Just(kernel), initrd in Just(initrd), cmdline in Just(cmdline),
    ) -> RawConfig {
        let [rng, balloon, keyboard, insecure, paused] = switches;
        // Who may come has to be said where someone may.
        let tls_authz = tls.is_some().then(|| "dns:host-a;uri:spiffe://x/*".to_owned());
        RawConfig {
            tls, tls_hostname: tls_authz.clone(), tls_authz, name, uuid, memory, memory_backing, cpus, cpu, dirty_log, kernel: Some(kernel), initrd, cmdline, disks, nets, rng, balloon,
            may_differ: incoming.as_ref().map(|_| differing), userfaultfd: incoming.as_ref().and(userfaultfd), keyboard, serial, monitor, incoming, insecure, paused, seccomp, report_dir, log, log_format,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_description_reads_back_identical(raw in machine()) {
        // Two devices that clash by chance are no machine.
        let Ok(config) = Config::new(raw) else { return Ok(()) };
        let yaml = config.to_yaml();
        let again = RawConfig::from_yaml(&yaml, "printed").and_then(Config::new);
        prop_assert!(again.as_ref().is_ok_and(|again| *again == config), "{again:?} of:\n{yaml}");
    }
}
