use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use state::{DeviceState, StateError};
use tempfile::TempDir;
use vmm_sys_util::eventfd::EventFd;

use super::{Backend, BackendError, Confine, Descriptors, Logged, OutputFile, Serial, SerialV1, Socket};
use crate::{BusDevice, IoDevice, Lifecycle, fixtures, machine_testing::touch_everything};

/// Threads of a test need not be confined.
const FREE: Confine = || Ok(());
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const INTERRUPT_IDENTIFICATION: u64 = 2;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;
const SCRATCH: u64 = 7;

/// A serial port on two pipes.
struct Port {
    serial: Serial,
    irq: EventFd,
    input: File,
    output: File,
}

fn port() -> Port {
    let (backend, input, output) = pipes();
    let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let serial = Serial::new(Box::new(backend), Arc::new(irq.try_clone().unwrap()));
    Port { serial, irq, input, output }
}

fn pipes() -> (Descriptors, File, File) {
    let (to_guest, input) = std::io::pipe().unwrap();
    let (output, from_guest) = std::io::pipe().unwrap();
    let backend = Descriptors::new(Some(to_guest.into()), from_guest.into(), FREE).unwrap();
    (backend, File::from(OwnedFd::from(input)), File::from(OwnedFd::from(output)))
}

/// A serial port on something that needs no interrupt.
fn serial(backend: impl Backend + 'static) -> Serial {
    Serial::new(Box::new(backend), Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()))
}

fn get(serial: &mut Serial, register: u64) -> u8 {
    let mut data = [0];
    serial.read(register, &mut data);
    data[0]
}

fn send(serial: &mut Serial, bytes: &[u8]) {
    for byte in bytes {
        serial.write(DATA, &[*byte]);
    }
}

/// Reads as a driver does: until the line status says that there is nothing.
fn receive(serial: &mut Serial) -> Vec<u8> {
    let mut bytes = Vec::new();
    while get(serial, LINE_STATUS) & 1 != 0 {
        bytes.push(get(serial, DATA));
    }
    bytes
}

fn read_some(file: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let count = file.read(&mut bytes).unwrap();
    bytes.truncate(count);
    bytes
}

/// 256 different bytes again and again.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index % 251) as u8).collect()
}

#[test]
fn what_the_guest_sends_comes_out() {
    let mut port = port();
    send(&mut port.serial, b"hello");
    assert_eq!(read_some(&mut port.output), b"hello");
}

#[test]
fn input_raises_an_interrupt_and_is_read_in_order() {
    let mut port = port();
    port.serial.write(INTERRUPT_ENABLE, &[1]);
    port.input.write_all(b"abc").unwrap();
    port.serial.ready(0);
    assert_eq!(port.irq.read().unwrap(), 1);
    assert_eq!(get(&mut port.serial, INTERRUPT_IDENTIFICATION) & 0xf, 4);
    assert_eq!(receive(&mut port.serial), b"abc");
}

#[test]
fn input_that_does_not_fit_waits_on_the_host_until_the_guest_makes_room() {
    let mut port = port();
    let input = pattern(1000);
    port.input.write_all(&input).unwrap();
    port.serial.ready(0);
    // One edge of the descriptor was all there is: the rest comes because the guest reads.
    assert_eq!(receive(&mut port.serial), input);
}

#[test]
fn input_waits_while_the_receiver_is_looped_back() {
    let mut port = port();
    port.serial.write(MODEM_CONTROL, &[0x10]);
    port.input.write_all(b"from the host").unwrap();
    port.serial.ready(0);
    send(&mut port.serial, b"loop");
    assert_eq!(receive(&mut port.serial), b"loop");
    port.serial.write(MODEM_CONTROL, &[0]);
    assert_eq!(receive(&mut port.serial), b"from the host");
}

