use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use proptest::prelude::*;
use tempfile::{NamedTempFile, TempDir};
use virtio_bindings::{virtio_blk::*, virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET};

use super::{Blk, BlkV1, Disk, DiskError, DiskOptions, ErrorPolicy, OnError};
use crate::{
    IoDevice, fixtures,
    virtio::{
        RestoreError, VirtioDevice, feature,
        hostile::{endure, hostilities},
        testing::{DATA, Desc, Guest, readable, take_dirty, writable},
    },
};

pub(super) const OK: u8 = VIRTIO_BLK_S_OK as u8;
pub(super) const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

const IMAGE_BYTES: u64 = 1 << 20;
pub(super) const HEADER: u64 = DATA;
pub(super) const STATUS: u64 = DATA + 0x100;
pub(super) const BUFFER: u64 = DATA + 0x1000;

const ERRORS: ErrorPolicy = ErrorPolicy { write: OnError::StopAtNoSpace, read: OnError::Report };
pub(super) const WRITABLE: DiskOptions =
    DiskOptions { read_only: false, direct: false, surely_raw: false, errors: ERRORS };
pub(super) const READ_ONLY: DiskOptions = DiskOptions { read_only: true, ..WRITABLE };
pub(super) const DIRECT: DiskOptions = DiskOptions { direct: true, ..WRITABLE };

/// An image in which every sector begins with its number.
pub(super) fn image() -> NamedTempFile {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(IMAGE_BYTES).unwrap();
    for sector in 0..IMAGE_BYTES / 512 {
        image.as_file().write_all_at(&sector.to_le_bytes(), sector * 512).unwrap();
    }
    image
}

pub(super) fn disk(image: &NamedTempFile, options: DiskOptions) -> Disk {
    Disk::open(image.path(), options).unwrap()
}

fn blk(image: &NamedTempFile) -> Blk {
    Blk::new(disk(image, WRITABLE), "serial-1").unwrap()
}

/// A machine whose driver accepted every feature.
pub(super) fn started(device: Blk) -> Guest<Blk> {
    let features = device.features();
    Guest::started(device, features)
}

impl Guest<Blk> {
    /// Puts the header of a request into memory; returns its descriptor.
    pub(super) fn header(&self, kind: u32, sector: u64) -> Desc {
        self.put(HEADER, &kind.to_le_bytes());
        self.put(HEADER + 4, &[0; 4]);
        self.put(HEADER + 8, &sector.to_le_bytes());
        readable(HEADER, 16)
    }

    /// Does one request; returns its status.
    pub(super) fn request(&mut self, kind: u32, sector: u64, data: &[Desc]) -> u8 {
        let header = self.header(kind, sector);
        self.put(STATUS, &[0xff]);
        let chain = [&[header], data, &[writable(STATUS, 1)]].concat();
        let head = self.submit(0, &chain);
        let filled: u32 = data.iter().filter(|desc| desc.flags != 0).map(|desc| desc.bytes).sum();
        assert_eq!(self.used(0), Some((head, filled + 1)));
        self.get::<1>(STATUS)[0]
    }

    /// A request about one range of sectors.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        self.put(BUFFER, &sector.to_le_bytes());
        self.put(BUFFER + 8, &sectors.to_le_bytes());
        self.put(BUFFER + 12, &flags.to_le_bytes());
        self.request(kind, 0, &[readable(BUFFER, 16)])
    }
}

fn sector(image: &NamedTempFile, sector: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    image.as_file().read_exact_at(&mut bytes, sector * 512).unwrap();
    bytes
}

#[test]
fn the_guest_reads_the_image_into_buffers_of_any_shape() {
    let image = image();
    let mut guest = started(blk(&image));
    let data = [writable(BUFFER + 3, 100), writable(BUFFER + 0x2001, 411), writable(BUFFER + 0x5000, 513)];
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 7, &data), OK);
    assert_eq!(guest.get::<8>(BUFFER + 3), 7_u64.to_le_bytes());
    // The first sector ends with the first byte of the third buffer.
    let (before, after) = (guest.get::<1>(BUFFER + 0x5000), guest.get::<8>(BUFFER + 0x5001));
    assert_eq!((before, after), ([0], 8_u64.to_le_bytes()));
}

