use std::{io, path::PathBuf};

use address::{Address, AddressError};

use crate::{FilePath, MacAddress, NetBackend};

/// Why a machine description was refused. The message says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line does not parse. The text names the flag and what it takes.
    #[error("{0}")]
    Flags(String),
    /// The file of `--config` cannot be read.
    #[error("Cannot read machine description '{}': check the path and its permissions", path.display())]
    Read {
        /// As given with `--config`.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of `--config` is far longer than any machine description.
    #[error(
        "Machine description '{}' is longer than {limit} bytes: is it the right file?",
        path.display()
    )]
    FileTooLong {
        /// As given with `--config`.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The YAML does not parse. The text has line and column.
    #[error("Machine description '{origin}' is not valid: {detail}")]
    Yaml {
        /// Where the text came from.
        origin: String,
        /// The parser's message.
        detail: String,
    },
    /// There is nothing to boot.
    #[error("No kernel: give one with --kernel (`kernel` in the file), or await a migration with --incoming")]
    MissingKernel,
    /// An initrd or a command line, but no kernel to hand it to.
    #[error("--{field} needs a kernel: give one with --kernel (`kernel` in the file)")]
    WithoutKernel {
        /// `initrd` or `cmdline`.
        field: &'static str,
    },
    /// Something that is said of a machine that is migrated in, and none is.
    #[error("--{field} is for a machine that is migrated in: give --incoming too, or leave it out")]
    WithoutIncoming {
        /// `may-differ`, `userfaultfd`.
        field: &'static str,
    },
    /// More devices of one kind than a machine has room for.
    #[error(
        "{count} {what} are too many, a machine has at most {limit} (the file's and the flags' together)"
    )]
    TooMany {
        /// `disks` or `nets`.
        what: &'static str,
        /// How many were described.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// Two disks are the same file.
    #[error("disk{first} and disk{second} are both '{path}': remove one, a file can be only one disk")]
    SameDisk {
        /// Index of the earlier disk, from 0.
        first: usize,
        /// Index of the later disk.
        second: usize,
        /// Their path.
        path: FilePath,
    },
    /// The guest could not tell two disks apart.
    #[error("disk{first} and disk{second} both have the serial '{serial}': give one another serial=")]
    SameDiskSerial {
        /// Index of the earlier disk, from 0.
        first: usize,
        /// Index of the later disk.
        second: usize,
        /// Their serial.
        serial: String,
    },
    /// A network card needs exactly one of a tap and a descriptor.
    #[error("net{index} needs exactly one of tap=NAME and fd=N")]
    NetBackend {
        /// Index of the card, from 0.
        index: usize,
    },
    /// Two network cards are on the same tap.
    #[error("net{first} and net{second} both use {backend}: give each network card a tap of its own")]
    SameNetBackend {
        /// Index of the earlier card, from 0.
        first: usize,
        /// Index of the later card.
        second: usize,
        /// What they share.
        backend: NetBackend,
    },
    /// Two network cards have the same address.
    #[error("net{first} and net{second} both have the MAC address {mac}: give one another mac=")]
    SameMac {
        /// Index of the earlier card, from 0.
        first: usize,
        /// Index of the later card.
        second: usize,
        /// Their address.
        mac: MacAddress,
    },
    /// Two listening sockets cannot have one path.
    #[error("--{first} and --{second} both use the socket '{}': give one another path", path.display())]
    SameSocket {
        /// Flag of the first.
        first: &'static str,
        /// Flag of the second.
        second: &'static str,
        /// Their path.
        path: PathBuf,
    },
    /// Nobody could come.
    #[error(
        "--incoming with --tls lets nobody in as long as it is not said who may come: give --tls-authz with names of the sources' \
         certificates, as dns:host-a.example.org"
    )]
    NobodyMayCome,
    /// Migration data would be readable on the network.
    #[error(
        "--incoming {address} is reachable from other hosts, and migration is not encrypted: give certificates with --tls \
         (`whimbrel ca` makes them), use a loopback address or a unix socket, or accept the risk with --insecure"
    )]
    Insecure {
        /// As given with `--incoming`.
        address: Address,
    },
}

/// Why one value was refused. Where it stood is added by whoever parsed it: clap names the flag, the YAML parser the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size.
    #[error(
        "Size '{typed}' {problem}: write a whole number and a unit of K, M, G or T, for example 512M or 2G"
    )]
    Size {
        /// As typed.
        typed: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A size that guest memory cannot have.
    #[error("Memory of {typed} is not possible: it must be from 2M to 8T, in multiples of 2M")]
    Memory {
        /// As typed.
        typed: String,
    },
    /// Not a number of CPUs.
    #[error("'{typed}' is not a possible number of CPUs: write a number from 1 to 64")]
    Cpus {
        /// As typed.
        typed: String,
    },
    /// Not a MAC address that a network card can have.
    #[error("MAC address '{typed}' {problem}, for example 02:00:00:00:00:01")]
    Mac {
        /// As typed.
        typed: String,
        /// What is wrong, and what to write.
        problem: &'static str,
    },
    /// Not an address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Not a path of a file.
    #[error("Path '{typed}' {problem}")]
    Path {
        /// As typed.
        typed: String,
        /// What is wrong, and what to write.
        problem: &'static str,
    },
    /// Not a name that a VM, tap, disk serial or command line can be.
    #[error("{what} '{typed}' {problem}")]
    Text {
        /// Which name.
        what: &'static str,
        /// As typed.
        typed: String,
        /// What is wrong, and what to write.
        problem: &'static str,
    },
    /// Not a way of finding out which pages are written.
    #[error(
        "'{typed}' is not a dirty log: write auto, bitmap, ring, or ring=ENTRIES with a power of two from 1024 to 65536"
    )]
    DirtyLog {
        /// As typed.
        typed: String,
    },
    /// Not a model of a processor.
    #[error(transparent)]
    Cpu(#[from] cpu::CpuModelError),
    /// Not one of the words that the field takes.
    #[error("'{typed}' is not {choices}")]
    Choice {
        /// As typed.
        typed: String,
        /// What can be written.
        choices: &'static str,
    },
    /// Not a descriptor that can be handed over.
    #[error(
        "'{typed}' is not a usable file descriptor: write a number from 3 to 2147483647 (0 to 2 are stdin, stdout and stderr)"
    )]
    Fd {
        /// As typed.
        typed: String,
    },
    /// An option of a `key=value,key=value` list that does not exist.
    #[error(
        "Unknown option '{key}': the options are {known}. A comma that belongs to a value is written twice"
    )]
    UnknownOption {
        /// The key as typed.
        key: String,
        /// Names of the options that exist.
        known: &'static str,
    },
    /// An option without `=`.
    #[error("Option '{typed}' has no value: write {typed}=…")]
    NoValue {
        /// As typed.
        typed: String,
    },
    /// The same option twice in one list.
    #[error("Option '{key}' is given twice: remove one")]
    Repeated {
        /// The key.
        key: String,
    },
    /// An option that the list cannot do without.
    #[error("Option {key}= is missing: add it")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// An option of QEMU's socket syntax that asks for something a monitor does not do.
    #[error(
        "'{typed}' is not possible for a monitor: it always listens and never waits (server=on,wait=off)"
    )]
    MonitorOption {
        /// As typed.
        typed: String,
    },
}