#[test]
fn a_reader_that_sleeps_does_not_stop_the_guest() {
    let mut port = port();
    let sent = pattern(300_000);
    send(&mut port.serial, &sent);
    // What the pipe and the backlog held comes out in order, and then what is sent afterwards.
    rustix::fs::fcntl_setfl(&port.output, rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut received = Vec::new();
    let mut bytes = vec![0; 1 << 20];
    while let Ok(count) = port.output.read(&mut bytes) {
        received.extend(&bytes[..count]);
        port.serial.ready(1);
    }
    assert!(received.len() > 64 << 10 && sent.starts_with(&received), "{} bytes came out", received.len());
    send(&mut port.serial, b"awake");
    assert_eq!(read_some(&mut port.output), b"awake");
}

#[test]
fn the_end_of_input_is_not_an_error() {
    let mut port = port();
    port.input.write_all(b"x").unwrap();
    drop(port.input);
    port.serial.ready(0);
    port.serial.ready(0);
    assert_eq!(receive(&mut port.serial), b"x");
    send(&mut port.serial, b"still here");
    assert_eq!(read_some(&mut port.output), b"still here");
}

#[test]
fn an_output_without_reader_is_not_an_error() {
    // SIGPIPE is ignored by the Rust runtime, as it is by the machine.
    let mut port = port();
    drop(port.output);
    send(&mut port.serial, &pattern(1000));
}

#[test]
fn what_cannot_be_watched_is_not() {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    assert_eq!(Descriptors::new(Some(null()), null(), FREE).unwrap().watches().len(), 0);
    assert_eq!(pipes().0.watches().len(), 2);
}

#[test]
fn a_file_collects_the_output_of_several_machines() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("console");
    for text in [b"first ".as_slice(), b"second"] {
        send(&mut serial(OutputFile::open(&path, FREE).unwrap()), text);
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"first second");
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = OutputFile::open("/nowhere/console".as_ref(), FREE).unwrap_err();
    assert!(error.to_string().contains("'/nowhere/console'"), "{error}");
}

/// A serial port on a socket, as the I/O thread sees it.
struct Listening {
    serial: Serial,
    path: PathBuf,
    _directory: TempDir,
}

fn listening() -> Listening {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("serial");
    Listening { serial: serial(Socket::listen(&path).unwrap()), path, _directory: directory }
}

fn client(port: &mut Listening) -> UnixStream {
    let client = UnixStream::connect(&port.path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    port.serial.ready(0);
    client
}

#[test]
fn a_client_talks_to_the_guest() {
    let mut port = listening();
    send(&mut port.serial, b"nobody listens");
    let mut client = client(&mut port);
    client.write_all(b"ls\n").unwrap();
    port.serial.ready(0);
    assert_eq!(receive(&mut port.serial), b"ls\n");
    send(&mut port.serial, b"file");
    assert_eq!(read_some(&mut client), b"file");
}

#[test]
fn a_log_has_what_the_guest_says_with_a_client_and_without() {
    let directory = TempDir::new().unwrap();
    let (path, log) = (directory.path().join("serial"), directory.path().join("log"));
    let backend = Logged::new(OutputFile::open(&log, FREE).unwrap(), Socket::listen(&path).unwrap());
    let mut port = Listening { serial: serial(backend), path, _directory: directory };
    send(&mut port.serial, b"alone ");
    let mut client = client(&mut port);
    send(&mut port.serial, b"heard");
    assert_eq!(read_some(&mut client), b"heard");
    client.write_all(b"typed").unwrap();
    port.serial.ready(0);
    assert_eq!(receive(&mut port.serial), b"typed");
    let Listening { serial, _directory, .. } = port;
    drop(serial);
    assert_eq!(std::fs::read(&log).unwrap(), b"alone heard");
}

#[test]
fn a_client_that_leaves_makes_room_for_the_next() {
    let mut port = listening();
    let first = client(&mut port);
    let mut second = client(&mut port);
    send(&mut port.serial, b"for the first");
    drop(first);
    port.serial.ready(0);
    send(&mut port.serial, b"for the second");
    assert_eq!(read_some(&mut second), b"for the second");
    second.write_all(b"hello").unwrap();
    port.serial.ready(0);
    assert_eq!(receive(&mut port.serial), b"hello");
}

#[test]
fn a_client_that_sleeps_does_not_stop_the_guest() {
    let mut port = listening();
    let mut client = client(&mut port);
    let sent = pattern(1_000_000);
    send(&mut port.serial, &sent);
    let first = read_some(&mut client);
    assert!(sent.starts_with(&first));
    port.serial.ready(0);
    assert!(sent[first.len()..].starts_with(&read_some(&mut client)));
}

#[test]
fn the_watch_of_a_socket_fires_for_clients_that_come_later() {
    let mut port = listening();
    let fd = port.serial.watches()[0].fd;
    // SAFETY: the descriptor is open for as long as the port.
    #[expect(unsafe_code, reason = "a watch names its descriptor by number")]
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let readable = || poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() == 1;
    assert!(!readable());
    let mut client = UnixStream::connect(&port.path).unwrap();
    assert!(readable());
    // The new client is writable, which is an event of its own.
    for _ in 0..3 {
        port.serial.ready(0);
    }
    assert!(!readable());
    client.write_all(b"x").unwrap();
    assert!(readable());
}

#[test]
fn a_socket_file_that_was_left_behind_is_replaced_and_removed_in_the_end() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("serial");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Socket::listen(&path).unwrap());
    assert!(!path.exists());
}

