//! Image formats that begin with a word of their own: a file in one of them is no raw disk.

/// What a guest wrote to the start of its disk would make the image look like one of another format.
#[derive(Debug, thiserror::Error)]
#[error(
    "the guest wrote the beginning of a {0} image to the start of its disk, which only format=raw permits"
)]
pub(super) struct Disguise(pub(super) &'static str);

/// Bytes at the start of an image that tell its format.
pub(super) const HEAD_BYTES: usize = 512;

/// A word, where it stands, and whose it is.
const MAGICS: [(usize, &[u8], &str); 12] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"Bochs Virtual HD Image", "Bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
];

/// The format that an image which begins with `head` seems to have, if it is not raw.
pub(super) fn told_by(head: &[u8]) -> Option<&'static str> {
    let stands = |(at, magic): (usize, &[u8])| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let told = MAGICS.into_iter().find(|(at, magic, _)| stands((*at, magic))).map(|(_, _, name)| name);
    told.or_else(|| is_descriptor(head).then_some("VMDK"))
}

/// Whether this is the text that describes a VMDK image and names the files it is in. Programs that look at images find it by its first line
/// that is neither empty nor a comment, so the word in its usual first comment is not what tells it.
fn is_descriptor(head: &[u8]) -> bool {
    const USUAL: &[u8] = b"# Disk DescriptorFile";
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
    head.starts_with(USUAL) || first.is_some_and(|line| line.starts_with(b"version="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes_and_disks_are_not() {
        let mut vdi = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec();
        vdi.resize(0x40, 0);
        vdi.extend(0xbeda_107f_u32.to_le_bytes());
        for (head, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], Some("qcow2")),
            (b"KDMV\x01", Some("VMDK")),
            (b"# Disk DescriptorFile\nversion=1", Some("VMDK")),
            (b"# no such word\r\n  \r\n\nversion=3\r\nextent", Some("VMDK")),
            (b"version=1\n", Some("VMDK")),
            (b"# a script\necho version=1\n", None),
            (b"#!/bin/sh\n", None),
            (b"vhdxfileQ", Some("VHDX")),
            (b"LUKS\xba\xbe\0\x02", Some("LUKS")),
            (&vdi, Some("VDI")),
            (b"", None),
            (b"QFI", None),
            (&[0; HEAD_BYTES], None),
            (b"\xeb\x63\x90\x10", None),
        ] {
            assert_eq!(told_by(head), format, "{head:?}");
        }
    }
}
