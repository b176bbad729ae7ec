//! Core files of machines.

use std::{fs, path::Path};

use monitor::types::RunState;
use object::{
    LittleEndian,
    elf::{self, FileHeader64},
    read::elf::{FileHeader as _, ProgramHeader as _},
};
use serde_json::{Value, json};

use crate::harness::{Lab, Spec, Story};

type Header = FileHeader64<LittleEndian>;

/// What stands in a core file.
pub(crate) struct Core {
    /// Physical addresses, and what is there.
    pub(crate) memory: Vec<(u64, Vec<u8>)>,
    /// Owners and kinds of the notes.
    pub(crate) notes: Vec<(String, u32)>,
}

impl Core {
    pub(crate) fn read(path: &Path) -> Self {
        let data = fs::read(path).unwrap();
        let header = Header::parse(&*data).unwrap();
        let endian = header.endian().unwrap();
        assert_eq!((header.e_type.get(endian), header.e_machine.get(endian)), (elf::ET_CORE, elf::EM_X86_64));
        let (mut memory, mut notes) = (Vec::new(), Vec::new());
        for segment in header.program_headers(endian, &*data).unwrap() {
            if segment.p_type(endian) == elf::PT_LOAD {
                memory.push((segment.p_paddr(endian), segment.data(endian, &*data).unwrap().to_vec()));
            }
            let mut all = segment.notes(endian, &*data).unwrap().into_iter().flatten();
            while let Some(note) = all.by_ref().next().transpose().unwrap() {
                notes.push((String::from_utf8(note.name().to_vec()).unwrap(), note.n_type(endian)));
            }
        }
        Self { memory, notes }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.iter().map(|(_, contents)| contents.len() as u64).sum()
    }

    /// What is at a physical address.
    fn at(&self, address: u64, bytes: usize) -> &[u8] {
        let (start, contents) = self
            .memory
            .iter()
            .find(|(start, contents)| (*start..start + contents.len() as u64).contains(&address))
            .unwrap();
        &contents[(address - start) as usize..][..bytes]
    }
}

pub(crate) fn dump_to(path: &Path) -> Value {
    json!({ "paging": false, "protocol": format!("file:{}", path.display()) })
}

#[test]
fn a_core_file_has_all_memory_and_every_vcpu_and_the_guest_runs_on() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::new("work=16M rate=20M").memory_mib(64).cpus(2));
    let story = Story::of(&vmm);
    story.filled();
    let (path, events) = (lab.path("core"), vmm.events());
    vmm.command("dump-guest-memory", dump_to(&path));
    let ended = std::iter::from_fn(|| events.next(crate::harness::PATIENCE));
    let ended = ended.into_iter().find(|event| event.event == "DUMP_COMPLETED").unwrap().data.unwrap();
    assert_eq!((&ended["result"]["status"], ended.get("error")), (&json!("completed"), None), "{ended}");
    let core = Core::read(&path);
    assert_eq!(core.bytes(), 64 << 20);
    let [prstatus, qemu] = [("CORE".to_owned(), elf::NT_PRSTATUS), ("QEMU".to_owned(), 0)];
    assert_eq!(core.notes, [prstatus.clone(), qemu.clone(), prstatus, qemu]);
    // The guest's first instructions are where its image says.
    let image = fs::read(lab.kernel()).unwrap();
    let header = Header::parse(&*image).unwrap();
    let segments = header.program_headers(LittleEndian, &*image).unwrap();
    let code = segments.iter().find(|segment| segment.p_flags(LittleEndian) & elf::PF_X != 0).unwrap();
    let contents = &code.data(LittleEndian, &*image).unwrap()[..256];
    assert_eq!(core.at(code.p_paddr(LittleEndian), contents.len()), contents);

    assert_eq!(vmm.run_state(), RunState::Running);
    story.goes_on(2);
    story.assert_intact();
}

#[test]
fn a_dump_that_cannot_be_written_is_refused_and_the_machine_is_as_it_was() {
    let Some(lab) = Lab::new() else { return };
    let vmm = lab.boot(&Spec::calm());
    let story = Story::of(&vmm);
    story.filled();
    let there = lab.file("there", b"somebody's");
    assert!(vmm.refused("dump-guest-memory", dump_to(&there)).contains("File exists"));
    assert_eq!(fs::read(&there).unwrap(), b"somebody's");
    let nowhere = lab.path("no/such/place");
    let why = vmm.refused("dump-guest-memory", dump_to(&nowhere));
    assert!(why.contains(nowhere.to_str().unwrap()) && why.contains("No such file"), "{why}");
    assert_eq!(vmm.command("query-dump", Value::Null)["status"], "failed");
    assert_eq!(vmm.run_state(), RunState::Running);
    story.goes_on(1);
    vmm.command("stop", json!({}));
    vmm.command("dump-guest-memory", dump_to(&lab.path("core")));
    assert_eq!(vmm.run_state(), RunState::Paused);
}