#[test]
fn pages_that_a_read_fills_are_marked_dirty_and_others_are_not() {
    let image = image();
    let mut guest = started(blk(&image));
    take_dirty(&guest.memory, 0);
    guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 4096)]);
    assert!(take_dirty(&guest.memory, BUFFER));
    guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 4096)]);
    assert!(!take_dirty(&guest.memory, BUFFER + 0x1000));
    guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 4096)]);
    assert!(!take_dirty(&guest.memory, BUFFER));
}

#[test]
fn the_guest_writes_the_image_from_buffers_of_any_shape() {
    let image = image();
    let mut guest = started(blk(&image));
    guest.put(BUFFER + 5, &[0xaa; 1000]);
    guest.put(BUFFER + 0x4000, &[0xbb; 24]);
    let data = [readable(BUFFER + 5, 1000), readable(BUFFER + 0x4000, 24)];
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 3, &data), OK);
    assert_eq!(sector(&image, 3), [0xaa; 512]);
    assert_eq!(sector(&image, 4)[487..], [[0xaa].as_slice(), &[0xbb; 24]].concat());
    assert_eq!(sector(&image, 5)[..8], 5_u64.to_le_bytes());
}

#[test]
fn a_guest_without_flush_gets_its_data_back_all_the_same() {
    let image = image();
    let mut guest = Guest::started(blk(&image), 0);
    guest.put(BUFFER, &[0xcc; 512]);
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 512)]), OK);
    assert_eq!(sector(&image, 0), [0xcc; 512]);
}

#[test]
fn flush_and_identity_are_answered() {
    let image = image();
    let mut guest = started(blk(&image));
    assert_eq!(guest.request(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(guest.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(BUFFER, 20)]), OK);
    assert_eq!(&guest.get::<20>(BUFFER), b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
    guest.device.with(|blk| blk.flusher()).flush().unwrap();
}

#[test]
fn what_is_not_on_the_disk_is_an_error_of_the_request_alone() {
    let image = image();
    let mut guest = started(blk(&image));
    let last = IMAGE_BYTES / 512;
    for sector in [last, last - 1, u64::MAX, u64::MAX / 512] {
        assert_eq!(guest.request(VIRTIO_BLK_T_IN, sector, &[writable(BUFFER, 1024)]), IOERR, "{sector}");
    }
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 100)]), IOERR);
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, last, &[readable(BUFFER, 512)]), IOERR);
    assert_eq!(guest.request(77, 0, &[]), UNSUPP);
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 512)]), OK);
}

#[test]
fn an_image_that_shrinks_is_an_error_of_the_request() {
    let image = image();
    let mut guest = started(blk(&image));
    image.as_file().set_len(512).unwrap();
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 8, &[writable(BUFFER, 512)]), IOERR);
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 512)]), OK);
}

