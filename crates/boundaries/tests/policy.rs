//! Rules for every file: where `unsafe` may stand, how long a file may be, and that nothing is left to do.

use std::collections::BTreeSet;

use boundaries::{SourceFile, sources, unsafe_lines};

/// Longest file, in lines. Past about 500 a file has two ideas.
const MAX_LINES: usize = 600;

/// Files that are longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand, each with what needs it: a file, or a folder with `/` at its end. All else must do without.
const UNSAFE_PLACES: &[(&str, &str)] = &[
    ("crates/devices/src/balloon/discard.rs", "madvise takes pages of guest memory back"),
    ("crates/devices/src/net/tap.rs", "ioctls of a tap"),
    ("crates/devices/src/net/wire_testing.rs", "tests change the network namespace of a thread"),
    ("crates/devices/src/serial/tests.rs", "tests wait on descriptors that a watch names by number"),
    ("crates/devices/src/virtio/buffers.rs", "files are read and written straight from guest memory"),
    ("crates/engine/src/destination/pushed.rs", "pages are received straight to where they are missing"),
    ("crates/engine/src/destination/receiver.rs", "pages are received straight into guest memory"),
    ("crates/engine/src/source/look.rs", "pages are looked at where they lie"),
    ("crates/engine/src/source/pusher.rs", "pages are sent straight from guest memory"),
    ("crates/engine/src/source/sender.rs", "pages are sent straight from guest memory"),
    ("crates/node/src/tap.rs", "ioctls of taps and bridges"),
    ("crates/node/src/process.rs", "a VMM gets a session of its own between fork and exec"),
    ("crates/ram/benches/pages.rs", "the memory that is measured is filled through its address"),
    ("crates/ram/src/alias.rs", "memory is mapped a second time, and unmapped"),
    ("crates/ram/src/allocate.rs", "blocks are shared between threads by their address"),
    ("crates/ram/src/digest.rs", "guest memory is read through its address"),
    ("crates/ram/src/intake.rs", "what was received is read by its address before it is written"),
    ("crates/ram/src/incomplete/arm.rs", "missing pages are dropped by their address"),
    ("crates/ram/src/incomplete/landing.rs", "says how long bytes that came stay where they are"),
    ("crates/ram/src/incomplete/part.rs", "pages that came are put before the machine by their address"),
    ("crates/ram/src/incomplete/tests.rs", "threads use memory by its address, as a machine does"),
    ("crates/ram/src/page_set.rs", "words are plain where nobody shares them, atomic where somebody does"),
    ("crates/ram/src/page_sum.rs", "guest memory is summed up without a copy, by vector instructions"),
    ("crates/ram/src/place.rs", "addresses within a block, and pages that become zero"),
    ("crates/ram/src/populate.rs", "madvise has the pages of a fresh destination made ahead"),
    ("crates/ram/src/sample.rs", "pages are summed up where they lie"),
    ("crates/ram/src/segment.rs", "an address goes from thread to thread"),
    ("crates/ram/src/userfault.rs", "ioctls of a userfaultfd"),
    ("crates/ram/src/zero.rs", "vector instructions look at guest memory"),
    ("crates/transport/benches/encryption.rs", "pieces of memory are sent and received to be measured"),
    ("crates/transport/src/buffer.rs", "memory to send from is mapped, and unmapped"),
    ("crates/transport/src/bulk.rs", "passes on what is promised about pieces"),
    ("crates/transport/src/connection.rs", "passes on what is promised about pieces"),
    ("crates/transport/src/error_queue.rs", "control messages that no crate has"),
    ("crates/transport/tests/bulk.rs", "tests send pieces of memory of their own"),
    ("crates/transport/src/options.rs", "socket options that no crate has"),
    ("crates/transport/tests/tls/bytes.rs", "tests send and receive pieces of memory of their own"),
    (
        "crates/transport/src/vectored.rs",
        "sendmsg and recvmsg on pieces of memory, and copies from and to them",
    ),
    ("crates/vmm/src/arch/x86_64/trap.rs", "the kernel passes the context of a thread by its address"),
    ("crates/vmm/src/arch/x86_64/vm_state.rs", "KVM's interrupt controllers are unions"),
    ("crates/vmm/src/arch/x86_64/xsave.rs", "KVM fills an area as long as it said"),
    ("crates/vmm/src/disk_lock.rs", "fcntl takes a pointer"),
    ("crates/vmm/src/io_loop.rs", "descriptors are known by number"),
    ("crates/vmm/src/kvm/ioctl.rs", "ioctls that no crate has"),
    ("crates/vmm/src/kvm/ring.rs", "a ring of entries that the kernel shares with this process"),
    ("crates/vmm/src/kvm/slots.rs", "KVM is told host addresses"),
    ("crates/vmm/src/machine/resources.rs", "a descriptor that was inherited is known by number"),
    ("crates/vmm/src/seccomp/allocator.rs", "the allocator is set up by a call of the C library"),
    ("crates/vmm/src/seccomp/violation.rs", "a signal handler, and what the kernel tells it"),
    ("crates/vmm/src/terminal.rs", "terminal attributes, and signal handlers that put them back"),
    ("crates/vmm/src/vcpu/exit.rs", "the page that the kernel shares with a vCPU"),
    ("crates/vmm/src/vcpu/times.rs", "clocks of other threads have no names in any crate"),
    ("crates/vmm/src/vcpu/kick.rs", "one flag in that page, and a signal handler"),
    ("crates/whimbrel/src/bench/huge_memory.rs", "huge pages are mapped for the bare copy"),
    ("guests/workload/src/", "a machine without an operating system"),
];

