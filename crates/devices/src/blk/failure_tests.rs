//! What becomes of requests that the image does not carry out.

use std::{os::unix::fs::FileExt as _, sync::Arc};

use parking_lot::Mutex;
use tempfile::NamedTempFile;
use virtio_bindings::virtio_blk::*;

use super::{
    Blk, Disk, DiskError, DiskFailure, DiskOptions, DiskWatch, ErrorPolicy, OnError,
    tests::{BUFFER, DIRECT, IOERR, OK, READ_ONLY, STATUS, WRITABLE, disk, image, started},
};
use crate::{
    IoDevice,
    virtio::testing::{Guest, readable, writable},
};

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<DiskFailure>>);

impl DiskWatch for Told {
    fn failed(&self, failure: DiskFailure) {
        self.0.lock().push(failure);
    }
}

const STOPS: ErrorPolicy = ErrorPolicy { write: OnError::Stop, read: OnError::Stop };

fn watched(image: &NamedTempFile, errors: ErrorPolicy) -> (Guest<Blk>, Arc<Told>) {
    let told = Arc::new(Told::default());
    let disk = Disk::open(image.path(), DiskOptions { errors, ..WRITABLE }).unwrap();
    (started(Blk::new(disk, "").unwrap().watched_by(told.clone())), told)
}

/// Asks for the last sector, and returns the head of the request.
fn read_the_last_sector(guest: &mut Guest<Blk>) -> u16 {
    let header = guest.header(VIRTIO_BLK_T_IN, 2047);
    guest.put(STATUS, &[0xff]);
    guest.submit(0, &[header, writable(BUFFER, 512), writable(STATUS, 1)])
}

#[test]
fn a_request_that_stops_the_machine_is_done_when_it_runs_on_and_not_before() {
    let image = image();
    let (mut guest, told) = watched(&image, STOPS);
    image.as_file().set_len(4096).unwrap();
    let head = read_the_last_sector(&mut guest);
    let failure = told.0.lock().pop().unwrap();
    let waiting = failure.waiting.unwrap();
    assert!(waiting.is_pending() && !failure.write && !failure.no_space);
    assert!(
        failure.reason.contains("the image has 4096 bytes now, the guest's disk has 1048576"),
        "{}",
        failure.reason
    );
    assert_eq!((guest.used(0), guest.get::<1>(STATUS)), (None, [0xff]), "the guest has no answer");

    // It is not tried again for whatever else the guest wants.
    guest.device.ready(0);
    assert!(told.0.lock().is_empty() && waiting.is_pending());

    // The machine runs on, and nothing is better.
    guest.device.kick();
    assert!(!waiting.is_pending());
    assert!(told.0.lock().pop().unwrap().waiting.unwrap().is_pending());
    assert_eq!(guest.used(0), None);

    image.as_file().set_len(1 << 20).unwrap();
    image.as_file().write_all_at(&[7; 512], 2047 * 512).unwrap();
    guest.device.kick();
    assert_eq!(guest.used(0), Some((head, 513)));
    assert_eq!((guest.get::<1>(STATUS), guest.get::<2>(BUFFER)), ([OK], [7, 7]));
    assert!(told.0.lock().is_empty());
}

#[test]
fn a_request_that_waits_is_done_where_the_machine_is_moved_to() {
    let image = image();
    let (mut guest, _told) = watched(&image, STOPS);
    image.as_file().set_len(4096).unwrap();
    read_the_last_sector(&mut guest);
    image.as_file().set_len(1 << 20).unwrap();
    let mut moved = guest.moved(|state| Blk::restore(disk(&image, WRITABLE), "", state));
    moved.device.kick();
    assert_eq!(moved.get::<1>(STATUS), [OK]);
}

#[test]
fn what_is_reported_is_told_once_a_second_however_often_the_guest_asks() {
    let image = image();
    let (mut guest, told) = watched(&image, ErrorPolicy::default());
    image.as_file().set_len(4096).unwrap();
    for _ in 0..20 {
        assert_eq!(guest.request(VIRTIO_BLK_T_IN, 2047, &[writable(BUFFER, 512)]), IOERR);
    }
    let told = told.0.lock();
    assert!(!told.is_empty() && told.len() < 10 && told.iter().all(|failure| failure.waiting.is_none()));
}

#[test]
fn a_guest_cannot_make_its_disk_look_like_another_format_unless_it_is_said_to_be_raw() {
    let image = image();
    let (mut guest, told) = watched(&image, STOPS);
    for magic in [&b"QFI\xfb"[..], b"KDMV", b"vhdxfile", b"LUKS\xba\xbe"] {
        guest.put(BUFFER, magic);
        guest.put(BUFFER + 8, &[1; 1016]);
        assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 1024)]), IOERR, "{magic:?}");
        assert!(told.0.lock().iter().all(|failure| failure.waiting.is_none()), "that helps nobody");
        // In pieces it is the same.
        assert_eq!(
            guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 3), readable(BUFFER + 3, 509)]),
            IOERR
        );
        // Elsewhere it means nothing.
        assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 1, &[readable(BUFFER, 512)]), OK);
    }
    guest.put(BUFFER, b"plain...");
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 2048)]), OK);
    let mut bytes = [0; 1024];
    image.as_file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!((&bytes[..8], bytes[1023]), (&b"plain..."[..], 1), "the whole of it was written");

    let raw = Disk::open(image.path(), DiskOptions { surely_raw: true, ..WRITABLE }).unwrap();
    let mut guest = started(Blk::new(raw, "").unwrap());
    guest.put(BUFFER, b"QFI\xfb");
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 512)]), OK);
    for options in [WRITABLE, READ_ONLY] {
        let refused = Disk::open(image.path(), options);
        assert!(matches!(refused, Err(DiskError::Format { format: "qcow2", .. })), "{refused:?}");
        Disk::open(image.path(), DiskOptions { surely_raw: true, ..options }).unwrap();
    }
}

#[test]
fn a_beginning_is_looked_at_on_disks_past_the_page_cache_too() {
    let image = image();
    let Ok(disk) = Disk::open(image.path(), DIRECT) else {
        eprintln!("SKIPPED: no direct I/O here");
        return;
    };
    let block = disk.block_bytes();
    let mut guest = started(Blk::new(disk, "").unwrap());
    guest.put(BUFFER, b"QFI\xfb");
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, block)]), IOERR);
    guest.put(BUFFER, b"none");
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 2 * block)]), OK);
    let mut bytes = [0; 4];
    image.as_file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"none");
    image.as_file().write_all_at(b"KDMV", 0).unwrap();
    assert!(matches!(Disk::open(image.path(), DIRECT), Err(DiskError::Format { .. })));
}