#[test]
fn a_read_only_disk_is_never_written() {
    let image = image();
    let device = Blk::new(disk(&image, READ_ONLY), "").unwrap();
    assert_ne!(device.features() & feature(VIRTIO_BLK_F_RO), 0);
    assert_eq!(device.features() & feature(VIRTIO_BLK_F_DISCARD), 0);
    let mut guest = started(device);
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 512)]), IOERR);
    assert_eq!(guest.range(VIRTIO_BLK_T_DISCARD, 0, 8, 0), IOERR);
    assert_eq!(guest.range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0), IOERR);
    assert_eq!(guest.request(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(sector(&image, 7)[..8], 7_u64.to_le_bytes());
}

#[test]
fn zeroes_and_discards_empty_their_range_and_nothing_else() {
    for (kind, flags) in
        [(VIRTIO_BLK_T_WRITE_ZEROES, 0), (VIRTIO_BLK_T_WRITE_ZEROES, 1), (VIRTIO_BLK_T_DISCARD, 0)]
    {
        let image = image();
        let mut guest = started(blk(&image));
        assert_eq!(guest.range(kind, 8, 16, flags), OK);
        for number in 8..24 {
            assert_eq!(sector(&image, number), [0; 512], "kind {kind}, flags {flags}, sector {number}");
        }
        assert_eq!(sector(&image, 7)[..8], 7_u64.to_le_bytes());
        assert_eq!(sector(&image, 24)[..8], 24_u64.to_le_bytes());
        assert_eq!(image.as_file().metadata().unwrap().len(), IMAGE_BYTES);
    }
}

#[test]
fn a_discard_frees_space_of_the_host() {
    let image = image();
    let before = image.as_file().metadata().unwrap().blocks();
    let mut guest = started(blk(&image));
    assert_eq!(guest.range(VIRTIO_BLK_T_DISCARD, 0, (IMAGE_BYTES / 512) as u32, 0), OK);
    assert!(image.as_file().metadata().unwrap().blocks() < before / 2);
}

#[test]
fn malformed_ranges_are_refused() {
    let image = image();
    let mut guest = started(blk(&image));
    assert_eq!(guest.range(VIRTIO_BLK_T_DISCARD, 0, 8, 1), UNSUPP);
    assert_eq!(guest.range(VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), UNSUPP);
    assert_eq!(guest.range(VIRTIO_BLK_T_WRITE_ZEROES, 0, u32::MAX, 0), IOERR);
    assert_eq!(guest.range(VIRTIO_BLK_T_WRITE_ZEROES, u64::MAX, 8, 0), IOERR);
    assert_eq!(guest.request(VIRTIO_BLK_T_DISCARD, 0, &[readable(BUFFER, 32)]), IOERR);
    assert_eq!(guest.request(VIRTIO_BLK_T_DISCARD, 0, &[]), IOERR);
    assert_eq!(guest.range(VIRTIO_BLK_T_DISCARD, 0, 0, 0), OK);
}

#[test]
fn a_request_that_cannot_be_answered_stops_the_device() {
    let image = image();
    for chain in [vec![readable(HEADER, 16)], vec![readable(HEADER, 15), writable(STATUS, 1)]] {
        let mut guest = started(blk(&image));
        guest.submit(0, &chain);
        assert_ne!(guest.status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    }
}

#[test]
fn the_configuration_tells_capacity_and_block_size() {
    let image = image();
    let mut guest = started(blk(&image));
    assert_eq!(guest.config::<8>(0), (IMAGE_BYTES / 512).to_le_bytes());
    assert_eq!(guest.config::<4>(20), 512_u32.to_le_bytes());
    assert_eq!(guest.config::<4>(56), [1, 0, 0, 0]);
    assert_eq!(guest.config::<8>(0x1000), [0; 8]);
}

/// O_DIRECT is for the file systems that have it.
fn direct(image: &NamedTempFile) -> Option<Disk> {
    match Disk::open(image.path(), DIRECT) {
        Err(DiskError::NoDirect { path }) => {
            eprintln!("SKIPPED: no direct I/O on the file system of {}", path.display());
            None
        }
        disk => Some(disk.unwrap()),
    }
}

#[test]
fn direct_io_works_with_buffers_that_are_aligned_or_not() {
    let image = image();
    let Some(disk) = direct(&image) else { return };
    let block = disk.block_bytes();
    let mut guest = started(Blk::new(disk, "").unwrap());
    assert_eq!(guest.config::<4>(20), block.to_le_bytes());
    let bytes = 8192;
    for offset in [0, 1, 511, 513] {
        assert_eq!(guest.request(VIRTIO_BLK_T_IN, 16, &[writable(BUFFER + offset, bytes)]), OK);
        assert_eq!(guest.get::<8>(BUFFER + offset + 512), 17_u64.to_le_bytes(), "offset {offset}");
        guest.put(BUFFER + offset, &vec![offset as u8; bytes as usize]);
        assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 64, &[readable(BUFFER + offset, bytes)]), OK);
        assert_eq!(sector(&image, 79), [offset as u8; 512], "offset {offset}");
    }
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 100)]), IOERR);
}

#[test]
fn a_request_queued_on_the_disk_moves_with_the_machine() {
    let image = image();
    let mut guest = started(blk(&image));
    guest.put(BUFFER, &[0xdd; 512]);
    let header = guest.header(VIRTIO_BLK_T_OUT, 5);
    let head = guest.offer(0, &[header, readable(BUFFER, 512), writable(STATUS, 1)]);
    // The notification is taken by nobody: the I/O thread is parked.
    guest.device.queue_events()[0].write(1).unwrap();
    let mut moved = guest.moved(|state| Blk::restore(disk(&image, WRITABLE), "serial-1", state));
    assert_eq!(moved.used(0), Some((head, 1)));
    assert_eq!(sector(&image, 5), [0xdd; 512]);
    assert_eq!(moved.request(VIRTIO_BLK_T_IN, 5, &[writable(BUFFER, 512)]), OK);
}