#[test]
fn a_pipe_for_output_is_never_waited_for() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    make_pipe(&path);
    let unread = OutputFile::open(&path, FREE).unwrap_err();
    assert!(matches!(unread, BackendError::Unread { .. }), "{unread}");
    let _reader = File::options().read(true).write(true).open(&path).unwrap();
    let mut output = OutputFile::open(&path, FREE).unwrap();
    // More than the pipe holds, and nobody takes it.
    output.write(&pattern(1_000_000));
}

fn make_pipe(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn a_socket_whose_queue_is_full_is_in_use_and_not_waited_for() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("serial");
    let holder = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&holder, 0).unwrap();
    let _waits = UnixStream::connect(&path).unwrap();
    assert!(matches!(Socket::listen(&path), Err(BackendError::InUse { .. })));
}

#[test]
fn a_path_in_use_is_refused_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("serial");
    let _first = Socket::listen(&socket).unwrap();
    assert!(matches!(Socket::listen(&socket), Err(BackendError::InUse { .. })));
    assert!(UnixStream::connect(&socket).is_ok());
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Socket::listen(&file), Err(BackendError::InUse { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

/// A port in the middle of its work: registers set, 3 bytes received, their interrupt not taken.
fn busy() -> Port {
    let mut port = port();
    port.serial.write(SCRATCH, &[0x5a]);
    port.serial.write(INTERRUPT_ENABLE, &[1]);
    port.input.write_all(b"abc").unwrap();
    port.serial.ready(0);
    port
}

#[test]
fn bytes_in_the_fifo_and_their_interrupt_move_with_the_machine() {
    let source = busy();
    let released = fixtures::released("serial-16550-v1", &source.serial.save("serial").unwrap());
    let (backend, mut input, _output) = pipes();
    let irq = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
    let mut moved = Serial::restore(Box::new(backend), irq.clone(), &released).unwrap();
    moved.kick();
    assert!(irq.read().is_ok());
    assert_eq!(get(&mut moved, SCRATCH), 0x5a);
    input.write_all(b"def").unwrap();
    moved.ready(0);
    assert_eq!(receive(&mut moved), b"abcdef");
}

#[test]
fn a_full_fifo_moves_and_the_rest_stays_with_the_host() {
    let mut source = port();
    source.input.write_all(&pattern(100)).unwrap();
    source.serial.ready(0);
    let state: SerialV1 = source.serial.save("serial").unwrap().decode().unwrap();
    assert_eq!(state.receive_fifo, pattern(64));
    // The machine did not move after all: it goes on with what was held back.
    assert_eq!(receive(&mut source.serial), pattern(100));
}

#[test]
fn states_that_cannot_be_true_are_refused() {
    let good: SerialV1 = busy().serial.save("serial").unwrap().decode().unwrap();
    for bad in [
        SerialV1 { receive_fifo: vec![0; 65], ..good.clone() },
        SerialV1 { receive_fifo: Vec::new(), ..good.clone() },
        SerialV1 { interrupt_identification: 0xc1, ..good.clone() },
        SerialV1 { interrupt_enable: 0xff, ..good.clone() },
        SerialV1 { line_status: 0xff, ..good },
    ] {
        let state = DeviceState::encode("serial", &bad).unwrap();
        let irq = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let error = Serial::restore(Box::new(pipes().0), irq, &state).unwrap_err();
        assert!(matches!(error, StateError::Invalid { .. }), "{error}");
    }
}

#[test]
fn a_reset_forgets_what_was_received() {
    let mut port = busy();
    port.serial.reset();
    assert_eq!(receive(&mut port.serial), b"");
    assert_eq!(get(&mut port.serial, SCRATCH), 0);
}

#[test]
fn every_access_is_taken_and_every_state_is_restored() {
    let mut port = port();
    touch_everything(&mut port.serial);
    for register in 0..8 {
        for value in 0..=255 {
            port.serial.write(register, &[value]);
            get(&mut port.serial, register);
            let state = port.serial.save("serial").unwrap();
            let irq = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
            Serial::restore(Box::new(pipes().0), irq, &state).unwrap();
        }
    }
}
