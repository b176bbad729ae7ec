//! What guests can do on a whole machine: boot, reach their devices, be refused.

use config::{Config, RawConfig};
use vm_memory::{Bytes as _, GuestAddress};

use super::{
    tests::{Bench, wait_for},
    *,
};
use crate::{
    events::MachineEvent,
    testing::{self, PATIENCE, guest},
};

/// A bzImage (Linux, Documentation/arch/x86/boot.rst) whose 64-bit entry is `code`.
fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024 + 512];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x202, b"HdrS");
    put(0x206, &0x020fu16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x236, &1u16.to_le_bytes());
    put(0x238, &2047u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x10_0000u32.to_le_bytes());
    image.extend(code);
    image
}

fn error_of(yaml: &str) -> String {
    let config = Config::new(RawConfig::from_yaml(yaml, "test").unwrap()).unwrap();
    Machine::boot(&config, Events::channel().0).unwrap_err().to_string()
}

#[test]
fn a_bzimage_starts_in_long_mode_with_its_zero_page() {
    if !testing::kvm_is_usable("a_bzimage_starts_in_long_mode_with_its_zero_page") {
        return;
    }
    // mov dx,0x3f8; mov al,[rsi+0x1e8] (rows of the memory map); out dx,al; mov rbx,[rsi+0x218] as edi (initrd);
    // mov edi,[rsi+0x218]; mov al,[rdi]; out dx,al; mov edi,[rsi+0x228] (command line); mov al,[rdi]; out dx,al; hlt
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0x8a, 0x86, 0xe8, 0x01, 0, 0, 0xee, 0x8b, 0xbe, 0x18, 0x02, 0, 0, 0x8a, 0x07,
        0xee, 0x8b, 0xbe, 0x28, 0x02, 0, 0, 0x8a, 0x07, 0xee, 0xf4,
    ];
    let directory = tempfile::tempdir().unwrap();
    let initrd = directory.path().join("initrd");
    std::fs::write(&initrd, "Initrd").unwrap();
    let bench =
        Bench::with_kernel(&bzimage(&code), &format!("initrd: {}\ncmdline: Command", initrd.display()));
    let (machine, _events) = bench.boot();
    machine.resume();
    assert_eq!(wait_for(&bench.serial(), |written| written.len() >= 3), [4, b'I', b'C']);
}

#[test]
fn a_kernel_that_cannot_boot_is_refused_with_its_reason() {
    if !testing::kvm_is_usable("a_kernel_that_cannot_boot_is_refused_with_its_reason") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.display().to_string()
    };
    let good = std::fs::read(guest(&[0xf4]).path()).unwrap();
    let mut no_note = good.clone();
    no_note[64] = 6;
    let mut far = good.clone();
    far[64 + 56 + 24..][..8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    let mut huge = bzimage(&[0xf4]);
    huge[0x260..0x264].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let mut only_32_bit = bzimage(&[0xf4]);
    only_32_bit[0x236] = 0;
    for (name, contents, reason) in [
        ("empty", &[][..], "neither a PVH ELF kernel nor a bzImage"),
        ("text", b"#!/bin/sh\n", "neither a PVH ELF kernel nor a bzImage"),
        ("cut", &good[..100], "cannot be loaded"),
        ("no-note", &no_note, "no PVH entry"),
        ("far", &far, "cannot be loaded into 64 MiB"),
        ("huge", &huge, "cannot be loaded into 64 MiB"),
        ("only-32-bit", &only_32_bit, "no 64-bit entry"),
        ("cut-bzimage", &bzimage(&[])[..700], "cannot be loaded"),
    ] {
        let error = error_of(&format!("kernel: {}\nmemory: 64M\nserial: none", file(name, contents)));
        assert!(error.contains(reason) && error.contains(name), "{name}: {error}");
    }
    let kernel = file("good", &good);
    let large = file("large", &[]);
    std::fs::File::options().write(true).open(&large).unwrap().set_len(80 << 20).unwrap();
    for (more, reason) in [
        ("initrd: /does/not/exist".to_owned(), "Cannot read the initrd '/does/not/exist'"),
        (format!("initrd: {large}"), "does not fit above the kernel in 64 MiB"),
    ] {
        let error = error_of(&format!("kernel: {kernel}\nmemory: 64M\nserial: none\n{more}"));
        assert!(error.contains(reason), "{error}");
    }
    let mut short = bzimage(&[0xf4]);
    short[0x238] = 255;
    short[0x239] = 0;
    let short = file("short", &short);
    let error = error_of(&format!("kernel: {short}\nserial: none\ncmdline: {}", "x".repeat(500)));
    assert!(error.contains("this kernel takes 255"), "{error}");
    assert!(error_of("kernel: /does/not/exist\nserial: none").contains("Cannot read the kernel"));
    assert!(error_of(&format!("kernel: {kernel}\nmemory: 8T\nserial: none")).contains("this host has"));
    assert!(
        error_of(&format!("kernel: {kernel}\nserial: none\ndisks:\n - path: /does/not/exist"))
            .contains("/does/not/exist")
    );
}