#[test]
fn the_released_v1_state_goes_on() {
    let image = image();
    let mut guest = started(blk(&image));
    guest.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 512)]);
    let header = guest.header(VIRTIO_BLK_T_FLUSH, 0);
    let head = guest.offer(0, &[header, writable(STATUS, 1)]);
    let released = fixtures::released("virtio-blk-v1", &guest.save());
    let restore = |state: &BlkV1| Blk::restore(disk(&image, WRITABLE), "serial-1", state);
    let mut moved = guest.restored(&released, restore).unwrap();
    moved.device.kick();
    assert_eq!(moved.used(0), Some((head, 1)));
}

#[test]
fn another_disk_than_the_guest_knows_is_refused() {
    let image = image();
    let guest = started(blk(&image));
    let state = guest.save();
    let refused =
        |disk: Disk, serial: &str| match guest.restored(&state, |state| Blk::restore(disk, serial, state)) {
            Err(RestoreError::State(error)) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("accepted"),
        };
    assert!(refused(disk(&image, READ_ONLY), "serial-1").contains("read-only"));
    assert!(refused(disk(&image, WRITABLE), "serial-2").contains("serial-2"));
    image.as_file().set_len(IMAGE_BYTES * 2).unwrap();
    assert!(refused(disk(&image, WRITABLE), "serial-1").contains("2048 sectors on the source and 4096 here"));
}

#[test]
fn what_is_no_disk_is_refused_with_advice() {
    let directory = TempDir::new().unwrap();
    let odd = directory.path().join("odd");
    fs::write(&odd, [0; 513]).unwrap();
    let open = |path: &Path| Disk::open(path, READ_ONLY).unwrap_err();
    assert!(open(&odd).to_string().contains("truncate -s %512"));
    fs::write(&odd, []).unwrap();
    assert!(open(&odd).to_string().contains("has 0 bytes"));
    assert!(matches!(open(directory.path()), DiskError::NotADisk { .. }));
    assert!(matches!(open("/dev/null".as_ref()), DiskError::NotADisk { .. }));
    // Opening it would wait for its writer.
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(open(&pipe), DiskError::NotADisk { .. }));
    assert!(open("/nowhere/image".as_ref()).to_string().contains("'/nowhere/image'"));
    let image = image();
    for serial in ["twenty-one characters", "umlaut \u{e4}", "line\n"] {
        assert!(Blk::new(disk(&image, READ_ONLY), serial).is_err(), "{serial}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_guest_breaks_it(hostilities in hostilities()) {
        let image = image();
        let restore = |state: BlkV1| Blk::restore(disk(&image, WRITABLE), "serial-1", &state).ok();
        endure(blk(&image), hostilities, restore);
        assert_eq!(File::open(image.path()).unwrap().metadata().unwrap().len(), IMAGE_BYTES);
    }
}

#[test]
fn what_a_disk_does_is_counted_by_kind_and_what_it_cannot_do_too() {
    let image = image();
    let disk = disk(&image, WRITABLE);
    let counters = disk.counters();
    let mut guest = started(Blk::new(disk, "serial-1").unwrap());
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 7, &[writable(BUFFER, 1024)]), OK);
    assert_eq!(guest.request(VIRTIO_BLK_T_OUT, 8, &[readable(BUFFER, 512)]), OK);
    assert_eq!(guest.request(VIRTIO_BLK_T_FLUSH, 0, &[]), OK);
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 1 << 40, &[writable(BUFFER, 512)]), IOERR);
    // Who it is, is no request to the image.
    assert_eq!(guest.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(BUFFER, 20)]), OK);
    assert_eq!(guest.range(VIRTIO_BLK_T_WRITE_ZEROES, 16, 4, 0), OK);
    assert_eq!(guest.range(VIRTIO_BLK_T_DISCARD, 0, 2, 0), OK);
    image.as_file().set_len(4096).unwrap();
    assert_eq!(guest.request(VIRTIO_BLK_T_IN, 100, &[writable(BUFFER, 512)]), IOERR);
    let figures = counters.figures();
    let told = |tally: super::Tally| (tally.done, tally.bytes, tally.failed, tally.invalid);
    assert_eq!(told(figures.reads), (1, 1024, 1, 1));
    assert_eq!(told(figures.writes), (2, 512 + 4 * 512, 0, 0));
    assert_eq!(told(figures.flushes), (1, 0, 0, 0));
    assert_eq!(told(figures.discards), (1, 1024, 0, 0));
    assert_eq!(figures.highest_write, 20 * 512);
    assert!(figures.reads.took > std::time::Duration::ZERO);
}
