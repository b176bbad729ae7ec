use std::process;

use super::*;

/// What stands for a kernel.
fn kernel(mark: u8) -> Vec<u8> {
    let mut bytes = vec![mark; 3 << 20];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes
}

/// A disk with a file system that has these files; `None` where it cannot be made here.
fn disk(folder: &Path, files: &[(&str, &[u8])]) -> Option<PathBuf> {
    let (root, image) = (folder.join("root"), folder.join("disk.raw"));
    for (path, bytes) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let mke2fs = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].into_iter().find(|path| Path::new(path).exists());
    let Some(mke2fs) = mke2fs else {
        eprintln!("SKIPPED: THERE IS NO mke2fs");
        return None;
    };
    let made = process::Command::new(mke2fs)
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&root)
        .arg(&image)
        .arg("32M")
        .status();
    assert!(made.unwrap().success());
    Some(image)
}

const FILES: &[(&str, &[u8])] = &[("etc/hostname", b"x"), ("boot/initrd.img-6.1.0-32-amd64", b"ramdisk")];

fn with<'a>(kernel: &'a [u8], name: &'a str) -> Vec<(&'a str, &'a [u8])> {
    [FILES, &[(name, kernel)]].concat()
}

fn asked(disk: &Path) -> Arguments {
    let command =
        Command::Kernel(Kernel { disk: disk.to_owned(), release: None, kernel: None, initrd: None });
    Arguments { command }
}

#[test]
fn kernel_and_initial_disk_are_written_beside_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (kernel(1), kernel(2));
    let mut files = with(&new, "boot/vmlinuz-6.1.0-32-amd64");
    files.push(("boot/vmlinuz-6.1.0-9-amd64", &old));
    let Some(disk) = disk(folder.path(), &files) else { return };
    run(&asked(&disk)).unwrap();
    assert_eq!(fs::read(disk.with_extension("vmlinuz")).unwrap(), new);
    assert_eq!(fs::read(disk.with_extension("initrd")).unwrap(), b"ramdisk");
    assert_eq!(find(&disk, Some("6.1.0-9-amd64")).unwrap().release.initrd, None);
    let missing = find(&disk, Some("5")).err().unwrap().to_string();
    assert!(missing.contains("6.1.0-32-amd64, 6.1.0-9-amd64"), "{missing}");
}

#[test]
fn a_partition_is_found_whichever_table_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let new = kernel(2);
    let Some(alone) = disk(folder.path(), &with(&new, "boot/vmlinuz-6.1.0-32-amd64")) else { return };
    let files = fs::read(&alone).unwrap();
    let (first, sectors) = (2048_u32, u32::try_from(files.len() / 512).unwrap());
    let partitioned = |table: &dyn Fn(&mut Vec<u8>)| {
        let mut disk = vec![0; 2048 * 512];
        table(&mut disk);
        disk.extend(&files);
        let path = folder.path().join("partitioned.raw");
        fs::write(&path, disk).unwrap();
        find(&path, None)
    };
    let mbr = partitioned(&|disk| {
        disk[446 + 16 + 4] = 0x83;
        disk[446 + 16 + 8..446 + 16 + 12].copy_from_slice(&first.to_le_bytes());
        disk[446 + 16 + 12..446 + 32].copy_from_slice(&sectors.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    });
    assert_eq!(mbr.unwrap().partition.number, Some(2));
    let gpt = |count: u32, size: u32, entries: u64, last: u64| {
        partitioned(&move |disk| {
            disk[512..520].copy_from_slice(b"EFI PART");
            disk[584..592].copy_from_slice(&entries.to_le_bytes());
            disk[592..596].copy_from_slice(&count.to_le_bytes());
            disk[596..600].copy_from_slice(&size.to_le_bytes());
            disk[1024 + 128] = 1;
            disk[1024 + 160..1024 + 168].copy_from_slice(&u64::from(first).to_le_bytes());
            disk[1024 + 168..1024 + 176].copy_from_slice(&last.to_le_bytes());
        })
    };
    let last = u64::from(first + sectors - 1);
    assert_eq!(gpt(128, 128, 2, last).unwrap().partition.number, Some(2));
    // What a table says is not believed further than the disk goes.
    for (count, size, entries, last) in [
        (u32::MAX, 128, 2, u64::MAX - 1),
        (128, 1, 2, last),
        (128, u32::MAX, 2, last),
        (128, 128, u64::MAX, last),
        (128, 128, 2, 0),
        (0, 128, 2, last),
    ] {
        assert!(matches!(gpt(count, size, entries, last), Err(ImageError::NoFileSystem { .. })));
    }
}

#[test]
fn what_is_no_image_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let said = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        find(&path, None).err().unwrap().to_string()
    };
    assert!(said(b"").contains("no ext4 file system"));
    assert!(said(&[7; 4096]).contains("no ext4 file system"));
    assert!(said(b"QFI\xfb\0\0\0\x03").contains("qcow2"));
    assert!(find(Path::new("/no/such/disk"), None).is_err());
    assert!(find(folder.path(), None).is_err());
    let mut magic = vec![0; 64 << 10];
    magic[1080..1082].copy_from_slice(&[0x53, 0xef]);
    assert!(said(&magic).contains("damaged"));
}

#[test]
fn a_damaged_file_system_is_an_error_and_no_file_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let not = vec![1; 2 << 20];
    let Some(disk) = disk(folder.path(), &with(&not, "boot/vmlinuz-6.1.0-32-amd64")) else { return };
    assert!(run(&asked(&disk)).unwrap_err().to_string().contains("no Linux kernel"));
    // Wherever it is cut or overwritten, there is an end.
    let whole = fs::read(&disk).unwrap();
    for step in 0..64 {
        let mut damaged = whole.clone();
        let at = 1024 + step * 4096;
        damaged[at..at + 4096].fill(0xa5);
        fs::write(&disk, &damaged).unwrap();
        let _ = run(&asked(&disk)).map(drop);
        fs::write(&disk, &whole[..whole.len() * step / 64]).unwrap();
        let _ = run(&asked(&disk)).map(drop);
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