#[test]
fn the_power_button_reaches_the_guest_which_switches_itself_off() {
    if !testing::kvm_is_usable("the_power_button_reaches_the_guest_which_switches_itself_off") {
        return;
    }
    // mov dx,0x600; again: in eax,dx; test eax,eax; jz again; mov dx,0x3f8; out dx,al;
    // mov dx,0x604; mov al,5<<2|0x20; out dx,al; hlt
    let code = [
        0x66, 0xba, 0x00, 0x06, 0xed, 0x85, 0xc0, 0x74, 0xfb, 0x66, 0xba, 0xf8, 0x03, 0xee, 0x66, 0xba, 0x04,
        0x06, 0xb0, 0x34, 0xee, 0xf4,
    ];
    let bench = Bench::new(&code, "");
    let (machine, events) = bench.boot();
    machine.resume();
    machine.power_button();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(MachineEvent::PowerOff));
    assert_eq!(wait_for(&bench.serial(), |written| !written.is_empty()), [1]);
}

#[test]
fn a_guest_that_jumps_to_the_reset_vector_asks_for_a_reset() {
    if !testing::kvm_is_usable("a_guest_that_jumps_to_the_reset_vector_asks_for_a_reset") {
        return;
    }
    // mov eax,0xffff0; jmp eax. What is there means the same in 32-bit code as in real mode.
    let bench = Bench::new(&[0xb8, 0xf0, 0xff, 0x0f, 0x00, 0xff, 0xe0], "");
    let (machine, events) = bench.boot();
    machine.resume();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(MachineEvent::Reset));
}

#[test]
fn what_the_guest_asked_for_before_it_moved_is_asked_again_where_it_arrives() {
    if !testing::kvm_is_usable("what_the_guest_asked_for_before_it_moved_is_asked_again_where_it_arrives") {
        return;
    }
    // again: mov al,0xfe; out 0x64,al; jmp again
    let bench = Bench::new(&[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfa], "");
    let (machine, events) = bench.boot();
    machine.resume();
    assert_eq!(events.recv_timeout(PATIENCE), Ok(MachineEvent::Reset));
    machine.pause().unwrap();
    assert!(events.try_recv().is_err(), "a request is made once");
    let (_moved, events) = bench.moved(&machine);
    assert_eq!(events.try_recv(), Ok(MachineEvent::Reset));
}

#[test]
fn string_instructions_memory_mapped_registers_and_empty_ports_work() {
    if !testing::kvm_is_usable("string_instructions_memory_mapped_registers_and_empty_ports_work") {
        return;
    }
    // mov dx,0x3f8; mov esi,0xfeb00000; mov eax,[esi]; mov [0x2000000],eax; in al,0x10; mov [0x2000004],al;
    // mov esi,0x2000000; mov ecx,5; rep outsb; hlt
    let code = [
        0x66, 0xba, 0xf8, 0x03, 0xbe, 0, 0, 0xb0, 0xfe, 0x8b, 0x06, 0xa3, 0, 0, 0, 2, 0xe4, 0x10, 0xa2, 4, 0,
        0, 2, 0xbe, 0, 0, 0, 2, 0xb9, 5, 0, 0, 0, 0xf3, 0x6e, 0xf4,
    ];
    let bench = Bench::new(&code, "");
    let (machine, _events) = bench.boot();
    machine.resume();
    assert_eq!(wait_for(&bench.serial(), |written| written.len() >= 5), b"virt\xff");
}

#[test]
fn the_locks_of_disks_go_over_with_the_machine() {
    if !testing::kvm_is_usable("the_locks_of_disks_go_over_with_the_machine") {
        return;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let bench = Bench::new(&[0xf4], &format!("disks:\n - path: {}", image.path().display()));
    let (source, _events) = bench.boot();
    let (destination, _events) = bench.moved(&source);
    let error = destination.lock_disks().unwrap_err().to_string();
    assert!(error.contains("in use by another virtual machine"), "{error}");
    source.unlock_disks().unwrap();
    destination.lock_disks().unwrap();
    assert!(source.lock_disks().is_err());
    drop(destination);
    source.lock_disks().unwrap();
}

#[test]
fn every_vcpu_has_its_own_id_and_the_tables_name_them_all() {
    if !testing::kvm_is_usable("every_vcpu_has_its_own_id_and_the_tables_name_them_all") {
        return;
    }
    let bench = Bench::new(&[0xf4], "cpus: 64\nmemory: 64M");
    let (machine, _events) = bench.boot();
    assert_eq!(machine.description().cpus, 64);
    let states = machine.save().unwrap();
    assert_eq!(states.iter().filter(|state| state.kind == "x86-vcpu").count(), 64);
    let mut signature = [0; 8];
    machine.ram().memory().read_slice(&mut signature, GuestAddress(0xe_0000)).unwrap();
    assert_eq!(&signature, b"RSD PTR ");
}