#[test]
fn unsafe_stands_only_where_it_is_needed() {
    let is_in = |file: &SourceFile, place: &str| {
        file.path == place || (place.ends_with('/') && file.path.starts_with(place))
    };
    let with_unsafe: Vec<_> = all().into_iter().filter(|file| !unsafe_lines(file).is_empty()).collect();
    let astray: Vec<_> = with_unsafe
        .iter()
        .filter(|file| !UNSAFE_PLACES.iter().any(|(place, _)| is_in(file, place)))
        .map(|file| format!("{}:{}", file.path, unsafe_lines(file)[0]))
        .collect();
    assert!(
        astray.is_empty(),
        "`unsafe` in {astray:#?}: move it to one of UNSAFE_PLACES in {}, or add the file there with the reason",
        file!()
    );
    let left: Vec<_> = UNSAFE_PLACES
        .iter()
        .filter(|(place, _)| !with_unsafe.iter().any(|file| is_in(file, place)))
        .collect();
    assert!(left.is_empty(), "no `unsafe` any more in {left:#?}: take them off UNSAFE_PLACES in {}", file!());
}

#[test]
fn files_are_short() {
    let is_excused = |path: &str| LONG_FILES.iter().any(|(long, _)| *long == path);
    let lengths = all().into_iter().map(|file| (file.text.lines().count(), file.path));
    let (long, short): (Vec<_>, Vec<_>) = lengths.partition(|(lines, _)| *lines > MAX_LINES);
    let long: Vec<_> = long.iter().filter(|(_, path)| !is_excused(path)).collect();
    assert!(long.is_empty(), "over {MAX_LINES} lines: {long:#?}. Each has two ideas, give each idea a file");
    let excused: Vec<_> = short.iter().filter(|(_, path)| is_excused(path)).collect();
    assert!(excused.is_empty(), "short again: {excused:#?}. Take them off LONG_FILES in {}", file!());
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not contain them.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["todo", "!"], ["unimplemented", "!"]]
        .map(|word| word.concat());
    for file in all() {
        for (index, line) in file.text.lines().enumerate() {
            let found = words.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{}:{} says {found:?}: do it, or leave it out", file.path, index + 1);
        }
    }
}

#[test]
fn programs_print_only_what_may_be_lost() {
    let is_of_a_program = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        path.contains("/src/") && !path.starts_with("guests/") && !name.contains("test")
    };
    for file in all().into_iter().filter(|file| is_of_a_program(&file.path)) {
        let code = file.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (index, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            assert!(
                !code.contains("print!(") && !code.contains("println!("),
                "{}:{} panics where its output is closed or full: use `output::say!`, `complain!` or `show`",
                file.path,
                index + 1
            );
        }
    }
}

#[test]
fn a_module_with_modules_is_in_its_folder() {
    let paths: Vec<_> =
        all().into_iter().map(|file| file.path).filter(|path| path.contains("/src/")).collect();
    for path in &paths {
        let folder = path.trim_end_matches(".rs").to_owned() + "/";
        assert!(!paths.iter().any(|other| other.starts_with(&folder)), "{path} belongs at {folder}mod.rs");
    }
}

#[test]
fn what_is_imported_from_one_place_is_imported_at_once() {
    for file in all() {
        let mut roots = BTreeSet::new();
        let lines: Vec<_> = std::iter::once("").chain(file.text.lines()).collect();
        for pair in lines.windows(2) {
            // What is imported on a condition stands alone.
            let line = if pair[0].starts_with("#[") { "" } else { pair[1] };
            if let Some(path) = line.strip_prefix("use ") {
                let root = path.trim_start_matches("::").split([':', ';', ' ']).next();
                assert!(roots.insert(root), "{}: `{line}`: put it into the `use` before", file.path);
            }
        }
    }
}

/// Every file of Rust in the repository.
fn all() -> Vec<SourceFile> {
    ["crates", "guests", "fuzz", "tests", "bench", "lab"].into_iter().flat_map(sources).collect()
}
